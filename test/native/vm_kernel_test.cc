// SPDX-License-Identifier: MIT
// The verifier beside the kernel's, on the very same instructions: libbpf loads each object into
// the kernel, and whatever it gives to BPF_PROG_LOAD is verified here, too. Needs root.
// Arguments: directories with *.bpf.o, beside those that this tree builds.
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstring>
#include <deque>
#include <filesystem>
#include <map>
#include <string>

#include "base/raw_syscall.h"
#include "tap.h"
#include "vm/verify/contracts.h"
#include "vm/verify/verify.h"
#include "vm_verify_host.h"
#include "vm_verify_random.h"

namespace {

using namespace bpftime;

long kernel_bpf(uint32_t cmd, bpf_attr* attr, uint32_t size) {
  return raw_syscall(__NR_bpf, {static_cast<long>(cmd), reinterpret_cast<long>(attr),
                                static_cast<long>(size), 0, 0, 0});
}

struct Counts {
  int both = 0;
  int neither = 0;
  int kernel_only = 0;  // and we should
  int ours_only = 0;
  int finer = 0;
  int stricter = 0;
  int foreign = 0;  // kinds of programs and helpers that this runtime does not have
};
Counts counts;

std::string object_name;
std::map<int, std::vector<uint8_t>> btf_of_fd;  // as it was loaded: the kernel need not hand it out
std::deque<std::string> names;
constexpr uint32_t kInnerOf = 1u << 31;
std::map<uint32_t, verify::MapShape> inner_of_fd;  // what lies in a map of maps
double worst_ms = 0;

struct Maps {
  const int32_t* fd_array = nullptr;
};

verify::MapShape shape_of(void* /*user*/, uint32_t fd) {
  const auto inner = inner_of_fd.find(fd & ~kInnerOf);
  if ((fd & kInnerOf) != 0) return inner->second;
  bpf_map_info info{};
  bpf_attr attr{};
  attr.info.bpf_fd = fd;
  attr.info.info_len = sizeof info;
  attr.info.info = reinterpret_cast<uint64_t>(&info);
  verify::MapShape shape;
  if (kernel_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof attr) != 0) return shape;
  const bool is_nested =
      info.type == BPF_MAP_TYPE_ARRAY_OF_MAPS || info.type == BPF_MAP_TYPE_HASH_OF_MAPS;
  if (is_nested && inner != inner_of_fd.end()) shape.inner = fd | kInnerOf;
  shape.type = info.type;
  shape.key_bytes = info.key_size;
  shape.value_bytes = info.value_size;
  shape.max_entries = info.max_entries;
  shape.flags = info.map_flags;
  // libbpf freezes its constants before it loads programs.
  shape.is_constant = (info.map_flags & BPF_F_RDONLY_PROG) != 0;
  names.emplace_back(info.name);
  shape.name = names.back().c_str();
  return shape;
}

bool constant_of(void* /*user*/, uint32_t fd, uint64_t offset, uint32_t bytes, uint64_t* value) {
  const verify::MapShape shape = shape_of(nullptr, fd);
  if (offset + bytes > shape.value_bytes) return false;
  std::vector<uint8_t> data(shape.value_bytes);
  uint32_t key = 0;
  bpf_attr attr{};
  attr.map_fd = fd;
  attr.key = reinterpret_cast<uint64_t>(&key);
  attr.value = reinterpret_cast<uint64_t>(data.data());
  if (kernel_bpf(BPF_MAP_LOOKUP_ELEM, &attr, sizeof attr) != 0) return false;
  *value = 0;
  std::memcpy(value, data.data() + offset, bytes);
  return true;
}

const HelperSet& helpers() {
  static const HelperSet set = [] {
    HelperSet s;
    // Every helper with a contract: what the runtime does not have yet is judged as well.
    for (uint32_t id = 0; id < kHelperIdMax; ++id) s.set(id, verify::contract_of(id) != nullptr);
    return s.reset(BPF_FUNC_override_return);  // of replacements, not of probes
  }();
  return set;
}

