// SPDX-License-Identifier: MIT
// Creating maps, programs and BTF objects.
#include "objects.h"

#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <mutex>

#include "../vm/rt/bloom.h"
#include "../vm/rt/helpers.h"
#include "../vm/rt/map.h"
#include "../vm/vm.h"
#include "prog_array.h"
#include "registry_table.h"
#include "verification.h"

namespace bpftime {

namespace {

constexpr size_t kBtfBytesMax = 16u << 20;  // as the kernel's BTF_MAX_SIZE
constexpr size_t kInnerMapsMax = 4096;      // of one map of maps
constexpr unsigned kMfdExec = 0x10;         // MFD_EXEC, Linux 6.3

Result<ScopedFd> make_memfd(const char* name, bool executable) {
  const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  int fd = executable ? memfd_create(name, flags | kMfdExec) : -1;
  if (fd < 0) fd = memfd_create(name, flags);
  if (fd < 0) return fail(errno, "memfd_create failed");
  return ScopedFd(fd);
}

bool write_all(int fd, const void* data, size_t size) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  while (size != 0) {
    const ssize_t done = write(fd, bytes, size);
    if (done <= 0) return false;
    bytes += done;
    size -= static_cast<size_t>(done);
  }
  return true;
}

// A memfd that can never change again, as a read-only descriptor.
Result<ScopedFd> make_constant_memfd(const char* name, const void* data, size_t size,
                                     bool executable) {
  Result<ScopedFd> made = make_memfd(name, executable);
  if (!made) return made.error();
  const int fd = made->get();
  if (!write_all(fd, data, size)) return fail(ENOMEM, "no memory for the object's bytes");
  fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  char path[40];
  std::snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  ScopedFd readable(open(path, O_RDONLY | O_CLOEXEC));
  if (!readable.valid()) return fail(errno, "memfd cannot be opened read-only");
  return readable;
}

constexpr uint8_t kOpLddw = BPF_LD | BPF_IMM | BPF_DW;

uint8_t opcode_of(uint64_t slot) { return static_cast<uint8_t>(slot); }
uint8_t src_of(uint64_t slot) { return (slot >> 12) & 0xf; }
int32_t imm_of(uint64_t slot) { return static_cast<int32_t>(slot >> 32); }
uint64_t with_map(uint64_t slot, uint8_t src, uint32_t imm) {
  return (slot & 0x00000000ffff0fffull) | static_cast<uint64_t>(src) << 12 |
         static_cast<uint64_t>(imm) << 32;
}

struct Refusal {
  int errnum = 0;
  size_t insn = 0;
  const char* reason = nullptr;
};

// Replaces the descriptor in one lddw by the map's id.
Refusal translate_map(ProgObject& prog, size_t at, std::span<const int32_t> fd_array) {
  uint64_t& slot = prog.insns[at];
  const uint8_t src = src_of(slot);
  int fd = imm_of(slot);
  if (src == BPF_PSEUDO_MAP_IDX || src == BPF_PSEUDO_MAP_IDX_VALUE) {
    if (fd < 0 || static_cast<size_t>(fd) >= fd_array.size()) {
      return {EINVAL, at, "map index outside fd_array"};
    }
    fd = fd_array[static_cast<size_t>(fd)];
  }
  const std::shared_ptr<MapObject> map = map_of_fd(fd);
  if (map == nullptr) return {EBADF, at, "descriptor is not a map"};
  const bool is_value = src == BPF_PSEUDO_MAP_VALUE || src == BPF_PSEUDO_MAP_IDX_VALUE;
  if (is_value && map->view.type != BPF_MAP_TYPE_ARRAY) {
    return {EINVAL, at, "direct value access needs an array map"};
  }
  if (is_value) {
    const auto offset = static_cast<uint32_t>(imm_of(prog.insns[at + 1]));
    if (offset >= map->view.value_size) return {EINVAL, at, "offset beyond the map's value"};
  }
  slot = with_map(slot, is_value ? BPF_PSEUDO_MAP_VALUE : BPF_PSEUDO_MAP_FD, map->id);
  for (const auto& known : prog.maps) {
    if (known == map) return {};
  }
  prog.maps.push_back(map);
  return {};
}

Refusal translate(ProgObject& prog, std::span<const int32_t> fd_array) {
  for (size_t i = 0; i < prog.insns.size(); i++) {
    if (opcode_of(prog.insns[i]) != kOpLddw) continue;
    if (i + 1 == prog.insns.size()) return {EINVAL, i, "lddw without its second half"};
    switch (src_of(prog.insns[i])) {
      case 0:
      case BPF_PSEUDO_FUNC:
        break;
      case BPF_PSEUDO_MAP_FD:
      case BPF_PSEUDO_MAP_VALUE:
      case BPF_PSEUDO_MAP_IDX:
      case BPF_PSEUDO_MAP_IDX_VALUE: {
        const Refusal refusal = translate_map(prog, i, fd_array);
        if (refusal.errnum != 0) return refusal;
        break;
      }
      case BPF_PSEUDO_BTF_ID:
        return {EINVAL, i, "kernel variables (__ksym) do not exist in a process"};
      default:
        return {EINVAL, i, "unknown kind of 64-bit immediate"};
    }
    i++;
  }
  return {};
}

/// They are mapped wherever the program is.
void add_inner_maps(ProgObject* prog) {
  const size_t named = prog->maps.size();
  for (size_t i = 0; i < named; ++i) {
    const std::shared_ptr<MapObject> outer = prog->maps[i];
    if (outer->inner_like == nullptr) continue;
    const std::lock_guard lock(outer->inner_mutex);
    prog->inner[outer->id] = outer->inner;
    for (const auto& inner : outer->inner) {
      const auto& maps = prog->maps;
      if (std::find(maps.begin(), maps.end(), inner) == maps.end()) prog->maps.push_back(inner);
    }
  }
}

MapGeometry geometry_of(void* user, uint32_t map_id) {
  for (const auto& map : static_cast<ProgObject*>(user)->maps) {
    if (map->id != map_id) continue;
    MapGeometry geometry;
    geometry.type = map->view.type;
    geometry.max_entries = map->view.max_entries;
    geometry.value_stride = map->view.value_stride;
    geometry.elem_stride = map->view.elem_stride;
    geometry.cpu_count = map->view.cpu_count;
    geometry.key_size = map->view.key_size;
    geometry.bucket_count = map->view.bucket_count;
    geometry.bucket_off = map->view.bucket_off;
    geometry.data_off = map->view.data_off;
    return geometry;
  }
  return {};
}

// Maps are locked with thread ids and programs run here in tests: both need to know this process.
void prepare_runtime() {
  static std::once_flag once;
  std::call_once(once, [] {
    rt_env_init_hosted();
    rt_env.cpu_count = possible_cpu_count();
  });
}

}  // namespace

