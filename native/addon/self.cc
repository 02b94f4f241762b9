// SPDX-License-Identifier: MIT
// Requests of a process about itself, for JavaScript: where native/fuse and native/target meet.
#include "../fuse/mounts.h"
#include "../target/held_threads.h"
#include "parts.h"
#include "target_job.h"

namespace bpftime::addon {

namespace {

Napi::Value self_hold(const Napi::CallbackInfo& info) {
  const auto tid = static_cast<pid_t>(info[0].As<Napi::Number>().Int32Value());
  return run(info.Env(), [tid](Answer* answer) {
    const Result<void> held = target::hold_thread(tid);
    if (!held) answer->failure = held.error();
  });
}

Napi::Value self_release(const Napi::CallbackInfo& info) {
  const auto tid = static_cast<pid_t>(info[0].As<Napi::Number>().Int32Value());
  const int errnum = info[1].As<Napi::Number>().Int32Value();
  return run(info.Env(), [tid, errnum](Answer*) { target::release_held(tid, errnum); });
}

}  // namespace

void init_self(Napi::Env env, Napi::Object exports) {
  target::set_let_out([](pid_t tid) { return fuse::let_out(tid); });
  exports.Set("selfHold", Napi::Function::New<self_hold>(env));
  exports.Set("selfRelease", Napi::Function::New<self_release>(env));
}

}  // namespace bpftime::addon
