// SPDX-License-Identifier: MIT
// NativeFuse of src/native.ts: converts and forwards to native/fuse. Requests reach JavaScript
// through one threadsafe function that is woken once per burst.
#include <cstdlib>
#include <map>

#include "../fuse/mounts.h"
#include "../target/held_threads.h"
#include "parts.h"

namespace bpftime::addon {
namespace {

using fuse::ControlOp;
using fuse::ControlRequest;
using fuse::NodeKind;
using fuse::Provider;
using fuse::Server;

constexpr const char* kOpNames[] = {"lookup", "read",  "line",  "commit", "unlink",
                                    "rename", "mkdir", "rmdir", "cancel"};

const std::map<std::string, NodeKind, std::less<>> kKinds = {
    {"dir", NodeKind::kDir},         {"snapshot", NodeKind::kSnapshot},
    {"line", NodeKind::kLine},       {"generated", NodeKind::kGenerated},
    {"payload", NodeKind::kPayload}, {"stream", NodeKind::kStream},
    {"log", NodeKind::kLog},         {"symlink", NodeKind::kSymlink}};

const std::map<std::string, Provider, std::less<>> kProviders = {
    {"published", Provider::kPublished},
    {"procs", Provider::kProcs},
    {"lookup", Provider::kLookup}};

Napi::Value throw_failure(Napi::Env env, const Failure& failure) {
  make_error(env, failure).ThrowAsJavaScriptException();
  return env.Undefined();
}

// Property readers; an absent or mistyped property reads as the empty value.
Napi::Value get(const Napi::Object& object, const char* key) {
  return object.Get(key).UnwrapOr(object.Env().Undefined());
}

std::string get_string(const Napi::Object& object, const char* key) {
  const Napi::Value value = get(object, key);
  return value.IsString() ? value.As<Napi::String>().Utf8Value() : std::string();
}

double get_number(const Napi::Object& object, const char* key, double otherwise) {
  const Napi::Value value = get(object, key);
  return value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : otherwise;
}

bool get_bool(const Napi::Object& object, const char* key) {
  const Napi::Value value = get(object, key);
  return value.IsBoolean() && value.As<Napi::Boolean>().Value();
}

std::optional<std::string> get_bytes(const Napi::Object& object, const char* key) {
  const Napi::Value value = get(object, key);
  if (value.IsString()) return value.As<Napi::String>().Utf8Value();
  if (!value.IsBuffer()) return std::nullopt;
  const auto buf = value.As<Napi::Buffer<char>>();
  return std::string(buf.Data(), buf.Length());
}

std::optional<fuse::ClassSpec> read_class(const Napi::Object& object) {
  fuse::ClassSpec spec;
  spec.name = get_string(object, "name");
  const auto kind = kKinds.find(get_string(object, "kind"));
  if (kind == kKinds.end()) return std::nullopt;
  spec.kind = kind->second;
  spec.mode = static_cast<uint32_t>(get_number(object, "mode", 0));
  spec.max_bytes = static_cast<uint64_t>(get_number(object, "maxBytes", 0));
  const std::string provider = get_string(object, "provider");
  if (!provider.empty()) {
    const auto found = kProviders.find(provider);
    if (found == kProviders.end()) return std::nullopt;
    spec.provider = found->second;
  }
  spec.child_class = get_string(object, "childClass");
  spec.create_class = get_string(object, "createClass");
  spec.mkdir_class = get_string(object, "mkdirClass");
  if (std::optional<std::string> content = get_bytes(object, "content")) {
    spec.content = std::make_shared<const std::string>(std::move(*content));
  }
  const Napi::Value children = get(object, "children");
  if (!children.IsObject()) return spec;
  const Napi::Object table = children.As<Napi::Object>();
  const Napi::Array names = table.GetPropertyNames().UnwrapOr(Napi::Array::New(object.Env()));
  for (uint32_t i = 0; i < names.Length(); ++i) {
    const std::string name = names.Get(i).Unwrap().ToString().Unwrap().Utf8Value();
    spec.children.emplace_back(name, get_string(table, name.c_str()));
  }
  return spec;
}

// One mount as JavaScript sees it. Lives until both the mount and its threadsafe function ended.
class Bridge final : public fuse::RequestSink {
 public:
  Bridge(Napi::Env env, const Napi::Function& on_request)
      : wake_(Napi::ThreadSafeFunction::New(env, on_request, "bpftimefs requests", 0, 1)) {}

