// SPDX-License-Identifier: MIT
// The verifier for JavaScript: bpfVerify of src/native.ts. Converts and forwards.
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "../bpf/verify_object.h"
#include "parts.h"

namespace bpftime::addon {

namespace {

Napi::Object to_js(Napi::Env env, const ProgramVerdict& verdict) {
  Napi::Object out = Napi::Object::New(env);
  const auto text = [&](const char* key, const std::string& value) {
    out.Set(key, Napi::String::New(env, value));
  };
  const auto number = [&](const char* key, uint32_t value) {
    out.Set(key, Napi::Number::New(env, value));
  };
  text("name", verdict.name);
  text("section", verdict.section);
  number("insnCount", verdict.insn_count);
  if (verdict.errnum != 0) {
    const char* name = strerrorname_np(verdict.errnum);
    text("code", name != nullptr ? name : "EIO");
  }
  number("insn", verdict.insn_index);
  text("reason", verdict.reason);
  text("where", verdict.where);
  Napi::Array path = Napi::Array::New(env, verdict.path.size());
  for (uint32_t i = 0; i < verdict.path.size(); ++i) {
    path.Set(i, Napi::String::New(env, verdict.path[i]));
  }
  out.Set("path", path);
  number("walked", verdict.walked);
  number("states", verdict.states);
  number("timeUs", verdict.time_us);
  return out;
}

class VerifyWorker : public Napi::AsyncWorker {
 public:
  VerifyWorker(Napi::Env env, std::vector<uint8_t> bytes, std::string program)
      : Napi::AsyncWorker(env, "bpfVerify"),
        deferred_(Napi::Promise::Deferred::New(env)),
        bytes_(std::move(bytes)),
        program_(std::move(program)) {}

  [[nodiscard]] Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override { result_ = verify_object(bytes_, program_, log_); }
  void OnOK() override {
    const Napi::HandleScope scope(Env());
    if (!result_) {
      const char* log = log_.empty() ? nullptr : log_.c_str();
      deferred_.Reject(make_error(Env(), result_.error(), log).Value());
      return;
    }
    Napi::Array verdicts = Napi::Array::New(Env(), result_->size());
    for (uint32_t i = 0; i < result_->size(); ++i) verdicts.Set(i, to_js(Env(), (*result_)[i]));
    deferred_.Resolve(verdicts);
  }

 private:
  Napi::Promise::Deferred deferred_;
  std::vector<uint8_t> bytes_;
  std::string program_;
  std::string log_;
  Result<std::vector<ProgramVerdict>> result_ = fail(EIO, "not verified yet");
};

Napi::Value bpf_verify(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto field = [&](const char* name) {
    return info[0].As<Napi::Object>().Get(name).UnwrapOr(env.Undefined());
  };
  if (!info[0].IsObject() || !field("bytes").IsBuffer()) {
    make_error(env, fail(EINVAL, "bpfVerify wants {bytes, program}")).ThrowAsJavaScriptException();
    return env.Undefined();
  }
  const auto buffer = field("bytes").As<Napi::Buffer<uint8_t>>();
  const Napi::Value program = field("program");
  auto* worker =
      new VerifyWorker(env, {buffer.Data(), buffer.Data() + buffer.Length()},
                       program.IsString() ? program.As<Napi::String>().Utf8Value() : std::string());
  Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

}  // namespace

void init_verify(Napi::Env env, Napi::Object exports) {
  exports.Set("bpfVerify", Napi::Function::New(env, bpf_verify));
}

}  // namespace bpftime::addon