/// Right, and refused by the kernel only because it loses a bound when compilers shift a number up
/// and down by 32 bits.
bool is_finer(const std::string& program) {
  return object_name.starts_with("sslsniff") &&
         (program == "read_leave" || program == "write_enter");
}

/// As root the kernel lets programs read what nobody wrote on their stack.
bool is_stricter(const std::string& program) { return program == "stack_garbage"; }

/// Uses something that this runtime does not have: then it may not be accepted, and is not counted.
const char* foreign_part(const bpf_attr& attr, const std::vector<uint64_t>& slots) {
  switch (attr.prog_type) {
    case BPF_PROG_TYPE_KPROBE:
    case BPF_PROG_TYPE_TRACEPOINT:
    case BPF_PROG_TYPE_RAW_TRACEPOINT:
    case BPF_PROG_TYPE_PERF_EVENT:
      break;
    default:
      return "program type";
  }
  for (size_t i = 0; i < slots.size(); ++i) {
    const isa::Insn insn = isa::decode(slots[i]);
    if (insn.is_lddw()) {
      if (insn.src == isa::kPseudoVarAddr) return "kernel variable";
      ++i;
      continue;
    }
    if (insn.opcode != isa::kOpCall) continue;
    if (insn.src == isa::kCallKfunc) return "kernel function";
    const auto id = static_cast<uint32_t>(insn.imm);
    if (insn.src != isa::kCallHelper || id >= kHelperIdMax) continue;
    if (!helpers().test(id)) return "helper";
    const verify::Contract* contract = verify::contract_of(id);
    const bool is_frame = verify::context_of(attr.prog_type).is_frame;
    if (contract != nullptr && contract->needs_frame && !is_frame) return "helper";
  }
  return nullptr;
}

template <typename T>
std::span<const uint8_t> bytes_at(uint64_t address, T bytes) {
  return {reinterpret_cast<const uint8_t*>(address), address == 0 ? 0 : static_cast<size_t>(bytes)};
}

verify::Outcome verify_here(const bpf_attr& attr, std::vector<uint64_t> slots) {
  const auto* fd_array = reinterpret_cast<const int32_t*>(attr.fd_array);
  for (size_t i = 0; i < slots.size(); ++i) {
    isa::Insn insn = isa::decode(slots[i]);
    if (!insn.is_lddw()) continue;
    if (insn.src == isa::kPseudoMapIdx || insn.src == isa::kPseudoMapIdxValue) {
      insn.imm = fd_array[insn.imm];
      insn.src = insn.src == isa::kPseudoMapIdx ? isa::kPseudoMapFd : isa::kPseudoMapValue;
      slots[i] = isa::encode(insn);
    }
    ++i;
  }
  verify::Options options;
  options.prog_type = attr.prog_type;
  options.helpers = &helpers();
  options.maps = {shape_of, constant_of, nullptr};
  const auto btf = btf_of_fd.find(static_cast<int>(attr.prog_btf_fd));
  if (btf != btf_of_fd.end()) {
    options.debug.btf = btf->second;
    options.debug.func_info =
        bytes_at(attr.func_info, uint64_t{attr.func_info_cnt} * attr.func_info_rec_size);
    options.debug.line_info =
        bytes_at(attr.line_info, uint64_t{attr.line_info_cnt} * attr.line_info_rec_size);
  }
  timespec begin;
  timespec end;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
  verify::Outcome outcome = verify::verify(slots, options);
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
  worst_ms = std::max(worst_ms, static_cast<double>(end.tv_sec - begin.tv_sec) * 1e3 +
                                    static_cast<double>(end.tv_nsec - begin.tv_nsec) / 1e6);
  return outcome;
}