  void requests_ready() override {
    wake_.NonBlockingCall([this](Napi::Env env, const Napi::Function& on_request) {
      const std::shared_ptr<Server> server = fuse::find_mount(mount);
      if (server == nullptr) return;
      for (ControlRequest& request : server->take_requests()) {
        (void)on_request.Call({to_object(env, request)});
        if (env.IsExceptionPending()) return;
      }
    });
  }

  void ended() override {
    wake_.NonBlockingCall([this](Napi::Env env, const Napi::Function&) {
      has_ended_ = true;
      if (!on_end_.IsEmpty()) (void)on_end_.Call({});
      (void)env;
    });
  }

  bool claim_interrupted(int tid) override { return target::claim_interrupted(tid); }

  void set_on_end(const Napi::Function& callback) {
    on_end_ = Napi::Persistent(callback);
    if (has_ended_) (void)on_end_.Call({});
  }

  void release() {
    on_end_.Reset();
    wake_.Release();
  }

  int mount = 0;

 private:
  static Napi::Object to_object(Napi::Env env, const ControlRequest& request) {
    Napi::Object out = Napi::Object::New(env);
    const auto set = [&out](const char* key, const Napi::Value& value) {
      (void)out.Set(key, value);
    };
    set("id", Napi::Number::New(env, static_cast<double>(request.id)));
    set("op", Napi::String::New(env, kOpNames[static_cast<int>(request.op)]));
    set("path", Napi::String::New(env, request.path));
    set("cls", Napi::String::New(env, request.cls));
    if (request.op == ControlOp::kLine || request.op == ControlOp::kCommit) {
      set("data", Napi::Buffer<char>::Copy(env, request.data.data(), request.data.size()));
    }
    if (request.op == ControlOp::kRename) set("to", Napi::String::New(env, request.to));
    if (request.op == ControlOp::kLine || request.op == ControlOp::kCommit) {
      set("truncate", Napi::Boolean::New(env, request.truncate));
    }
    set("uid", Napi::Number::New(env, request.caller.uid));
    set("gid", Napi::Number::New(env, request.caller.gid));
    set("pid", Napi::Number::New(env, request.caller.tid));
    if (request.self_tid != 0) set("selfTid", Napi::Number::New(env, request.self_tid));
    return out;
  }

