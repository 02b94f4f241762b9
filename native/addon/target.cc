// SPDX-License-Identifier: MIT
// native/target for JavaScript: every call is a job of the tracer thread and answers a promise.
#include <time.h>

#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>

#include "../fuse/access.h"
#include "../target/remote_thread.h"
#include "../target/tracer_thread.h"
#include "parts.h"
#include "target_job.h"

namespace bpftime::addon {

namespace {

using target::ApplyReport;
using target::HookCounters;
using target::HookKind;
using target::HookRequest;
using target::PatchInfo;
using target::Session;
using target::SiteRequest;
using target::TracerThread;

Napi::Value target_enter(const Napi::CallbackInfo& info) {
  const auto pid = static_cast<pid_t>(info[0].As<Napi::Number>().Int32Value());
  const auto object = info[1].As<Napi::Object>();
  fuse::Caller caller;
  caller.uid = get_u32(object, "uid");
  caller.gid = get_u32(object, "gid");
  caller.tid = static_cast<int>(get_u32(object, "pid"));
  return run(info.Env(), [pid, caller](Answer* answer) {
    auto session = Session::enter(
        pid, [&] { return fuse::check_access(caller, pid, fuse::Touch::kChange) == 0; });
    if (!settle(session, answer)) return;
    const uint64_t enter_ns = session.value()->enter_ns();
    const uint32_t log_map = session.value()->log_map()->id;
    const uint32_t id = tracer().add(std::move(session.value()));
    answer->value = [id, enter_ns, log_map](Napi::Env env) {
      Napi::Object out = Napi::Object::New(env);
      out.Set("session", Napi::Number::New(env, id));
      out.Set("enterNs", Napi::Number::New(env, static_cast<double>(enter_ns)));
      out.Set("logMapId", Napi::Number::New(env, log_map));
      return out;
    };
  });
}

SiteRequest site_request(const Napi::Object& object) {
  SiteRequest site;
  site.addr = get_u64(object, "addr");
  site.function = get_u64(object, "functionAddr");
  site.function_size = get_u32(object, "functionSize");
  const Napi::Value form = get(object, "exitForm");
  if (form.IsString()) {
    site.exit_form = form.As<Napi::String>().Utf8Value() == "ret" ? target::ExitForm::kRet
                                                                  : target::ExitForm::kBalanced;
  }
  site.lets_finish = get_bool(object, "letsFinish");
  site.go_morestack = get_u64(object, "goMorestack");
  site.go_morestack_size = get_u32(object, "goMorestackSize");
  site.keeps = get_u32(object, "keeps");
  site.behind = get_bool(object, "behind");
  const Napi::Value hooks = get(object, "hooks");
  if (!hooks.IsArray()) return site;
  const auto list = hooks.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const Napi::Object hook = list.Get(i).Unwrap().As<Napi::Object>();
    HookRequest request;
    request.hook_id = get_u32(hook, "hookId");
    request.kind = get_u32(hook, "progId") != 0         ? HookKind::kProgram
                   : get_bool(hook, "answersSigaction") ? HookKind::kSigaction
                   : get_bool(hook, "followsLoader")    ? HookKind::kLoaderEvent
                   : get_bool(hook, "resumesGo")        ? HookKind::kGoResume
                   : get_bool(hook, "seesMasks")        ? HookKind::kMaskSite
                                                        : HookKind::kRestoreReturns;
    request.prog_id = get_u32(hook, "progId");
    request.on_return = get_bool(hook, "onReturn");
    request.enabled = get_bool(hook, "enabled");
    request.cookie = get_u64(hook, "cookie");
    site.hooks.push_back(request);
  }
  return site;
}

Napi::Value target_apply(const Napi::CallbackInfo& info) {
  const uint32_t id = info[0].As<Napi::Number>().Uint32Value();
  const auto list = info[1].As<Napi::Array>();
  std::vector<SiteRequest> requests;
  for (uint32_t i = 0; i < list.Length(); ++i) {
    requests.push_back(site_request(list.Get(i).Unwrap().As<Napi::Object>()));
  }
  return run(info.Env(), [id, requests = std::move(requests)](Answer* answer) {
    Session* session = session_of(id, answer);
    if (session == nullptr) return;
    const Result<ApplyReport> report = session->apply(requests, &answer->site);
    if (!settle(report, answer)) return;
    answer->value = [done = report.value()](Napi::Env env) {
      Napi::Object out = Napi::Object::New(env);
      out.Set("pauseNs", Napi::Number::New(env, static_cast<double>(done.pause_ns)));
      out.Set("guardArmed", Napi::Boolean::New(env, done.guard_armed));
      out.Set("recyclePauseNs", Napi::Number::New(env, static_cast<double>(done.recycle_pause_ns)));
      out.Set("threadCount", Napi::Number::New(env, done.thread_count));
      return out;
    };
  });
}

Napi::Value target_set_no_stop(const Napi::CallbackInfo& info) {
  const uint32_t id = info[0].As<Napi::Number>().Uint32Value();
  const bool on = info[1].As<Napi::Boolean>().Value();
  return run(info.Env(), [id, on](Answer* answer) {
    if (Session* session = session_of(id, answer)) session->set_no_stop(on);
  });
}

Napi::Value target_check_exits(const Napi::CallbackInfo& info) {
  const uint32_t id = info[0].As<Napi::Number>().Uint32Value();
  bool lossless = false;
  const uint64_t addr = info[1].As<Napi::BigInt>().Uint64Value(&lossless);
  const uint32_t size = info[2].As<Napi::Number>().Uint32Value();
  const bool is_go = info[3].As<Napi::Boolean>().Value();
  return run(info.Env(), [id, addr, size, is_go](Answer* answer) {
    Session* session = session_of(id, answer);
    if (session == nullptr) return;
    const Result<uint32_t> exits = session->check_exits(addr, size, is_go);
    if (!settle(exits, answer)) return;
    answer->value = [count = exits.value()](Napi::Env env) {
      return Napi::Number::New(env, count);
    };
  });
}

// Who is told that a process loaded or unloaded a module; set once, by the attach engine.
Napi::ThreadSafeFunction& load_listener() {
  // Never destroyed: threads that outlive JavaScript may still look at it.
  static auto* const listener = new Napi::ThreadSafeFunction;
  return *listener;
}

Napi::Value target_on_loads(const Napi::CallbackInfo& info) {
  load_listener() =
      Napi::ThreadSafeFunction::New(info.Env(), info[0].As<Napi::Function>(), "target loads", 0, 1);
  load_listener().Unref(info.Env());
  return info.Env().Undefined();
}

void tell_load(uint32_t session, uint32_t event) {
  load_listener().NonBlockingCall([session, event](Napi::Env env, const Napi::Function& told) {
    (void)told.Call({Napi::Number::New(env, session), Napi::Number::New(env, event)});
  });
}

Napi::Value target_want_loads(const Napi::CallbackInfo& info) {
  const uint32_t id = info[0].As<Napi::Number>().Uint32Value();
  const bool wanted = info[1].As<Napi::Boolean>().Value();
  return run(info.Env(), [id, wanted](Answer* answer) {
    Session* session = session_of(id, answer);
    if (session == nullptr) return;
    settle(session->want_loads(wanted, [id](uint32_t event) { tell_load(id, event); }), answer);
  });
}

Napi::Value target_settle_loads(const Napi::CallbackInfo& info) {
  const uint32_t id = info[0].As<Napi::Number>().Uint32Value();
  const uint32_t event = info[1].As<Napi::Number>().Uint32Value();
  return run(info.Env(), [id, event](Answer*) {
    if (Session* session = tracer().find(id)) session->settle_loads(event);
  });
}

Napi::Value target_leave(const Napi::CallbackInfo& info) {
  const uint32_t id = info[0].As<Napi::Number>().Uint32Value();
  return run(info.Env(), [id](Answer* answer) {
    Session* session = session_of(id, answer);
    if (session == nullptr) return;
    if (settle(session->leave(), answer)) tracer().remove(id);
  });
}

Napi::Value target_arm_guard(const Napi::CallbackInfo& info) {
  const uint32_t id = info[0].As<Napi::Number>().Uint32Value();
  return run(info.Env(), [id](Answer* answer) {
    Session* session = session_of(id, answer);
    if (session == nullptr) return;
    const Result<uint64_t> pause_ns = session->arm_guard();
    if (!settle(pause_ns, answer)) return;
    answer->value = [pause_ns = pause_ns.value()](Napi::Env env) {
      return Napi::Number::New(env, static_cast<double>(pause_ns));
    };
  });
}

Napi::Value target_disarm_guard(const Napi::CallbackInfo& info) {
  const uint32_t id = info[0].As<Napi::Number>().Uint32Value();
  return run(info.Env(), [id](Answer* answer) {
    Session* session = session_of(id, answer);
    if (session != nullptr) settle(session->disarm_guard(), answer);
  });
}

// Forgets a session whose process is gone; nothing of the target is touched.
Napi::Value target_forget(const Napi::CallbackInfo& info) {
  const uint32_t id = info[0].As<Napi::Number>().Uint32Value();
  return run(info.Env(), [id](Answer*) { tracer().remove(id); });
}

Napi::Value target_check(const Napi::CallbackInfo& info) {
  const uint32_t id = info[0].As<Napi::Number>().Uint32Value();
  return run(info.Env(), [id](Answer* answer) {
    Session* session = session_of(id, answer);
    if (session != nullptr) settle(session->check_alive(), answer);
  });
}

Napi::Value target_unwound(const Napi::CallbackInfo& info) {
  const uint32_t id = info[0].As<Napi::Number>().Uint32Value();
  return run(info.Env(), [id](Answer* answer) {
    const Session* session = session_of(id, answer);
    if (session == nullptr) return;
    answer->value = [unwound = session->unwound()](Napi::Env env) {
      Napi::Array hooks = Napi::Array::New(env, unwound.hooks.size());
      for (uint32_t i = 0; i < unwound.hooks.size(); ++i) {
        Napi::Object one = Napi::Object::New(env);
        one.Set("hookId", Napi::Number::New(env, unwound.hooks[i].first));
        one.Set("count", Napi::BigInt::New(env, unwound.hooks[i].second));
        hooks.Set(i, one);
      }
      Napi::Object out = Napi::Object::New(env);
      out.Set("total", Napi::BigInt::New(env, unwound.total));
      out.Set("hooks", hooks);
      return out;
    };
  });
}

// Where a debugger finds the return addresses that probes replaced: see src/fs/gdb-script.ts.
Napi::Value target_shadows(const Napi::CallbackInfo& info) {
  const uint32_t id = info[0].As<Napi::Number>().Uint32Value();
  return run(info.Env(), [id](Answer* answer) {
    const Session* session = session_of(id, answer);
    if (session == nullptr) return;
    answer->value = [pointer = session->shadows_pointer()](Napi::Env env) {
      Napi::Object out = Napi::Object::New(env);
      out.Set("pointer", Napi::BigInt::New(env, pointer));
      out.Set("threads", Napi::Number::New(env, SHADOW_THREADS));
      out.Set("depth", Napi::Number::New(env, SHADOW_DEPTH));
      out.Set("stackBytes", Napi::Number::New(env, sizeof(shadow_stack)));
      out.Set("entriesOffset", Napi::Number::New(env, offsetof(shadow_stack, entries)));
      out.Set("entryBytes", Napi::Number::New(env, sizeof(shadow_entry)));
      out.Set("hash", Napi::BigInt::New(env, uint64_t{SHADOW_HASH}));
      return out;
    };
  });
}

const char* tier_name(target::Tier tier) {
  if (tier == target::Tier::kInline) return "inline";
  return tier == target::Tier::kLite ? "lite" : "full";
}

Napi::Value target_counters(const Napi::CallbackInfo& info) {
  const uint32_t id = info[0].As<Napi::Number>().Uint32Value();
  return run(info.Env(), [id](Answer* answer) {
    Session* session = session_of(id, answer);
    if (session == nullptr) return;
    answer->value = [counters = session->counters()](Napi::Env env) {
      Napi::Array out = Napi::Array::New(env, counters.size());
      for (uint32_t i = 0; i < counters.size(); ++i) {
        Napi::Object one = Napi::Object::New(env);
        one.Set("hookId", Napi::Number::New(env, counters[i].hook_id));
        one.Set("tier", Napi::String::New(env, tier_name(counters[i].tier)));
        one.Set("hits", Napi::BigInt::New(env, counters[i].hits));
        one.Set("missed", Napi::BigInt::New(env, counters[i].missed));
        one.Set("samples", Napi::BigInt::New(env, counters[i].samples));
        one.Set("sampledTicks", Napi::BigInt::New(env, counters[i].sampled_ticks));
        out.Set(i, one);
      }
      return out;
    };
  });
}

Napi::Object patch_object(Napi::Env env, const PatchInfo& site) {
  const auto buffer = [env](const std::vector<uint8_t>& bytes) {
    return Napi::Buffer<uint8_t>::Copy(env, bytes.data(), bytes.size());
  };
  Napi::Object out = Napi::Object::New(env);
  out.Set("addr", Napi::BigInt::New(env, site.addr));
  out.Set("site", Napi::BigInt::New(env, site.site));
  out.Set("copy", Napi::BigInt::New(env, site.copy));
  out.Set("body", Napi::BigInt::New(env, site.body));
  out.Set("bodyBytes", Napi::Number::New(env, site.body_bytes));
  out.Set("oldBytes", buffer(site.old_bytes));
  out.Set("newBytes", buffer(site.new_bytes));
  out.Set("copyBytes", buffer(site.copy_bytes));
  out.Set("form", Napi::String::New(env, site.form));
  out.Set("isExit", Napi::Boolean::New(env, site.is_exit));
  out.Set("on", Napi::Boolean::New(env, site.on));
  return out;
}

Napi::Value target_patches(const Napi::CallbackInfo& info) {
  const uint32_t id = info[0].As<Napi::Number>().Uint32Value();
  return run(info.Env(), [id](Answer* answer) {
    Session* session = session_of(id, answer);
    if (session == nullptr) return;
    answer->value = [patches = session->patch_infos()](Napi::Env env) {
      Napi::Array out = Napi::Array::New(env, patches.size());
      for (uint32_t i = 0; i < patches.size(); ++i) out.Set(i, patch_object(env, patches[i]));
      return out;
    };
  });
}

Napi::Value target_read(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto pid = static_cast<pid_t>(info[0].As<Napi::Number>().Int32Value());
  bool lossless = false;
  const uint64_t addr = info[1].As<Napi::BigInt>().Uint64Value(&lossless);
  const uint32_t size = info[2].As<Napi::Number>().Uint32Value();
  auto buffer = Napi::Buffer<uint8_t>::New(env, size);
  const Result<void> read = target::read_memory(pid, addr, buffer.Data(), size);
  if (!read) {
    make_error(env, read.error()).ThrowAsJavaScriptException();
    return env.Undefined();
  }
  return buffer;
}

// A reading of both clocks; the rate is the quotient of two readings far enough apart.
struct ClockPair {
  uint64_t ticks = 0;
  uint64_t ns = 0;
  static ClockPair now() {
    timespec ts{};
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ClockPair{__builtin_ia32_rdtsc(), static_cast<uint64_t>(ts.tv_sec) * 1'000'000'000u +
                                                 static_cast<uint64_t>(ts.tv_nsec)};
  }
};

const ClockPair& loaded_at() {
  static const ClockPair pair = ClockPair::now();
  return pair;
}

Napi::Value target_ticks_per_ns(const Napi::CallbackInfo& info) {
  const ClockPair now = ClockPair::now();
  const double ns = static_cast<double>(now.ns - loaded_at().ns);
  return Napi::Number::New(info.Env(), static_cast<double>(now.ticks - loaded_at().ticks) / ns);
}

}  // namespace

