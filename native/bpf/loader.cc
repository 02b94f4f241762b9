// SPDX-License-Identifier: MIT
// Drives libbpf; its messages are collected per thread because its print hook is global.
#include "loader.h"

#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>

#include <cstdarg>
#include <cstdio>
#include <memory>
#include <mutex>

#include "elf_check.h"
#include "objects.h"
#include "syscall.h"

namespace bpftime {

namespace {

constexpr size_t kLogBytesMax = 64u << 10;

thread_local std::string* log_of_thread = nullptr;

int print_to_log(libbpf_print_level level, const char* format, va_list args) {
  if (level == LIBBPF_DEBUG || log_of_thread == nullptr) return 0;
  if (log_of_thread->size() >= kLogBytesMax) return 0;
  char line[1024];
  const int size = std::vsnprintf(line, sizeof(line), format, args);
  if (size > 0) log_of_thread->append(line);
  return size;
}

// Collects libbpf's messages of this thread while it exists.
class LogCapture {
 public:
  explicit LogCapture(std::string& log) {
    static std::once_flag once;
    std::call_once(once, [] { libbpf_set_print(print_to_log); });
    log_of_thread = &log;
  }
  ~LogCapture() { log_of_thread = nullptr; }
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;
};

struct CloseObject {
  void operator()(bpf_object* object) const { bpf_object__close(object); }
};

// Sections that libbpf does not know run with registers as context, like uprobes.
void default_types(bpf_object* object) {
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object) {
    bpf_program__set_autoload(program, true);
    if (bpf_program__type(program) == BPF_PROG_TYPE_UNSPEC) {
      bpf_program__set_type(program, BPF_PROG_TYPE_KPROBE);
    }
  }
}

// Types of what a ring carries, declared by __type(value, struct T). The kernel has no use for
// them, so libbpf drops them and would have it refuse the size; our readers print records by them.
struct RecordType {
  const bpf_map* map;
  uint32_t type;
};

std::vector<RecordType> take_record_types(bpf_object* object) {
  std::vector<RecordType> types;
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object) {
    const bpf_map_type type = bpf_map__type(map);
    if (type != BPF_MAP_TYPE_RINGBUF && type != BPF_MAP_TYPE_PERF_EVENT_ARRAY) continue;
    types.push_back({map, bpf_map__btf_value_type_id(map)});
    const uint32_t slot_bytes = type == BPF_MAP_TYPE_RINGBUF ? 0 : 4;
    bpf_map__set_key_size(map, slot_bytes);
    bpf_map__set_value_size(map, slot_bytes);
  }
  return types;
}

Result<LoadedObject> collect(bpf_object* object, const std::vector<RecordType>& record_types) {
  LoadedObject loaded;
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object) {
    std::shared_ptr<MapObject> ours = map_of_fd(bpf_map__fd(map));
    if (ours == nullptr) continue;  // not created, e.g. an empty section
    ours->name = bpf_map__name(map);
    for (const RecordType& record : record_types) {
      if (record.map == map) ours->btf_value_type = record.type;
    }
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

Result<LoadedObject> load_object(const std::string& name, std::span<const uint8_t> file,
                                 std::string& log) {
  const Result<void> shape = check_bpf_object(file);
  if (!shape) return shape.error();
  if (!libbpf_is_ours()) return fail(EIO, "libbpf is not bound to our bpf(2)");
  const LogCapture capture(log);
  const LoadSession session;
  bpf_object_open_opts options{};
  options.sz = sizeof(options);
  options.object_name = name.c_str();
  const std::unique_ptr<bpf_object, CloseObject> object(
      bpf_object__open_mem(file.data(), file.size(), &options));
  if (object == nullptr) return fail(ENOEXEC, "libbpf cannot read the object");
  default_types(object.get());
  const std::vector<RecordType> record_types = take_record_types(object.get());
  const int error = bpf_object__load(object.get());
  if (error == -ENOMEM || error == -EMFILE) return fail(-error, "no memory or descriptors left");
  if (error != 0) return fail(ENOEXEC, "a program or map of the object was refused");
  return collect(object.get(), record_types);
}

}  // namespace bpftime
