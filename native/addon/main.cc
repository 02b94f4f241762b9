// SPDX-License-Identifier: MIT
// The addon's entry point: each part registers its own functions on the one exports object.
#include <napi.h>

#include "parts.h"

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  bpftime::addon::init_fuse(env, exports);
  bpftime::addon::init_bpf(env, exports);
  bpftime::addon::init_verify(env, exports);
  bpftime::addon::init_target(env, exports);
  bpftime::addon::init_adopt(env, exports);
  bpftime::addon::init_masks(env, exports);
  bpftime::addon::init_self(env, exports);
  bpftime::addon::init_symbols(env, exports);
  bpftime::addon::init_coverage(env, exports);
  bpftime::addon::init_events(env, exports);
  return exports;
}

NODE_API_MODULE(bpftimefs, init)
