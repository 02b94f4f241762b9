// SPDX-License-Identifier: MIT
// native/bpf for JavaScript: NativeBpf of src/native.ts. Converts and forwards.
#include <linux/bpf.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../bpf/format_plan.h"
#include "../bpf/image_objects.h"
#include "../bpf/loader.h"
#include "../bpf/objects.h"
#include "../bpf/prog_array.h"
#include "../bpf/registry.h"
#include "../bpf/test_run.h"
#include "../vm/rt/map.h"
#include "../vm/rt/tasks.h"
#include "parts.h"

namespace bpftime::addon {

namespace {

constexpr uint32_t kDumpEntriesMax = 1u << 20;

// Objects that JavaScript has loaded and not yet unloaded; JavaScript thread only.
std::map<uint32_t, LoadedObject>& objects() {
  static auto* table = new std::map<uint32_t, LoadedObject>;
  return *table;
}

Napi::Value throw_failure(Napi::Env env, const Failure& failure) {
  make_error(env, failure).ThrowAsJavaScriptException();
  return env.Undefined();
}

void set_number(Napi::Object& object, const char* name, double value) {
  object.Set(name, Napi::Number::New(object.Env(), value));
}

Napi::Object map_to_js(Napi::Env env, const MapObject& map, LoadedObject::MapTypes types) {
  Napi::Object info = Napi::Object::New(env);
  set_number(info, "id", map.id);
  info.Set("name", Napi::String::New(env, map.name));
  set_number(info, "type", map.view.type);
  set_number(info, "keySize", map.view.key_size);
  set_number(info, "valueSize", map.view.value_size);
  set_number(info, "maxEntries", map.view.max_entries);
  set_number(info, "flags", map.view.map_flags);
  set_number(info, "cpuCount", map.view.cpu_count);
  set_number(info, "btfKeyType", types.key);
  set_number(info, "btfValueType", types.value);
  set_number(info, "storageBytes", static_cast<double>(map.view.storage_bytes));
  return info;
}

// Helpers that read memory of the process by address: their programs want guarded loads.
constexpr uint32_t kReaders[] = {4, 6, 27, 36, 45, 67, 112, 113, 114, 115, 148, 165, 177};
// Those that ask for stacks: modules that come later are looked at for them.
constexpr uint32_t kWalkers[] = {27, 67};

bool calls_any(const ProgramImage& image, std::span<const uint32_t> helpers) {
  return std::any_of(image.got.begin(), image.got.end(), [&](const GotSlot& slot) {
    return slot.kind == GotKind::kHelper &&
           std::find(helpers.begin(), helpers.end(), slot.index) != helpers.end();
  });
}

Napi::Object prog_to_js(Napi::Env env, const ProgObject& prog) {
  Napi::Object info = Napi::Object::New(env);
  set_number(info, "id", prog.id);
  info.Set("name", Napi::String::New(env, prog.name));
  info.Set("section", Napi::String::New(env, prog.section));
  set_number(info, "type", prog.type);
  set_number(info, "insnCount", static_cast<double>(prog.insns.size()));
  set_number(info, "jitBytes", static_cast<double>(prog.image.text.size()));
  info.Set("replaces", Napi::Boolean::New(env, prog.role == ProgRole::kReplace));
  // What it tail-calls counts, too.
  const auto next = reachable_programs(prog);
  const auto calls = [&](std::span<const uint32_t> helpers) {
    return calls_any(prog.image, helpers) ||
           std::any_of(next.begin(), next.end(),
                       [&](const auto& one) { return calls_any(one->image, helpers); });
  };
  info.Set("readsMemory", Napi::Boolean::New(env, calls(kReaders)));
  info.Set("walksStack", Napi::Boolean::New(env, calls(kWalkers)));
  return info;
}

uint32_t next_object_id() {
  static uint32_t last_id = 0;
  return ++last_id;
}

Napi::Value object_to_js(Napi::Env env, LoadedObject loaded) {
  const uint32_t id = next_object_id();
  Napi::Object info = Napi::Object::New(env);
  set_number(info, "id", id);
  Napi::Array maps = Napi::Array::New(env, loaded.maps.size());
  for (uint32_t i = 0; i < loaded.maps.size(); i++) {
    maps.Set(i, map_to_js(env, *loaded.maps[i], loaded.map_types[i]));
  }
  info.Set("maps", maps);
  Napi::Array programs = Napi::Array::New(env, loaded.programs.size());
  for (uint32_t i = 0; i < loaded.programs.size(); i++) {
    Napi::Object program = prog_to_js(env, *loaded.programs[i]);
    const bool is_tail_called =
        std::any_of(loaded.maps.begin(), loaded.maps.end(), [&](const auto& map) {
          return rt_map_is_programs(&map->view) != 0 && holds_program(*map, *loaded.programs[i]);
        });
    program.Set("isTailCalled", Napi::Boolean::New(env, is_tail_called));
    programs.Set(i, program);
  }
  info.Set("programs", programs);
  info.Set("btf", Napi::Buffer<uint8_t>::Copy(env, loaded.btf.data(), loaded.btf.size()));
  objects().emplace(id, std::move(loaded));
  return info;
}

class LoadWorker : public Napi::AsyncWorker {
 public:
  LoadWorker(Napi::Env env, std::string name, std::vector<uint8_t> bytes, FormerMaps former,
             bool replaces)
      : Napi::AsyncWorker(env, "bpfLoad"),
        deferred_(Napi::Promise::Deferred::New(env)),
        name_(std::move(name)),
        bytes_(std::move(bytes)),
        former_(std::move(former)),
        replaces_(replaces) {}