void init_target(Napi::Env env, Napi::Object exports) {
  loaded_at();
  exports.Set("targetTicksPerNs", Napi::Function::New<target_ticks_per_ns>(env));
  exports.Set("targetEnter", Napi::Function::New<target_enter>(env));
  exports.Set("targetApply", Napi::Function::New<target_apply>(env));
  exports.Set("targetArmGuard", Napi::Function::New<target_arm_guard>(env));
  exports.Set("targetDisarmGuard", Napi::Function::New<target_disarm_guard>(env));
  exports.Set("targetSetNoStop", Napi::Function::New<target_set_no_stop>(env));
  exports.Set("targetCheckExits", Napi::Function::New<target_check_exits>(env));
  exports.Set("targetOnLoads", Napi::Function::New<target_on_loads>(env));
  exports.Set("targetWantLoads", Napi::Function::New<target_want_loads>(env));
  exports.Set("targetSettleLoads", Napi::Function::New<target_settle_loads>(env));
  exports.Set("targetLeave", Napi::Function::New<target_leave>(env));
  exports.Set("targetForget", Napi::Function::New<target_forget>(env));
  exports.Set("targetCheck", Napi::Function::New<target_check>(env));
  exports.Set("targetUnwound", Napi::Function::New<target_unwound>(env));
  exports.Set("targetShadows", Napi::Function::New<target_shadows>(env));
  exports.Set("targetCounters", Napi::Function::New<target_counters>(env));
  exports.Set("targetPatches", Napi::Function::New<target_patches>(env));
  exports.Set("targetReadMemory", Napi::Function::New<target_read>(env));
}

}  // namespace bpftime::addon
