// SPDX-License-Identifier: MIT
// Sessions that outlive their daemon, for JavaScript: the last part of NativeTarget in
// src/native.ts.
#include <memory>
#include <utility>
#include <vector>

#include "../target/fork_watch.h"
#include "../target/journal.h"
#include "target_job.h"

namespace bpftime::addon {

namespace {

using target::ExitForm;
using target::ForkWatch;
using target::HookKind;
using target::HookRequest;
using target::JournalOwner;
using target::Notes;
using target::Session;
using target::SiteRequest;
using IdPairs = std::vector<std::pair<uint32_t, uint32_t>>;

pid_t pid_argument(const Napi::CallbackInfo& info) {
  return static_cast<pid_t>(info[0].As<Napi::Number>().Int32Value());
}
uint32_t session_argument(const Napi::CallbackInfo& info) {
  return info[0].As<Napi::Number>().Uint32Value();
}
std::vector<uint8_t> bytes_of(const Napi::Value& value) {
  if (!value.IsBuffer()) return {};
  const auto buffer = value.As<Napi::Buffer<uint8_t>>();
  return {buffer.Data(), buffer.Data() + buffer.Length()};
}

Napi::Value target_owner(const Napi::CallbackInfo& info) {
  const pid_t pid = pid_argument(info);
  return run(info.Env(), [pid](Answer* answer) {
    const Result<JournalOwner> owner = Session::owner_of(pid);
    if (!owner && owner.error().errnum == ENOENT) return;
    if (!settle(owner, answer)) return;
    const Result<pid_t> found = Session::home_of(pid);
    answer->value = [daemon = owner.value().daemon, alive = owner.value().alive(),
                     home = found.ok() ? found.value() : pid](Napi::Env env) {
      Napi::Object out = Napi::Object::New(env);
      out.Set("home", Napi::Number::New(env, home));
      out.Set("daemon", Napi::Number::New(env, daemon));
      out.Set("alive", Napi::Boolean::New(env, alive));
      return out;
    };
  });
}

Napi::Object hook_object(Napi::Env env, const HookRequest& hook) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("hookId", Napi::Number::New(env, hook.hook_id));
  out.Set("progId", Napi::Number::New(env, hook.prog_id));
  if (hook.kind == HookKind::kSigaction) out.Set("answersSigaction", true);
  if (hook.kind == HookKind::kGoResume) out.Set("resumesGo", true);
  if (hook.kind == HookKind::kLoaderEvent) out.Set("followsLoader", true);
  if (hook.kind == HookKind::kMaskSite) out.Set("seesMasks", true);
  out.Set("onReturn", hook.on_return);
  out.Set("enabled", hook.enabled);
  out.Set("cookie", Napi::BigInt::New(env, hook.cookie));
  return out;
}

Napi::Object site_object(Napi::Env env, const SiteRequest& site) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("addr", Napi::BigInt::New(env, site.addr));
  out.Set("functionAddr", Napi::BigInt::New(env, site.function));
  out.Set("functionSize", Napi::Number::New(env, site.function_size));
  if (site.exit_form != ExitForm::kNone) {
    out.Set("exitForm", site.exit_form == ExitForm::kRet ? "ret" : "balanced");
  }
  if (site.go_morestack != 0) {
    out.Set("goMorestack", Napi::BigInt::New(env, site.go_morestack));
    out.Set("goMorestackSize", Napi::Number::New(env, site.go_morestack_size));
  }
  Napi::Array hooks = Napi::Array::New(env, site.hooks.size());
  for (uint32_t i = 0; i < site.hooks.size(); ++i) hooks.Set(i, hook_object(env, site.hooks[i]));
  out.Set("hooks", hooks);
  return out;
}

Napi::Array notes_array(Napi::Env env, const Notes& notes) {
  Napi::Array list = Napi::Array::New(env, notes.size());
  uint32_t i = 0;
  for (const auto& [key, text] : notes) {
    Napi::Object note = Napi::Object::New(env);
    note.Set("key", Napi::Number::New(env, static_cast<double>(key)));
    note.Set("text", Napi::Buffer<uint8_t>::Copy(env, text.data(), text.size()));
    list.Set(i++, note);
  }
  return list;
}