void compare(const bpf_attr& attr, long kernel) {
  if (attr.log_level == 0 && kernel < 0) return;  // libbpf asks again, for the log
  const auto* insns = reinterpret_cast<const uint64_t*>(attr.insns);
  std::vector<uint64_t> slots(insns, insns + attr.insn_cnt);
  if (slots.size() < 3) return;  // libbpf's own questions
  const bool is_accepted = kernel >= 0;
  const verify::Outcome ours = verify_here(attr, slots);
  const char* foreign = foreign_part(attr, slots);
  std::string line = object_name + " " + attr.prog_name + " (" + std::to_string(slots.size()) +
                     " insns, type " + std::to_string(attr.prog_type) + ")";
  if (ours.ok() == is_accepted) {
    ++(is_accepted ? counts.both : counts.neither);
    if (!is_accepted) std::printf("# both refuse %s: %s\n", line.c_str(), ours.reason.c_str());
  } else if (is_accepted && is_stricter(attr.prog_name)) {
    ++counts.stricter;
  } else if (is_accepted) {
    ++(foreign != nullptr ? counts.foreign : counts.kernel_only);
    std::printf("# %s %s: %u: %s, at %s\n", foreign != nullptr ? foreign : "KERNEL ONLY",
                line.c_str(), ours.insn_index, ours.reason.c_str(), ours.where.c_str());
  } else if (foreign != nullptr) {
    ++counts.foreign;  // e.g. it cannot attach to a kernel function that is gone
  } else if (is_finer(attr.prog_name)) {
    ++counts.finer;
  } else {
    ++counts.ours_only;
    const std::string log(reinterpret_cast<const char*>(attr.log_buf));
    const size_t tail = log.rfind("\nprocessed");
    const size_t from = tail == std::string::npos ? 0 : log.rfind('\n', tail - 1) + 1;
    std::printf("# OURS ONLY %s, kernel: %s\n", line.c_str(),
                log.substr(from, tail - from).c_str());
  }
}

void load_all(const std::filesystem::path& dir) {
  std::vector<std::filesystem::path> paths;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(dir, error)) {
    if (entry.path().string().ends_with(".o")) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  for (const auto& path : paths) {
    object_name = path.stem().stem();
    bpf_object* object = bpf_object__open_file(path.c_str(), nullptr);
    if (object == nullptr) continue;
    bpf_program* one = nullptr;
    std::vector<std::string> programs;
    bpf_object__for_each_program(one, object) programs.emplace_back(bpf_program__name(one));
    bpf_object__close(object);
    for (const std::string& wanted : programs) {  // each by itself: one refusal ends a load
      object = bpf_object__open_file(path.c_str(), nullptr);
      if (object == nullptr) continue;
      bpf_object__for_each_program(one, object) {
        bpf_program__set_autoload(one, wanted == bpf_program__name(one));
        if (bpf_program__type(one) == BPF_PROG_TYPE_UNSPEC) {
          bpf_program__set_type(one, BPF_PROG_TYPE_KPROBE);
        }
      }
      bpf_map* map = nullptr;
      bpf_object__for_each_map(map, object) {
        const bool is_ring = bpf_map__type(map) == BPF_MAP_TYPE_RINGBUF;
        if (!is_ring && bpf_map__type(map) != BPF_MAP_TYPE_PERF_EVENT_ARRAY) {
          if (bpf_map__max_entries(map) == 0) bpf_map__set_max_entries(map, 64);
          continue;
        }
        bpf_map__set_key_size(map, is_ring ? 0 : 4);
        bpf_map__set_value_size(map, is_ring ? 0 : 4);
      }
      bpf_object__load(object);
      bpf_object__close(object);
    }
  }
}

// ---- generated programs