int dup_for_user(int fd) {
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  return copy >= 0 ? copy : -errno;
}

uint32_t possible_cpu_count() {
  static const uint32_t count = [] {
    const int cpus = libbpf_num_possible_cpus();
    return cpus > 0 ? static_cast<uint32_t>(cpus) : 1u;
  }();
  return count;
}

namespace {

Result<std::shared_ptr<MapObject>> lay_out(const MapSpec& spec) {
  prepare_runtime();
  auto map = std::make_shared<MapObject>();
  vm_map& view = map->view;
  view.type = spec.type;
  view.key_size = spec.key_size;
  view.value_size = spec.value_size;
  view.max_entries = spec.max_entries;
  view.map_flags = spec.flags & ~uint32_t{BPF_F_NUMA_NODE};
  view.cpu_count = possible_cpu_count();
  view.elem_stride = spec.bloom_hashes;
  const int refused = rt_map_layout(&view);
  if (refused != 0) return fail(-refused, "no such map type, size or flag");
  map->name = spec.name;
  map->btf = spec.btf;
  map->btf_key_type = spec.btf_key_type;
  map->btf_value_type = spec.btf_value_type;
  if (rt_map_is_nested(&view) != 0 || rt_map_is_programs(&view) != 0) {
    view.cpu_count = 0;  // nothing lies behind the view itself
    map->inner_like = spec.inner_like;
  }
  return map;
}

Result<void> map_storage(MapObject* map, ScopedFd storage) {
  void* base = mmap(nullptr, map->view.storage_bytes, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_NORESERVE, storage.get(), 0);
  if (base == MAP_FAILED) return fail(ENOMEM, "no address space for the map");
  map->view.base = static_cast<u8*>(base);
  map->storage = std::move(storage);
  map->id = map->view.id = reserve_id(ObjectKind::kMap);
  return {};
}

}  // namespace

