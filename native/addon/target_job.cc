// SPDX-License-Identifier: MIT
#include "target_job.h"

#include <memory>
#include <utility>

namespace bpftime::addon {

using target::Session;
using target::TracerThread;

TracerThread& tracer() {
  static TracerThread thread;
  return thread;
}

Napi::Promise run(Napi::Env env, std::function<void(Answer*)> job) {
  auto deferred = Napi::Promise::Deferred::New(env);
  auto back = Napi::ThreadSafeFunction::New(env, Napi::Function(), "target", 0, 1);
  tracer().post([job = std::move(job), back, deferred]() mutable {
    auto* answer = new Answer;
    job(answer);
    if (TracerThread::orphaned()) return;
    back.BlockingCall(answer, [deferred](Napi::Env env, Napi::Function, Answer* done) {
      const std::unique_ptr<Answer> owned(done);
      if (owned->failure.errnum != 0) {
        Napi::Error error = make_error(env, owned->failure);
        if (owned->site != 0) {
          error.Value().Set("site", Napi::BigInt::New(env, owned->site));
        }
        deferred.Reject(error.Value());
      } else {
        deferred.Resolve(owned->value ? owned->value(env) : env.Undefined());
      }
    });
    back.Release();
  });
  return deferred.Promise();
}

Session* session_of(uint32_t id, Answer* answer) {
  Session* session = tracer().find(id);
  if (session == nullptr) answer->failure = fail(ESRCH, "no such session");
  return session;
}

Napi::Value get(const Napi::Object& object, const char* name) {
  return object.Get(name).UnwrapOr(object.Env().Undefined());
}
uint32_t get_u32(const Napi::Object& object, const char* name) {
  const Napi::Value value = get(object, name);
  return value.IsNumber() ? value.As<Napi::Number>().Uint32Value() : 0;
}
uint64_t get_u64(const Napi::Object& object, const char* name) {
  const Napi::Value value = get(object, name);
  bool lossless = false;
  return value.IsBigInt() ? value.As<Napi::BigInt>().Uint64Value(&lossless) : 0;
}
bool get_bool(const Napi::Object& object, const char* name) {
  const Napi::Value value = get(object, name);
  return value.IsBoolean() && value.As<Napi::Boolean>().Value();
}

}  // namespace bpftime::addon