Notes notes_of(const Napi::Value& value) {
  Notes notes;
  const auto list = value.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const auto note = list.Get(i).Unwrap().As<Napi::Object>();
    const int64_t key = get(note, "key").As<Napi::Number>().Int64Value();
    notes[static_cast<uint64_t>(key)] = bytes_of(get(note, "text"));
  }
  return notes;
}

// What JavaScript learns of an adopted session.
struct Adopted {
  uint32_t id = 0, log_map = 0;
  double enter_ns = 0;
  bool can_keep = false, guard_armed = false, no_stop = false;
  Notes notes;
  IdPairs maps;
  std::vector<SiteRequest> sites;

  Napi::Value to_js(Napi::Env env) const {
    Napi::Object out = Napi::Object::New(env);
    out.Set("session", Napi::Number::New(env, id));
    out.Set("logMapId", Napi::Number::New(env, log_map));
    out.Set("enterNs", Napi::Number::New(env, enter_ns));
    out.Set("canKeep", can_keep);
    out.Set("guardArmed", guard_armed);
    out.Set("noStop", no_stop);
    out.Set("notes", notes_array(env, notes));
    Napi::Array pairs = Napi::Array::New(env, maps.size());
    for (uint32_t i = 0; i < maps.size(); ++i) {
      Napi::Object pair = Napi::Object::New(env);
      pair.Set("former", Napi::Number::New(env, maps[i].first));
      pair.Set("id", Napi::Number::New(env, maps[i].second));
      pairs.Set(i, pair);
    }
    out.Set("maps", pairs);
    Napi::Array list = Napi::Array::New(env, sites.size());
    for (uint32_t i = 0; i < sites.size(); ++i) list.Set(i, site_object(env, sites[i]));
    out.Set("sites", list);
    return out;
  }
};

Napi::Value target_adopt(const Napi::CallbackInfo& info) {
  const pid_t pid = pid_argument(info);
  return run(info.Env(), [pid](Answer* answer) {
    auto session = Session::adopt(pid);
    if (!settle(session, answer)) return;
    Adopted adopted;
    adopted.log_map = session.value()->log_map()->id;
    adopted.enter_ns = static_cast<double>(session.value()->enter_ns());
    adopted.can_keep = session.value()->can_keep();
    adopted.guard_armed = session.value()->guard_armed();
    adopted.no_stop = session.value()->no_stop();
    adopted.notes = session.value()->notes();
    adopted.maps = session.value()->adopted_maps();
    adopted.sites = session.value()->site_requests();
    adopted.id = tracer().add(std::move(session.value()));
    answer->value = [adopted = std::move(adopted)](Napi::Env env) { return adopted.to_js(env); };
  });
}

Napi::Value target_fork(const Napi::CallbackInfo& info) {
  const uint32_t parent = session_argument(info);
  const auto child = static_cast<pid_t>(info[1].As<Napi::Number>().Int32Value());
  return run(info.Env(), [parent, child](Answer* answer) {
    const Session* from = session_of(parent, answer);
    if (from == nullptr) return;
    auto session = Session::fork_of(*from, child);
    if (!settle(session, answer)) return;
    const uint32_t id = tracer().add(std::move(session.value()));
    answer->value = [id](Napi::Env env) { return Napi::Number::New(env, id); };
  });
}

// News of forks and execs; JavaScript thread only.
std::unique_ptr<ForkWatch>& fork_watch() {
  static auto* watch = new std::unique_ptr<ForkWatch>;
  return *watch;
}

struct News {
  pid_t pid = 0, child = 0;
};

Napi::Value target_on_forks(const Napi::CallbackInfo& info) {
  auto listener =
      Napi::ThreadSafeFunction::New(info.Env(), info[0].As<Napi::Function>(), "forks", 0, 1);
  listener.Unref(info.Env());
  auto watch = ForkWatch::create([listener](pid_t pid, pid_t child) {
    auto* news = new News{pid, child};
    const auto tell = [](Napi::Env env, Napi::Function told, News* what) {
      const std::unique_ptr<News> owned(what);
      told.Call({Napi::Number::New(env, owned->pid), Napi::Number::New(env, owned->child)});
    };
    if (listener.NonBlockingCall(news, tell) != napi_ok) delete news;
  });
  if (watch.ok()) fork_watch() = std::move(*watch);
  return Napi::Boolean::New(info.Env(), watch.ok());
}