  Napi::ThreadSafeFunction wake_;
  Napi::FunctionReference on_end_;
  bool has_ended_ = false;
};

std::map<int, Bridge*>& bridges() {
  static auto* const all = new std::map<int, Bridge*>;
  return *all;
}

std::shared_ptr<Server> mount_of(const Napi::CallbackInfo& info) {
  const int mount = info[0].IsNumber() ? info[0].As<Napi::Number>().Int32Value() : 0;
  std::shared_ptr<Server> server = fuse::find_mount(mount);
  if (server == nullptr) throw_failure(info.Env(), fail(EBADF, "no such mount"));
  return server;
}

void end_mount(int mount) {
  const auto it = bridges().find(mount);
  if (it == bridges().end()) return;
  Bridge* const bridge = it->second;
  bridges().erase(it);
  if (const std::shared_ptr<Server> server = fuse::find_mount(mount)) server->stop();
  fuse::drop_mount(mount);
  // Calls already queued still hold the bridge: it is small and stays.
  bridge->release();
}

Napi::Value fuse_mount(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsObject() || !info[1].IsFunction()) {
    return throw_failure(env, fail(EINVAL, "fuseMount(options, onRequest)"));
  }
  const Napi::Object options = info[0].As<Napi::Object>();
  fuse::ServerOptions out;
  out.mountpoint = get_string(options, "mountpoint");
  out.allow_other = get_bool(options, "allowOther");
  out.root_class = get_string(options, "root");
  out.deadline_ms = static_cast<uint64_t>(get_number(options, "deadlineMs", 10'000));
  const Napi::Value classes = get(options, "classes");
  if (!classes.IsArray()) return throw_failure(env, fail(EINVAL, "classes is not an array"));
  const Napi::Array list = classes.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const Napi::Value item = list.Get(i).UnwrapOr(env.Undefined());
    std::optional<fuse::ClassSpec> spec;
    if (item.IsObject()) spec = read_class(item.As<Napi::Object>());
    if (!spec) return throw_failure(env, fail(EINVAL, "a class has an unknown kind or provider"));
    out.classes.push_back(std::move(*spec));
  }
  auto* const bridge = new Bridge(env, info[1].As<Napi::Function>());
  Result<std::shared_ptr<Server>> server = Server::start(std::move(out), bridge);
  if (!server) {
    bridge->release();
    return throw_failure(env, server.error());
  }
  bridge->mount = fuse::register_mount(*server);
  bridges()[bridge->mount] = bridge;
  return Napi::Number::New(env, bridge->mount);
}

Napi::Value fuse_reply(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Server> server = fuse::find_mount(info[0].As<Napi::Number>().Int32Value());
  if (server == nullptr || !info[1].IsObject()) return info.Env().Undefined();
  const Napi::Object reply = info[1].As<Napi::Object>();
  server->answer(static_cast<uint64_t>(get_number(reply, "id", 0)),
                 static_cast<int>(get_number(reply, "errno", EIO)),
                 get_bytes(reply, "data").value_or(std::string()));
  return info.Env().Undefined();
}

Napi::Value fuse_publish(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Server> server = mount_of(info);
  if (server == nullptr || !info[1].IsObject()) return info.Env().Undefined();
  const Napi::Object node = info[1].As<Napi::Object>();
  Server::Publication publication;
  publication.path = get_string(node, "path");
  publication.cls = get_string(node, "cls");
  publication.content = get_bytes(node, "content");
  publication.symlink = get_bytes(node, "symlink");
  const Result<void> done = server->publish(std::move(publication));
  return done ? info.Env().Undefined() : throw_failure(info.Env(), done.error());
}

Napi::Value fuse_unpublish(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Server> server = mount_of(info);
  if (server == nullptr || !info[1].IsString()) return info.Env().Undefined();
  const Result<void> done = server->unpublish(info[1].As<Napi::String>().Utf8Value());
  return done ? info.Env().Undefined() : throw_failure(info.Env(), done.error());
}

Napi::Value fuse_append(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Server> server = mount_of(info);
  if (server == nullptr || !info[1].IsString() || !info[2].IsBuffer()) {
    return info.Env().Undefined();
  }
  const auto text = info[2].As<Napi::Buffer<char>>();
  const Result<void> done =
      server->append(info[1].As<Napi::String>().Utf8Value(), {text.Data(), text.Length()});
  return done ? info.Env().Undefined() : throw_failure(info.Env(), done.error());
}

Napi::Value fuse_stats(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Server> server = mount_of(info);
  if (server == nullptr) return info.Env().Undefined();
  const fuse::ServerStats stats = server->stats();
  Napi::Object out = Napi::Object::New(info.Env());
  (void)out.Set("requests", Napi::BigInt::New(info.Env(), stats.requests));
  (void)out.Set("openFiles", static_cast<double>(stats.open_files));
  (void)out.Set("pendingRequests", static_cast<double>(stats.pending_requests));
  return out;
}

Napi::Value fuse_unmount(const Napi::CallbackInfo& info) {
  const auto done = Napi::Promise::Deferred::New(info.Env());
  end_mount(info[0].As<Napi::Number>().Int32Value());
  done.Resolve(info.Env().Undefined());
  return done.Promise();
}

Napi::Value fuse_on_end(const Napi::CallbackInfo& info) {
  const auto it = bridges().find(info[0].As<Napi::Number>().Int32Value());
  if (it == bridges().end() || !info[1].IsFunction()) {
    return throw_failure(info.Env(), fail(EBADF, "no such mount"));
  }
  it->second->set_on_end(info[1].As<Napi::Function>());
  return info.Env().Undefined();
}

}  // namespace

void init_fuse(Napi::Env env, Napi::Object exports) {
  const auto add = [&](const char* name, Napi::Value (*run)(const Napi::CallbackInfo&)) {
    (void)exports.Set(name, Napi::Function::New(env, run, name));
  };
  add("fuseMount", fuse_mount);
  add("fuseReply", fuse_reply);
  add("fusePublish", fuse_publish);
  add("fuseUnpublish", fuse_unpublish);
  add("fuseAppend", fuse_append);
  add("fuseStats", fuse_stats);
  add("fuseUnmount", fuse_unmount);
  add("fuseOnEnd", fuse_on_end);
  // However node ends, short of SIGKILL, no mount is left behind. process.exit() runs exit handlers
  // but no environment cleanup.
  static const int registered = std::atexit([] {
    for (const auto& [mount, bridge] : bridges()) {
      if (const std::shared_ptr<Server> server = fuse::find_mount(mount)) server->stop();
    }
  });
  (void)registered;
}

}  // namespace bpftime::addon
