// SPDX-License-Identifier: MIT
// Following signal masks, for JavaScript: a part of NativeTarget in src/native.ts.
#include <utility>
#include <vector>

#include "parts.h"
#include "target_job.h"

namespace bpftime::addon {

namespace {

using target::MaskSite;
using target::MaskState;
using target::Session;

uint32_t session_argument(const Napi::CallbackInfo& info) {
  return info[0].As<Napi::Number>().Uint32Value();
}

uint64_t address_argument(const Napi::CallbackInfo& info, size_t index) {
  bool lossless = false;
  return info[index].As<Napi::BigInt>().Uint64Value(&lossless);
}

Napi::Value target_syscall_bytes(const Napi::CallbackInfo& info) {
  const uint32_t id = session_argument(info);
  const uint64_t start = address_argument(info, 1), end = address_argument(info, 2);
  return run(info.Env(), [id, start, end](Answer* answer) {
    const Session* session = session_of(id, answer);
    if (session == nullptr) return;
    Result<std::vector<uint64_t>> found = session->syscall_bytes(start, end);
    if (!settle(found, answer)) return;
    answer->value = [found = std::move(found.value())](Napi::Env env) {
      Napi::BigUint64Array out = Napi::BigUint64Array::New(env, found.size());
      for (size_t i = 0; i < found.size(); ++i) out[i] = found[i];
      return out;
    };
  });
}

Napi::Value target_mask_sites(const Napi::CallbackInfo& info) {
  const uint32_t id = session_argument(info);
  const auto addrs = info[1].As<Napi::BigUint64Array>();
  const auto sizes = info[2].As<Napi::Uint32Array>();
  std::vector<std::pair<uint64_t, uint32_t>> functions;
  for (size_t i = 0; i < addrs.ElementLength() && i < sizes.ElementLength(); ++i) {
    functions.emplace_back(addrs[i], sizes[i]);
  }
  return run(info.Env(), [id, functions = std::move(functions)](Answer* answer) {
    Session* session = session_of(id, answer);
    if (session == nullptr) return;
    Result<std::vector<MaskSite>> sites = session->mask_sites(functions);
    if (!settle(sites, answer)) return;
    answer->value = [sites = std::move(sites.value())](Napi::Env env) {
      Napi::Array out = Napi::Array::New(env, sites.size());
      for (uint32_t i = 0; i < sites.size(); ++i) {
        Napi::Object one = Napi::Object::New(env);
        one.Set("addr", Napi::BigInt::New(env, sites[i].addr));
        one.Set("functionAddr", Napi::BigInt::New(env, sites[i].function));
        one.Set("functionSize", Napi::Number::New(env, sites[i].function_size));
        one.Set("keeps", Napi::Number::New(env, sites[i].keeps));
        one.Set("behind", sites[i].behind);
        one.Set("number", Napi::Number::New(env, sites[i].number));
        out.Set(i, one);
      }
      return out;
    };
  });
}

Napi::Value target_masks(const Napi::CallbackInfo& info) {
  const uint32_t id = session_argument(info);
  return run(info.Env(), [id](Answer* answer) {
    const Session* session = session_of(id, answer);
    if (session == nullptr) return;
    answer->value = [state = session->masks()](Napi::Env env) {
      Napi::Object out = Napi::Object::New(env);
      out.Set("followed", state.followed);
      out.Set("lost", state.lost);
      out.Set("events", Napi::Number::New(env, state.events));
      return out;
    };
  });
}

Napi::Value target_follow_masks(const Napi::CallbackInfo& info) {
  const uint32_t id = session_argument(info);
  const uint32_t events = info[1].As<Napi::Number>().Uint32Value();
  const bool withdraws = info[2].As<Napi::Boolean>().Value();
  return run(info.Env(), [id, events, withdraws](Answer* answer) {
    Session* session = session_of(id, answer);
    if (session == nullptr) return;
    const Result<uint64_t> pause_ns = session->follow_masks(events, withdraws);
    if (!settle(pause_ns, answer)) return;
    answer->value = [pause_ns = pause_ns.value()](Napi::Env env) {
      return Napi::Number::New(env, static_cast<double>(pause_ns));
    };
  });
}

Napi::Value target_vanished_mask_sites(const Napi::CallbackInfo& info) {
  const uint32_t id = session_argument(info);
  return run(info.Env(), [id](Answer* answer) {
    const Session* session = session_of(id, answer);
    if (session == nullptr) return;
    answer->value = [addrs = session->vanished_mask_sites()](Napi::Env env) {
      Napi::BigUint64Array out = Napi::BigUint64Array::New(env, addrs.size());
      std::copy(addrs.begin(), addrs.end(), out.Data());
      return out;
    };
  });
}

Napi::Value target_lose_masks(const Napi::CallbackInfo& info) {
  const uint32_t id = session_argument(info);
  return run(info.Env(), [id](Answer* answer) {
    Session* session = session_of(id, answer);
    if (session != nullptr) settle(session->lose_masks(), answer);
  });
}

Napi::Value target_follow_modules(const Napi::CallbackInfo& info) {
  const uint32_t id = session_argument(info);
  return run(info.Env(), [id](Answer* answer) {
    Session* session = session_of(id, answer);
    if (session != nullptr) settle(session->follow_modules(), answer);
  });
}

}  // namespace

void init_masks(Napi::Env env, Napi::Object exports) {
  exports.Set("targetSyscallBytes", Napi::Function::New<target_syscall_bytes>(env));
  exports.Set("targetMaskSites", Napi::Function::New<target_mask_sites>(env));
  exports.Set("targetMasks", Napi::Function::New<target_masks>(env));
  exports.Set("targetFollowModules", Napi::Function::New<target_follow_modules>(env));
  exports.Set("targetFollowMasks", Napi::Function::New<target_follow_masks>(env));
  exports.Set("targetVanishedMaskSites", Napi::Function::New<target_vanished_mask_sites>(env));
  exports.Set("targetLoseMasks", Napi::Function::New<target_lose_masks>(env));
}

}  // namespace bpftime::addon
