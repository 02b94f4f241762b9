// SPDX-License-Identifier: MIT
// Drives libbpf; its messages are collected per thread because its print hook is global.
#include "loader.h"

#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <iterator>
#include <memory>
#include <mutex>
#include <string_view>

#include "../vm/rt/map.h"
#include "elf_check.h"
#include "objects.h"
#include "prog_array.h"
#include "syscall.h"

namespace bpftime {

namespace {

constexpr uint32_t kStackBytes = 127 * 8;  // a stack of the kernel's perf_event_max_stack
constexpr uint32_t kStacks = 1024;
constexpr size_t kLogBytesMax = 64u << 10;

thread_local std::string* log_of_thread = nullptr;

int print_to_log(libbpf_print_level level, const char* format, va_list args) {
  if (level == LIBBPF_DEBUG || log_of_thread == nullptr) return 0;
  if (log_of_thread->size() >= kLogBytesMax) return 0;
  // A program's log comes in one piece, and its last line is the one that people read.
  va_list again;
  va_copy(again, args);
  const int size = std::vsnprintf(nullptr, 0, format, again);
  va_end(again);
  if (size <= 0) return size;
  std::string line(static_cast<size_t>(size) + 1, 0);
  std::vsnprintf(line.data(), line.size(), format, args);
  line.pop_back();
  log_of_thread->append(line);
  return size;
}

bool is_replace_section(const char* section) {
  constexpr std::string_view kName = "replace";
  const std::string_view name(section);
  return name.starts_with(kName) && (name.size() == kName.size() || name[kName.size()] == '/');
}

// Sections that libbpf does not know run with registers as context, like uprobes.
void default_types(bpf_object* object, bool replaces) {
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object) {
    bpf_program__set_autoload(program, true);
    if (bpf_program__type(program) == BPF_PROG_TYPE_UNSPEC) {
      bpf_program__set_type(program, BPF_PROG_TYPE_KPROBE);
    }
    const bool is_probe = bpf_program__type(program) == BPF_PROG_TYPE_KPROBE;
    if (is_probe && (replaces || is_replace_section(bpf_program__section_name(program)))) {
      bpf_program__set_expected_attach_type(program, static_cast<bpf_attach_type>(kAttachReplace));
    }
  }
}

// What an object file says of a map, before anything is made of it.
struct DeclaredMap {
  bpf_map* map;
  LoadedObject::MapTypes types;
  std::vector<uint8_t> initial;  // of global variables
};

bool is_record_map(const bpf_map* map) {
  const bpf_map_type type = bpf_map__type(map);
  return type == BPF_MAP_TYPE_RINGBUF || type == BPF_MAP_TYPE_PERF_EVENT_ARRAY;
}

std::vector<DeclaredMap> take_declarations(bpf_object* object) {
  std::vector<DeclaredMap> declared;
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object) {
    DeclaredMap one{map, {bpf_map__btf_key_type_id(map), bpf_map__btf_value_type_id(map)}, {}};
    size_t size = 0;
    const auto* bytes = static_cast<const uint8_t*>(bpf_map__initial_value(map, &size));
    if (bytes != nullptr) one.initial.assign(bytes, bytes + size);
    declared.push_back(std::move(one));
    // Tools choose these when they start; without one there are those that they choose by default.
    if (bpf_map__type(map) == BPF_MAP_TYPE_STACK_TRACE) {
      if (bpf_map__value_size(map) == 0) bpf_map__set_value_size(map, kStackBytes);
      if (bpf_map__max_entries(map) == 0) bpf_map__set_max_entries(map, kStacks);
    }
    // Types of what a ring carries, declared by __type(value, struct T). The kernel has no use for
    // them, so libbpf drops them and would have it refuse the size; our readers print by them.
    if (!is_record_map(map)) continue;
    const uint32_t slot_bytes = bpf_map__type(map) == BPF_MAP_TYPE_RINGBUF ? 0 : 4;
    bpf_map__set_key_size(map, slot_bytes);
    bpf_map__set_value_size(map, slot_bytes);
  }
  return declared;
}