  [[nodiscard]] Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override { result_ = load_object(name_, bytes_, log_, former_, replaces_); }
  void OnOK() override {
    const Napi::HandleScope scope(Env());
    if (result_) {
      deferred_.Resolve(object_to_js(Env(), std::move(*result_)));
    } else {
      const char* log = log_.empty() ? nullptr : log_.c_str();
      deferred_.Reject(make_error(Env(), result_.error(), log).Value());
    }
  }

 private:
  Napi::Promise::Deferred deferred_;
  std::string name_;
  std::vector<uint8_t> bytes_;
  FormerMaps former_;
  bool replaces_;
  std::string log_;
  Result<LoadedObject> result_ = fail(EIO, "not loaded yet");
};

// Arguments are checked once, here: a wrong type is a bug of our own TypeScript.
struct Args {
  const Napi::CallbackInfo& info;
  [[nodiscard]] uint32_t number(size_t index) const {
    return info[index].IsNumber() ? info[index].As<Napi::Number>().Uint32Value() : 0;
  }
  [[nodiscard]] std::span<const uint8_t> bytes(size_t index) const {
    if (!info[index].IsBuffer()) return {};
    const auto buffer = info[index].As<Napi::Buffer<uint8_t>>();
    return {buffer.Data(), buffer.Length()};
  }
};

Napi::Value get(const Napi::Object& object, const char* name) {
  return object.Get(name).UnwrapOr(object.Env().Undefined());
}

Napi::Value bpf_load(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Value request = info[0];
  if (!request.IsObject()) return throw_failure(env, fail(EINVAL, "bpfLoad wants a record"));
  const Napi::Value name = get(request.As<Napi::Object>(), "name");
  const Napi::Value bytes = get(request.As<Napi::Object>(), "bytes");
  if (!name.IsString() || !bytes.IsBuffer()) {
    return throw_failure(env, fail(EINVAL, "bpfLoad wants {name, bytes}"));
  }
  const auto buffer = bytes.As<Napi::Buffer<uint8_t>>();
  FormerMaps former;
  const Napi::Value replaces = get(request.As<Napi::Object>(), "replaces");
  if (replaces.IsNumber()) {
    const auto it = objects().find(replaces.As<Napi::Number>().Uint32Value());
    if (it != objects().end()) former.maps = it->second.maps;
  }
  const Napi::Value adopts = get(request.As<Napi::Object>(), "adopts");
  if (adopts.IsArray()) {
    const auto ids = adopts.As<Napi::Array>();
    former.same_file = true;
    for (uint32_t i = 0; i < ids.Length(); i++) {
      auto map = find_map(ids.Get(i).Unwrap().As<Napi::Number>().Uint32Value());
      if (map != nullptr) former.maps.push_back(std::move(map));
    }
  }
  const Napi::Value role = get(request.As<Napi::Object>(), "asReplacement");
  const bool is_replacement = role.IsBoolean() && role.As<Napi::Boolean>().Value();
  auto* worker = new LoadWorker(env, name.As<Napi::String>().Utf8Value(),
                                {buffer.Data(), buffer.Data() + buffer.Length()}, std::move(former),
                                is_replacement);
  Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

// The same maps and programs under a further id, to be unloaded by itself.
Napi::Value bpf_share(const Napi::CallbackInfo& info) {
  const auto it = objects().find(Args{info}.number(0));
  if (it == objects().end()) return throw_failure(info.Env(), fail(ENOENT, "no such object"));
  const uint32_t id = next_object_id();
  LoadedObject copy = it->second;
  objects().emplace(id, std::move(copy));
  return Napi::Number::New(info.Env(), id);
}

Napi::Value bpf_image_of(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto it = objects().find(Args{info}.number(0));
  Digest source{};
  const auto digest = Args{info}.bytes(1);
  if (it == objects().end()) return throw_failure(env, fail(ENOENT, "no such object"));
  if (digest.size() != source.size()) return throw_failure(env, fail(EINVAL, "no digest"));
  std::copy(digest.begin(), digest.end(), source.begin());
  const Result<ImageFile> file = image_of_object(it->second, source);
  if (!file) return throw_failure(env, file.error());
  const std::vector<uint8_t> bytes = write_image_file(file.value());
  return Napi::Buffer<uint8_t>::Copy(env, bytes.data(), bytes.size());
}

Napi::Value bpf_load_image(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Digest source{};
  const auto digest = Args{info}.bytes(1);
  if (digest.size() == source.size()) std::copy(digest.begin(), digest.end(), source.begin());
  Result<ImageFile> file = read_image_file(Args{info}.bytes(0), digest.empty() ? nullptr : &source);
  if (!file) return throw_failure(env, file.error());
  Result<LoadedObject> object = object_of_image(std::move(*file));
  if (!object) return throw_failure(env, object.error());
  return object_to_js(env, std::move(*object));
}

Napi::Value bpf_unload(const Napi::CallbackInfo& info) {
  objects().erase(Args{info}.number(0));
  return info.Env().Undefined();
}

// The map named by the first argument, or a pending exception.
std::shared_ptr<MapObject> map_argument(const Napi::CallbackInfo& info) {
  std::shared_ptr<MapObject> map = find_map(Args{info}.number(0));
  if (map == nullptr) throw_failure(info.Env(), fail(ENOENT, "no such map"));
  return map;
}

bool check_size(const Napi::CallbackInfo& info, size_t argument, uint64_t want,
                const char* reason) {
  if (Args{info}.bytes(argument).size() == want) return true;
  throw_failure(info.Env(), fail(EINVAL, reason));
  return false;
}

Napi::Value bpf_map_info(const Napi::CallbackInfo& info) {
  const auto map = map_argument(info);
  return map == nullptr ? info.Env().Undefined()
                        : map_to_js(info.Env(), *map, {map->btf_key_type, map->btf_value_type});
}

Napi::Value bpf_map_lookup(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto map = map_argument(info);
  if (map == nullptr) return env.Undefined();
  if (!check_size(info, 1, map->view.key_size, "key of a wrong size")) return env.Undefined();
  std::vector<uint8_t> value(rt_map_value_bytes(&map->view));
  const long ret = rt_map_read(&map->view, Args{info}.bytes(1).data(), value.data());
  if (ret == -ENOENT) return env.Undefined();
  if (ret != 0) {
    return throw_failure(env, fail(static_cast<int>(-ret), "map cannot be looked up"));
  }
  return Napi::Buffer<uint8_t>::Copy(env, value.data(), value.size());
}

Napi::Value bpf_map_update(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto map = map_argument(info);
  if (map == nullptr) return env.Undefined();
  const uint64_t value_bytes = rt_map_value_bytes(&map->view);
  if (!check_size(info, 1, map->view.key_size, "key of a wrong size") ||
      !check_size(info, 2, value_bytes, "value of a wrong size")) {
    return env.Undefined();
  }
  if (map->frozen) return throw_failure(env, fail(EPERM, "map is read-only"));
  if (rt_map_is_nested(&map->view)) {
    return throw_failure(env, fail(EOPNOTSUPP, "what is in a map of maps, its object file says"));
  }
  const Args args{info};
  const uint8_t* value = args.bytes(2).data();
  if (rt_map_is_programs(&map->view) != 0) {
    uint32_t id = 0;
    std::memcpy(&id, value, sizeof id);
    const long put = put_known_program(map.get(), args.bytes(1).data(), id);
    if (put != 0) throw_failure(env, fail(static_cast<int>(-put), "no such entry or program"));
    return env.Undefined();
  }
  const long ret = rt_map_is_keyless(&map->view)
                       ? rt_map_push(&map->view, value, args.number(3))
                       : rt_map_write(&map->view, args.bytes(1).data(), value, args.number(3));
  if (ret != 0) throw_failure(env, fail(static_cast<int>(-ret), "map refuses the entry"));
  return env.Undefined();
}

Napi::Value bpf_map_delete(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto map = map_argument(info);
  if (map == nullptr) return env.Undefined();
  if (!check_size(info, 1, map->view.key_size, "key of a wrong size")) return env.Undefined();
  if (rt_map_is_nested(&map->view)) {
    return throw_failure(env, fail(EOPNOTSUPP, "what is in a map of maps, its object file says"));
  }
  if (rt_map_is_programs(&map->view) != 0) {
    const long taken = take_program(map.get(), Args{info}.bytes(1).data());
    if (taken != 0) throw_failure(env, fail(static_cast<int>(-taken), "nothing is there"));
    return env.Undefined();
  }
  std::vector<uint8_t> taken(map->view.value_size);
  const long ret = rt_map_is_keyless(&map->view)
                       ? rt_map_pop(&map->view, taken.data())
                       : rt_map_delete(&map->view, Args{info}.bytes(1).data());
  if (ret != 0) throw_failure(env, fail(static_cast<int>(-ret), "entry cannot be deleted"));
  return env.Undefined();
}

Napi::Value bpf_map_dump(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto map = map_argument(info);
  if (map == nullptr) return env.Undefined();
  const vm_map& view = map->view;
  const uint32_t limit = std::min(Args{info}.number(1), kDumpEntriesMax);
  const size_t entry_bytes = view.key_size + rt_map_value_bytes(&view);
  std::vector<uint8_t> entries;
  std::vector<uint8_t> entry(entry_bytes);
  uint32_t count = 0;
  uint64_t cursor = 0;
  if (view.type == BPF_MAP_TYPE_TASK_STORAGE) rt_tasks_sweep(&view);
  while (count < limit &&
         rt_map_iterate(&view, &cursor, entry.data(), entry.data() + view.key_size) == 0) {
    if (rt_map_is_nested(&view) != 0 || rt_map_is_programs(&view) != 0) {
      uint32_t id = 0;
      std::memcpy(&id, entry.data() + view.key_size, sizeof id);
      const auto program = program_at(*map, id);
      const uint32_t program_id = program != nullptr ? program->id : 0;
      id = rt_map_is_programs(&view) != 0 ? program_id : inner_map_id(*map, id);
      if (id == 0) continue;  // nothing is there
      std::memcpy(entry.data() + view.key_size, &id, sizeof id);
    }
    entries.insert(entries.end(), entry.begin(), entry.end());
    count++;
  }
  Napi::Object dump = Napi::Object::New(env);
  set_number(dump, "count", count);
  dump.Set("entries", Napi::Buffer<uint8_t>::Copy(env, entries.data(), entries.size()));
  return dump;
}

Napi::Value bpf_test_run(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsObject()) return throw_failure(env, fail(EINVAL, "bpfTestRun wants a record"));
  const auto request = info[0].As<Napi::Object>();
  const Napi::Value id = get(request, "progId");
  const Napi::Value ctx = get(request, "ctx");
  const Napi::Value engine = get(request, "engine");
  if (!id.IsNumber() || !ctx.IsBuffer() || !engine.IsString()) {
    return throw_failure(env, fail(EINVAL, "bpfTestRun wants {progId, ctx, engine}"));
  }
  const auto prog = find_prog(id.As<Napi::Number>().Uint32Value());
  if (prog == nullptr) return throw_failure(env, fail(ENOENT, "no such program"));
  const auto buffer = ctx.As<Napi::Buffer<uint8_t>>();
  TestRun run;
  run.ctx = {buffer.Data(), buffer.Length()};
  const std::string name = engine.As<Napi::String>().Utf8Value();
  if (name == "interpreter") run.engine = Engine::kInterpreter;
  if (name == "checked") run.engine = Engine::kChecked;
  const Napi::Value repeat = get(request, "repeat");
  if (repeat.IsNumber()) run.repeat = std::max(1u, repeat.As<Napi::Number>().Uint32Value());
  Result<TestResult> result = test_run(*prog, run);
  if (!result) return throw_failure(env, result.error());
  Napi::Object ran = Napi::Object::New(env);
  ran.Set("result", Napi::BigInt::New(env, result->retval));
  ran.Set("totalNs", Napi::BigInt::New(env, result->total_ns));
  return ran;
}

Napi::Value bpf_format_record(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Result<FormatPlan> plan = FormatPlan::parse(Args{info}.bytes(0));
  if (!plan) return throw_failure(env, plan.error());
  std::string text;
  plan->format(Args{info}.bytes(1), text);
  return Napi::String::New(env, text);
}

}  // namespace

void init_bpf(Napi::Env env, Napi::Object exports) {
  exports.Set("bpfLoad", Napi::Function::New(env, bpf_load));
  exports.Set("bpfShare", Napi::Function::New(env, bpf_share));
  exports.Set("bpfImageOf", Napi::Function::New(env, bpf_image_of));
  exports.Set("bpfLoadImage", Napi::Function::New(env, bpf_load_image));
  exports.Set("bpfUnload", Napi::Function::New(env, bpf_unload));
  exports.Set("bpfMapInfo", Napi::Function::New(env, bpf_map_info));
  exports.Set("bpfMapLookup", Napi::Function::New(env, bpf_map_lookup));
  exports.Set("bpfMapUpdate", Napi::Function::New(env, bpf_map_update));
  exports.Set("bpfMapDelete", Napi::Function::New(env, bpf_map_delete));
  exports.Set("bpfMapDump", Napi::Function::New(env, bpf_map_dump));
  exports.Set("bpfFormatRecord", Napi::Function::New(env, bpf_format_record));
  exports.Set("bpfTestRun", Napi::Function::New(env, bpf_test_run));
}

}  // namespace bpftime::addon