Result<std::shared_ptr<MapObject>> create_map(const MapSpec& spec) {
  Result<std::shared_ptr<MapObject>> laid_out = lay_out(spec);
  if (!laid_out) return laid_out;
  const std::shared_ptr<MapObject>& map = *laid_out;
  Result<ScopedFd> storage = make_memfd("bpftime_map", false);
  if (!storage) return storage.error();
  if (ftruncate(storage->get(), static_cast<off_t>(map->view.storage_bytes)) != 0) {
    return fail(ENOMEM, "no memory for the map");
  }
  fcntl(storage->get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  const Result<void> mapped = map_storage(map.get(), std::move(*storage));
  if (!mapped) return mapped.error();
  rt_map_init(&map->view);
  register_object({ObjectKind::kMap, map->id}, map->storage.get(), map);
  return laid_out;
}

Result<std::shared_ptr<MapObject>> adopt_map(const MapSpec& spec, ScopedFd storage) {
  MapSpec whole = spec;
  if (spec.type == BPF_MAP_TYPE_BLOOM_FILTER) {
    // Whatever a target has made of it, the filter is its own, and the layout has bounds for it.
    const auto at = static_cast<off_t>(offsetof(rt_bloom_ctl, hashes));
    if (pread(storage.get(), &whole.bloom_hashes, sizeof(uint32_t), at) != sizeof(uint32_t)) {
      return fail(EINVAL, "the map's storage cannot be read");
    }
  }
  Result<std::shared_ptr<MapObject>> laid_out = lay_out(whole);
  if (!laid_out) return laid_out;
  const std::shared_ptr<MapObject>& map = *laid_out;
  const off_t size = lseek(storage.get(), 0, SEEK_END);
  if (size < 0 || static_cast<uint64_t>(size) != map->view.storage_bytes) {
    return fail(EINVAL, "the map's storage is of another size");
  }
  const Result<void> mapped = map_storage(map.get(), std::move(storage));
  if (!mapped) return mapped.error();
  register_object({ObjectKind::kMap, map->id}, map->storage.get(), map);
  return laid_out;
}

long put_inner_map(MapObject* outer, const void* key, const std::shared_ptr<MapObject>& inner,
                   uint64_t flags) {
  const auto is_like = [&](const vm_map& a, const vm_map& b) {
    const bool same_size = a.max_entries == b.max_entries || rt_map_is_hash(&a) != 0;
    return a.type == b.type && a.key_size == b.key_size && a.value_size == b.value_size &&
           a.map_flags == b.map_flags && same_size;
  };
  if (outer->inner_like == nullptr || !is_like(outer->inner_like->view, inner->view)) {
    return -EINVAL;
  }
  const std::lock_guard lock(outer->inner_mutex);
  auto& all = outer->inner;
  const auto found = std::find(all.begin(), all.end(), inner);
  const auto number = static_cast<uint32_t>(found - all.begin()) + 1;
  if (found == all.end()) {
    if (all.size() >= kInnerMapsMax) return -E2BIG;
    all.push_back(inner);
  }
  return rt_map_write(&outer->view, key, &number, flags);
}

uint32_t inner_map_id(const MapObject& outer, uint32_t number) {
  const std::lock_guard lock(outer.inner_mutex);
  return number - 1 < outer.inner.size() ? outer.inner[number - 1]->id : 0;
}

std::vector<vm_map> views_of(const ProgObject& prog, const MapObject& map) {
  std::vector<vm_map> views{map.view};
  if (rt_map_is_programs(&map.view) != 0) {
    const std::lock_guard lock(map.inner_mutex);
    views.front().cpu_count = static_cast<uint32_t>(map.programs.size());
    return views;
  }
  const auto found = prog.inner.find(map.id);
  if (found == prog.inner.end()) return views;
  for (const auto& inner : found->second) views.push_back(inner->view);
  views.front().cpu_count = static_cast<uint32_t>(found->second.size());
  return views;
}

namespace {

Result<std::shared_ptr<ProgObject>> register_prog(std::shared_ptr<ProgObject> prog,
                                                  ProgramImage image) {
  prog->image = std::move(image);
  Result<ScopedFd> text =
      make_constant_memfd("bpftime_text", prog->image.text.data(), prog->image.text.size(), true);
  if (!text) return text.error();
  prog->text = std::move(*text);
  prog->id = reserve_id(ObjectKind::kProg);
  register_object({ObjectKind::kProg, prog->id}, prog->text.get(), prog);
  return prog;
}

}  // namespace

Result<std::shared_ptr<ProgObject>> create_prog(const ProgSpec& spec, std::string& log) {
  if (spec.insns.empty() || spec.insns.size() > kInsnCountMax) {
    return fail(E2BIG, "no instructions, or too many");
  }
  prepare_runtime();
  auto prog = std::make_shared<ProgObject>();
  prog->name = spec.name;
  prog->type = spec.type;
  prog->role = spec.role;
  prog->insns.assign(spec.insns.begin(), spec.insns.end());
  const Refusal refusal = translate(*prog, spec.fd_array);
  if (refusal.errnum != 0) {
    add_log_line(log, refusal.insn, refusal.reason);
    return fail(refusal.errnum, refusal.reason);
  }
  add_inner_maps(prog.get());
  for (const auto& map : prog->maps) {
    if (rt_map_is_programs(&map->view) == 0) continue;
    const Result<void> bound = bind_program_kind(map.get(), *prog);
    if (!bound) {
      add_log_line(log, 0, bound.error().reason);
      return bound.error();
    }
  }
  const Result<void> verified = verify_prog(prog.get(), spec, log);
  if (!verified) return verified.error();
  // As it was written: where constants make it unreachable it still says what is meant.
  prog->overrides =
      std::find(spec.insns.begin(), spec.insns.end(), kCallOverrideReturn) != spec.insns.end();
  CompileOptions compile_options;
  compile_options.helpers = &known_helpers();
  compile_options.geometry = geometry_of;
  compile_options.user = prog.get();
  compile_options.tail_calls = true;
  Result<ProgramImage> image = compile(prog->insns, compile_options);
  if (!image) {
    log += image.error().reason;
    log += '\n';
    return image.error();
  }
  prog->btf = spec.btf;
  prog->func_info = spec.func_info;
  prog->line_info = spec.line_info;
  return register_prog(std::move(prog), std::move(*image));
}

Result<std::shared_ptr<ProgObject>> create_compiled_prog(
    const ProgSpec& spec, ProgramImage image, std::vector<std::shared_ptr<MapObject>> maps) {
  prepare_runtime();
  auto prog = std::make_shared<ProgObject>();
  prog->name = spec.name;
  prog->type = spec.type;
  prog->maps = std::move(maps);
  return register_prog(std::move(prog), std::move(image));
}

Result<std::shared_ptr<BtfObject>> create_btf(std::span<const uint8_t> data) {
  struct {
    uint16_t magic;
    uint8_t version, flags;
    uint32_t hdr_len, type_off, type_len, str_off, str_len;
  } header;
  if (data.size() < sizeof(header)) return fail(EINVAL, "BTF is shorter than its header");
  if (data.size() > kBtfBytesMax) return fail(E2BIG, "BTF is over 16 MiB");
  std::memcpy(&header, data.data(), sizeof(header));
  if (header.magic != 0xeb9f || header.version != 1) return fail(EINVAL, "not BTF version 1");
  const uint64_t body = data.size() - std::min<uint64_t>(header.hdr_len, data.size());
  const uint64_t types_end = uint64_t{header.type_off} + header.type_len;
  const uint64_t strings_end = uint64_t{header.str_off} + header.str_len;
  if (header.hdr_len < sizeof(header) || types_end > body || strings_end > body) {
    return fail(EINVAL, "BTF sections lie outside of it");
  }
  auto btf = std::make_shared<BtfObject>();
  btf->data.assign(data.begin(), data.end());
  Result<ScopedFd> fd = make_constant_memfd("bpftime_btf", data.data(), data.size(), false);
  if (!fd) return fd.error();
  btf->fd = std::move(*fd);
  btf->id = reserve_id(ObjectKind::kBtf);
  register_object({ObjectKind::kBtf, btf->id}, btf->fd.get(), btf);
  return btf;
}

}  // namespace bpftime