bool may_go_on_with(const DeclaredMap& declared, const MapObject& former, bool same_file) {
  const bpf_map* map = declared.map;
  uint32_t entries = bpf_map__max_entries(map);
  if (entries == 0 && bpf_map__type(map) == BPF_MAP_TYPE_PERF_EVENT_ARRAY) {
    entries = possible_cpu_count();
  }
  if (bpf_map__type(map) == BPF_MAP_TYPE_TASK_STORAGE) entries = former.view.max_entries;
  const vm_map& view = former.view;
  if (former.name != bpf_map__name(map) || view.type != bpf_map__type(map) ||
      view.key_size != bpf_map__key_size(map) || view.value_size != bpf_map__value_size(map) ||
      view.max_entries != entries ||
      view.map_flags != (bpf_map__map_flags(map) & ~uint32_t{BPF_F_NUMA_NODE})) {
    return false;
  }
  const auto hashes = static_cast<uint32_t>(bpf_map__map_extra(map));
  if (view.type == BPF_MAP_TYPE_BLOOM_FILTER && hashes != 0 && hashes != view.elem_stride) {
    return false;
  }
  // What is in it are programs of the other object.
  if (rt_map_is_programs(&view) != 0) return false;
  // Programs were verified for inner maps like those that this object declares.
  if (rt_map_is_nested(&view) && !same_file) return false;
  if (!bpf_map__is_internal(map) || same_file) return true;
  return (view.map_flags & BPF_F_RDONLY_PROG) == 0 && former.initial == declared.initial;
}

bool go_on_with(const FormerMaps& former, std::vector<DeclaredMap>* declared) {
  for (DeclaredMap& one : *declared) {
    for (const std::shared_ptr<MapObject>& map : former.maps) {
      if (!may_go_on_with(one, *map, former.same_file)) continue;
      if (bpf_map__reuse_fd(one.map, map->storage.get()) != 0) return false;
      break;
    }
  }
  return true;
}

Result<LoadedObject> collect(bpf_object* object, std::vector<DeclaredMap>* declared,
                             const FormerMaps& former) {
  LoadedObject loaded;
  for (DeclaredMap& one : *declared) {
    std::shared_ptr<MapObject> ours = map_of_fd(bpf_map__fd(one.map));
    if (ours == nullptr) continue;  // not created, e.g. an empty section
    const auto& kept = former.maps;
    // Others are looking at a map that was there before, unless its object is only coming back.
    if (former.same_file || std::find(kept.begin(), kept.end(), ours) == kept.end()) {
      ours->name = bpf_map__name(one.map);
      if (is_record_map(one.map)) ours->btf_value_type = one.types.value;
      ours->initial = std::move(one.initial);
    }
    loaded.map_types.push_back(one.types);
    loaded.maps.push_back(std::move(ours));
  }
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object) {
    std::shared_ptr<ProgObject> ours = prog_of_fd(bpf_program__fd(program));
    if (ours == nullptr) return fail(EIO, "libbpf did not load one of the programs");
    ours->name = bpf_program__name(program);
    ours->section = bpf_program__section_name(program);
    loaded.programs.push_back(std::move(ours));
  }
  // Whatever of the object may be gone on with: entries can be changed to it while programs run.
  for (const auto& map : loaded.maps) {
    if (rt_map_is_programs(&map->view) == 0) continue;
    for (const auto& ours : loaded.programs) {
      (void)add_program(map.get(), ours);  // those of its kind
    }
  }
  if (loaded.programs.empty()) {
    return fail(ENOEXEC, "no program in the object: give each function a SEC(\"...\")");
  }
  if (const btf* types = bpf_object__btf(object)) {
    uint32_t size = 0;
    const auto* bytes = static_cast<const uint8_t*>(btf__raw_data(types, &size));
    if (bytes != nullptr) loaded.btf.assign(bytes, bytes + size);
  }
  return loaded;
}

}  // namespace

