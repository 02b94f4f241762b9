// SPDX-License-Identifier: MIT
// What the functions of native/target for JavaScript share: a job of the tracer thread that answers
// a promise, and reading records.
#pragma once

#include <napi.h>

#include <cstdint>
#include <functional>

#include "../target/tracer_thread.h"
#include "parts.h"

namespace bpftime::addon {

target::TracerThread& tracer();

/// One job's way back: filled in on the tracer thread, settled on the JavaScript thread.
struct Answer {
  Failure failure{0, nullptr};
  uint64_t site = 0;
  std::function<Napi::Value(Napi::Env)> value;
};

Napi::Promise run(Napi::Env env, std::function<void(Answer*)> job);

template <typename T>
bool settle(const Result<T>& result, Answer* answer) {
  if (!result) answer->failure = result.error();
  return result.ok();
}

/// Null, and an answer that says so, when there is no such session.
target::Session* session_of(uint32_t id, Answer* answer);

Napi::Value get(const Napi::Object& object, const char* name);
uint32_t get_u32(const Napi::Object& object, const char* name);
uint64_t get_u64(const Napi::Object& object, const char* name);
bool get_bool(const Napi::Object& object, const char* name);

}  // namespace bpftime::addon
