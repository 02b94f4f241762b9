// SPDX-License-Identifier: MIT
// Failures as JavaScript errors.
#include <cstring>
#include <string>

#include "parts.h"

namespace bpftime::addon {

Napi::Error make_error(Napi::Env env, const Failure& failure, const char* log) {
  const char* name = strerrorname_np(failure.errnum);
  const std::string code = name != nullptr ? name : "EIO";
  Napi::Error error = Napi::Error::New(env, code + ": " + failure.reason);
  Napi::Object value = error.Value();
  value.DefineProperties({
      Napi::PropertyDescriptor::Value("code", Napi::String::New(env, code), napi_enumerable),
      Napi::PropertyDescriptor::Value("reason", Napi::String::New(env, failure.reason),
                                      napi_enumerable),
  });
  if (log != nullptr) {
    value.DefineProperty(
        Napi::PropertyDescriptor::Value("log", Napi::String::New(env, log), napi_enumerable));
  }
  return error;
}

}  // namespace bpftime::addon