/// The maps of vm_verify_host.h in the kernel, by id.
std::vector<int> make_maps() {
  std::vector<int> fds;
  for (const verify::MapShape& shape : vmtest::kShapes) {
    bpf_attr attr{};
    attr.map_type = shape.type;
    attr.key_size = shape.key_bytes;
    attr.value_size = shape.value_bytes;
    attr.max_entries = shape.max_entries;
    attr.map_flags = shape.flags;
    if (shape.inner != 0) {
      bpf_attr like{};
      like.map_type = vmtest::kShapes[shape.inner].type;
      like.key_size = vmtest::kShapes[shape.inner].key_bytes;
      like.value_size = vmtest::kShapes[shape.inner].value_bytes;
      like.max_entries = vmtest::kShapes[shape.inner].max_entries;
      attr.inner_map_fd = static_cast<uint32_t>(kernel_bpf(BPF_MAP_CREATE, &like, sizeof like));
    }
    const long fd = shape.type == 0 ? -1 : kernel_bpf(BPF_MAP_CREATE, &attr, sizeof attr);
    fds.push_back(static_cast<int>(fd));
    if (!shape.is_constant || fd < 0) continue;
    const uint32_t key = 0;
    bpf_attr change{};
    change.map_fd = static_cast<uint32_t>(fd);
    change.key = reinterpret_cast<uint64_t>(&key);
    change.value = reinterpret_cast<uint64_t>(vmtest::kConstants);
    kernel_bpf(BPF_MAP_UPDATE_ELEM, &change, sizeof change);
    bpf_attr freeze{};
    freeze.map_fd = static_cast<uint32_t>(fd);
    kernel_bpf(BPF_MAP_FREEZE, &freeze, sizeof freeze);
  }
  return fds;
}

/// What the kernel's verifier says of bytecode; "" if it accepts.
std::string kernel_refusal(std::vector<uint64_t> slots, const std::vector<int>& maps) {
  static char log[1 << 20];
  for (size_t i = 0; i < slots.size(); ++i) {
    isa::Insn insn = isa::decode(slots[i]);
    if (!insn.is_lddw()) continue;
    const bool is_map = insn.src == isa::kPseudoMapFd || insn.src == isa::kPseudoMapValue;
    if (is_map) insn.imm = maps[static_cast<size_t>(insn.imm)];
    slots[i++] = isa::encode(insn);
  }
  bpf_attr attr{};
  attr.prog_type = BPF_PROG_TYPE_KPROBE;
  attr.insns = reinterpret_cast<uint64_t>(slots.data());
  attr.insn_cnt = static_cast<uint32_t>(slots.size());
  attr.license = reinterpret_cast<uint64_t>("GPL");
  attr.log_buf = reinterpret_cast<uint64_t>(log);
  attr.log_size = sizeof log;
  attr.log_level = 1;
  log[0] = 0;
  const long fd = kernel_bpf(BPF_PROG_LOAD, &attr, sizeof attr);
  if (fd >= 0) {
    close(static_cast<int>(fd));
    return "";
  }
  std::string text(log);
  const size_t tail = text.rfind("processed ");
  if (tail != std::string::npos) text.resize(tail > 0 ? tail - 1 : 0);
  const size_t from = text.rfind('\n');
  return from == std::string::npos ? text + "refused" : text.substr(from + 1);
}

