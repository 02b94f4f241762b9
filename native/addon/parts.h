// SPDX-License-Identifier: MIT
// The parts of the addon, and the one way in which they report a failure to JavaScript.
#pragma once

#include <napi.h>

#include "../base/result.h"

namespace bpftime::addon {

void init_fuse(Napi::Env env, Napi::Object exports);
void init_bpf(Napi::Env env, Napi::Object exports);
void init_events(Napi::Env env, Napi::Object exports);
void init_self(Napi::Env env, Napi::Object exports);
void init_symbols(Napi::Env env, Napi::Object exports);
void init_verify(Napi::Env env, Napi::Object exports);
void init_coverage(Napi::Env env, Napi::Object exports);
void init_adopt(Napi::Env env, Napi::Object exports);
void init_masks(Napi::Env env, Napi::Object exports);
void init_target(Napi::Env env, Napi::Object exports);

/// An Error with `code` (errno name), `reason` and optionally `log`: NativeError in src/native.ts.
Napi::Error make_error(Napi::Env env, const Failure& failure, const char* log = nullptr);

}  // namespace bpftime::addon
