// SPDX-License-Identifier: MIT
// native/events for JavaScript.
#include <string>

#include "../events/collector.h"
#include "parts.h"

namespace bpftime::addon {

namespace {

using events::Collector;
using events::SourceKind;
using events::SourceSpec;

Napi::Value events_add(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto object = info[0].As<Napi::Object>();
  const auto get = [&](const char* name) { return object.Get(name).UnwrapOr(env.Undefined()); };
  SourceSpec spec;
  spec.mount = get("mount").As<Napi::Number>().Int32Value();
  spec.map_id = get("mapId").As<Napi::Number>().Uint32Value();
  spec.pid = get("pid").As<Napi::Number>().Uint32Value();
  spec.map_name = get("mapName").As<Napi::String>().Utf8Value();
  const std::string kind = get("kind").As<Napi::String>().Utf8Value();
  spec.kind = kind == "log"    ? SourceKind::kLog
              : kind == "perf" ? SourceKind::kPerf
                               : SourceKind::kRing;
  const auto streams = get("streams").As<Napi::Array>();
  for (uint32_t i = 0; i < streams.Length(); ++i) {
    spec.streams.push_back(streams.Get(i).Unwrap().As<Napi::String>().Utf8Value());
  }
  const Napi::Value plan = get("plan");
  if (plan.IsBuffer()) {
    const auto bytes = plan.As<Napi::Buffer<uint8_t>>();
    spec.plan.assign(bytes.Data(), bytes.Data() + bytes.Length());
  }
  const Result<uint32_t> id = Collector::instance().add(std::move(spec));
  if (!id) {
    make_error(env, id.error()).ThrowAsJavaScriptException();
    return env.Undefined();
  }
  return Napi::Number::New(env, id.value());
}

Napi::Value events_replan(const Napi::CallbackInfo& info) {
  std::vector<uint8_t> plan;
  if (info[1].IsBuffer()) {
    const auto bytes = info[1].As<Napi::Buffer<uint8_t>>();
    plan.assign(bytes.Data(), bytes.Data() + bytes.Length());
  }
  const uint32_t id = info[0].As<Napi::Number>().Uint32Value();
  const Result<void> done = Collector::instance().replan(id, plan);
  if (!done) make_error(info.Env(), done.error()).ThrowAsJavaScriptException();
  return info.Env().Undefined();
}

Napi::Value events_remove(const Napi::CallbackInfo& info) {
  Collector::instance().remove(info[0].As<Napi::Number>().Uint32Value());
  return info.Env().Undefined();
}

}  // namespace

void init_events(Napi::Env env, Napi::Object exports) {
  exports.Set("eventsAdd", Napi::Function::New<events_add>(env));
  exports.Set("eventsReplan", Napi::Function::New<events_replan>(env));
  exports.Set("eventsRemove", Napi::Function::New<events_remove>(env));
}

}  // namespace bpftime::addon