LogCapture::LogCapture(std::string& log) {
  static std::once_flag once;
  std::call_once(once, [] { libbpf_set_print(print_to_log); });
  log_of_thread = &log;
}
LogCapture::~LogCapture() { log_of_thread = nullptr; }

void CloseObject::operator()(bpf_object* object) const { bpf_object__close(object); }

Result<ObjectPtr> open_object(const std::string& name, std::span<const uint8_t> file,
                              bool replaces) {
  const Result<void> shape = check_bpf_object(file);
  if (!shape) return shape.error();
  if (!libbpf_is_ours()) return fail(EIO, "libbpf is not bound to our bpf(2)");
  bpf_object_open_opts options{};
  options.sz = sizeof(options);
  options.object_name = name.c_str();
  ObjectPtr object(bpf_object__open_mem(file.data(), file.size(), &options));
  if (object == nullptr) return fail(ENOEXEC, "libbpf cannot read the object");
  default_types(object.get(), replaces);
  return object;
}

std::string absent_map(const bpf_object* object) {
  constexpr uint32_t kKinds[] = {
      BPF_MAP_TYPE_HASH,         BPF_MAP_TYPE_ARRAY,         BPF_MAP_TYPE_PERF_EVENT_ARRAY,
      BPF_MAP_TYPE_PERCPU_HASH,  BPF_MAP_TYPE_PERCPU_ARRAY,  BPF_MAP_TYPE_STACK_TRACE,
      BPF_MAP_TYPE_CGROUP_ARRAY, BPF_MAP_TYPE_LRU_HASH,      BPF_MAP_TYPE_LRU_PERCPU_HASH,
      BPF_MAP_TYPE_LPM_TRIE,     BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH_OF_MAPS,
      BPF_MAP_TYPE_QUEUE,        BPF_MAP_TYPE_STACK,         BPF_MAP_TYPE_RINGBUF,
      BPF_MAP_TYPE_BLOOM_FILTER, BPF_MAP_TYPE_TASK_STORAGE,  BPF_MAP_TYPE_PROG_ARRAY,
  };
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object) {
    const uint32_t type = bpf_map__type(map);
    if (std::find(std::begin(kKinds), std::end(kKinds), type) != std::end(kKinds)) continue;
    const std::string name = std::string("map ") + bpf_map__name(map);
    const char* kind = libbpf_bpf_map_type_str(static_cast<bpf_map_type>(type));
    return name + " is of kind " + (kind != nullptr ? kind : "unknown") +
           ", which exists in the kernel only (use a hash or an array)";
  }
  return "";
}

void forget_ring_types(bpf_object* object) { take_declarations(object); }

Result<LoadedObject> load_object(const std::string& name, std::span<const uint8_t> file,
                                 std::string& log, const FormerMaps& former, bool replaces) {
  const LogCapture capture(log);
  const LoadSession session;
  Result<ObjectPtr> opened = open_object(name, file, replaces);
  if (!opened) return opened.error();
  const ObjectPtr& object = *opened;
  if (const std::string absent = absent_map(object.get()); !absent.empty()) {
    log = absent + '\n';
    return fail(ENOEXEC, "a map of the object is of a kind that does not exist here");
  }
  std::vector<DeclaredMap> declared = take_declarations(object.get());
  if (!go_on_with(former, &declared)) return fail(EMFILE, "no memory or descriptors left");
  const int error = bpf_object__load(object.get());
  if (error == -ENOMEM || error == -EMFILE) return fail(-error, "no memory or descriptors left");
  if (error != 0) return fail(ENOEXEC, "a program or map of the object was refused");
  return collect(object.get(), &declared, former);
}

}  // namespace bpftime