Napi::Value target_care(const Napi::CallbackInfo& info) {
  if (fork_watch() != nullptr) {
    fork_watch()->care(pid_argument(info), info[1].As<Napi::Boolean>().Value());
  }
  return info.Env().Undefined();
}

Napi::Value target_bind(const Napi::CallbackInfo& info) {
  const uint32_t id = session_argument(info);
  IdPairs programs;
  const auto bound = info[1].As<Napi::Object>();
  const auto list = get(bound, "programs").As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const auto pair = list.Get(i).Unwrap().As<Napi::Object>();
    programs.emplace_back(get_u32(pair, "former"), get_u32(pair, "id"));
  }
  return run(info.Env(), [id, programs = std::move(programs),
                          notes = notes_of(get(bound, "notes"))](Answer* answer) {
    Session* session = session_of(id, answer);
    if (session != nullptr) settle(session->bind(programs, notes), answer);
  });
}

Napi::Value target_set_notes(const Napi::CallbackInfo& info) {
  const uint32_t id = session_argument(info);
  return run(info.Env(), [id, notes = notes_of(info[1])](Answer* answer) {
    Session* session = session_of(id, answer);
    if (session != nullptr) session->set_notes(notes);
  });
}

Napi::Value target_keep_bytes(const Napi::CallbackInfo& info) {
  const uint32_t id = session_argument(info);
  return run(info.Env(), [id, bytes = bytes_of(info[1])](Answer* answer) {
    Session* session = session_of(id, answer);
    if (session == nullptr) return;
    const Result<uint64_t> at = session->keep_bytes(bytes);
    if (!settle(at, answer)) return;
    answer->value = [at = at.value(), size = bytes.size()](Napi::Env env) {
      Napi::Object out = Napi::Object::New(env);
      out.Set("at", Napi::Number::New(env, static_cast<double>(at)));
      out.Set("size", Napi::Number::New(env, static_cast<double>(size)));
      return out;
    };
  });
}

struct Place {
  uint64_t at = 0, size = 0;
};
Place place_argument(const Napi::CallbackInfo& info) {
  const auto object = info[1].As<Napi::Object>();
  const auto number = [&](const char* name) {
    const Napi::Value value = get(object, name);
    const int64_t whole = value.IsNumber() ? value.As<Napi::Number>().Int64Value() : 0;
    return static_cast<uint64_t>(whole);
  };
  return {number("at"), number("size")};
}

Napi::Value target_drop_bytes(const Napi::CallbackInfo& info) {
  const uint32_t id = session_argument(info);
  return run(info.Env(), [id, place = place_argument(info)](Answer* answer) {
    Session* session = session_of(id, answer);
    if (session != nullptr) session->drop_bytes(place.at, place.size);
  });
}

Napi::Value target_kept_bytes(const Napi::CallbackInfo& info) {
  const uint32_t id = session_argument(info);
  return run(info.Env(), [id, place = place_argument(info)](Answer* answer) {
    Session* session = session_of(id, answer);
    if (session == nullptr) return;
    Result<std::vector<uint8_t>> bytes = session->kept_bytes(place.at, place.size);
    if (!settle(bytes, answer)) return;
    answer->value = [bytes = std::move(bytes.value())](Napi::Env env) -> Napi::Value {
      return Napi::Buffer<uint8_t>::Copy(env, bytes.data(), bytes.size());
    };
  });
}

}  // namespace

void init_adopt(Napi::Env env, Napi::Object exports) {
  exports.Set("targetOwner", Napi::Function::New<target_owner>(env));
  exports.Set("targetAdopt", Napi::Function::New<target_adopt>(env));
  exports.Set("targetFork", Napi::Function::New<target_fork>(env));
  exports.Set("targetOnForks", Napi::Function::New<target_on_forks>(env));
  exports.Set("targetCare", Napi::Function::New<target_care>(env));
  exports.Set("targetBind", Napi::Function::New<target_bind>(env));
  exports.Set("targetSetNotes", Napi::Function::New<target_set_notes>(env));
  exports.Set("targetKeepBytes", Napi::Function::New<target_keep_bytes>(env));
  exports.Set("targetDropBytes", Napi::Function::New<target_drop_bytes>(env));
  exports.Set("targetKeptBytes", Napi::Function::New<target_kept_bytes>(env));
}

}  // namespace bpftime::addon