void compare_generated(uint64_t count) {
  const std::vector<int> maps = make_maps();
  int both = 0, neither = 0, kernel_only = 0, ours_only = 0;
  std::map<std::string, int> reasons;
  for (uint64_t seed = 1; seed <= count; ++seed) {
    const std::vector<uint64_t> slots =
        vmtest::ProbeProgram(seed, static_cast<uint32_t>(seed % 4)).make();
    const verify::Outcome ours = verify::verify(slots, vmtest::verify_options());
    const std::string kernel = kernel_refusal(slots, maps);
    if (ours.ok() && kernel.empty()) ++both;
    if (!ours.ok() && !kernel.empty()) ++neither;
    if (ours.ok() && !kernel.empty()) {
      ++ours_only;
      std::string key = kernel;
      std::replace_if(
          key.begin(), key.end(), [](char c) { return c >= '0' && c <= '9'; }, '#');
      if (reasons[key]++ == 0) {
        std::printf("# seed %llu, kernel only: %s\n", static_cast<unsigned long long>(seed),
                    kernel.c_str());
      }
    }
    // Unwritten stack is the one thing in which we are stricter.
    if (!ours.ok() && kernel.empty() && ours.reason.find("was not written") == std::string::npos) {
      ++kernel_only;
      std::string key = ours.reason;
      std::replace_if(
          key.begin(), key.end(), [](char c) { return c >= '0' && c <= '9'; }, '#');
      if (reasons[key]++ == 0) {
        std::printf("# seed %llu, only we refuse: %u: %s\n", static_cast<unsigned long long>(seed),
                    ours.insn_index, ours.reason.c_str());
      }
    }
  }
  for (const auto& [reason, times] : reasons)
    std::printf("# %d times: %s\n", times, reason.c_str());
  std::printf("# generated: both accept %d, both refuse %d, only the kernel %d, only we %d\n", both,
              neither, kernel_only, ours_only);
  tap::ok(kernel_only * 100 <= both + kernel_only, "99 % of generated ones, too");
  for (const int fd : maps) close(fd);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) long syscall(long nr, ...) noexcept {
  va_list args;
  va_start(args, nr);
  long a[6];
  for (long& arg : a) arg = va_arg(args, long);
  va_end(args);
  bpf_attr gpl{};
  if (nr == __NR_bpf && a[0] == BPF_PROG_LOAD) {  // licences are none of the verifier's business
    std::memcpy(&gpl, reinterpret_cast<void*>(a[1]), std::min<size_t>(a[2], sizeof gpl));
    gpl.license = reinterpret_cast<uint64_t>("GPL");
    a[1] = reinterpret_cast<long>(&gpl);
    a[2] = std::min<long>(a[2], sizeof gpl);
  }
  const long ret = raw_syscall(nr, a);
  if (nr == __NR_bpf) {
    const auto* attr = reinterpret_cast<const bpf_attr*>(a[1]);
    if (a[0] == BPF_BTF_LOAD && ret >= 0) {
      const auto* data = reinterpret_cast<const uint8_t*>(attr->btf);
      btf_of_fd[static_cast<int>(ret)].assign(data, data + attr->btf_size);
    }
    if (a[0] == BPF_MAP_CREATE && ret >= 0 && attr->inner_map_fd != 0) {
      inner_of_fd[static_cast<uint32_t>(ret)] = shape_of(nullptr, attr->inner_map_fd);
    }
    if (a[0] == BPF_PROG_LOAD) {
      bpf_attr copy{};
      std::memcpy(&copy, attr, std::min<size_t>(static_cast<size_t>(a[2]), sizeof copy));
      compare(copy, ret);
    }
  }
  if (ret >= 0 || ret < -4095) return ret;
  errno = static_cast<int>(-ret);
  return -1;
}

int main(int argc, char** argv) {
  libbpf_set_print(nullptr);
  const uint64_t nothing[] = {0xb7, 0x95};
  bpf_attr attr{};
  attr.prog_type = BPF_PROG_TYPE_KPROBE;
  attr.insns = reinterpret_cast<uint64_t>(nothing);
  attr.insn_cnt = 2;
  attr.license = reinterpret_cast<uint64_t>("GPL");
  const long fd = kernel_bpf(BPF_PROG_LOAD, &attr, sizeof attr);
  if (fd < 0) {
    std::printf("ok 1 - the kernel's verifier # SKIP needs bpf(2)\n1..1\n");
    return 0;
  }
  close(static_cast<int>(fd));
  load_all(BPF_OBJECT_DIR);
  for (int i = 1; i < argc; ++i) load_all(argv[i]);
  const int wanted = counts.both + counts.kernel_only;
  std::printf(
      "# accepted by both %d, refused by both %d, only by the kernel %d, only by us %d, not "
      "of this runtime %d; slowest %.1f ms\n",
      counts.both, counts.neither, counts.kernel_only, counts.ours_only, counts.foreign, worst_ms);
  tap::ok(counts.both > 20, "programs are accepted by both");
  tap::ok(counts.kernel_only * 100 <= wanted, "99 % of what the kernel accepts is accepted here");
  tap::equal(counts.ours_only, 0, "nothing that the kernel refuses is accepted here");
  compare_generated(800);
  return tap::done();
}
