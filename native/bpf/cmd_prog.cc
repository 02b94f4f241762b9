// SPDX-License-Identifier: MIT
// bpf(2) on programs and BTF.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "commands.h"
#include "objects.h"
#include "test_run.h"

namespace bpftime {

namespace {

constexpr uint32_t kInfoBytesMax = 1u << 24;
constexpr uint32_t kFdArrayMax = 64;  // as the kernel's MAX_USED_MAPS

std::vector<uint8_t> copy_records(uint64_t address, uint32_t record_size, uint32_t count) {
  const uint64_t size = uint64_t{record_size} * count;
  if (address == 0 || size > kInfoBytesMax) return {};
  const auto* bytes = reinterpret_cast<const uint8_t*>(address);
  return {bytes, bytes + size};
}

void put_log(const bpf_attr& attr, const std::string& log) {
  auto* buf = reinterpret_cast<char*>(attr.log_buf);
  if (attr.log_level == 0 || buf == nullptr || attr.log_size == 0) return;
  const size_t size = std::min<size_t>(log.size(), attr.log_size - 1);
  std::memcpy(buf, log.data(), size);
  buf[size] = 0;
}

}  // namespace

long cmd_prog_load(const BpfCall& call) {
  const bpf_attr& attr = call.attr;
  if (attr.insns == 0 || attr.insn_cnt == 0) return -EINVAL;
  ProgSpec spec;
  spec.name.assign(attr.prog_name, strnlen(attr.prog_name, sizeof(attr.prog_name)));
  spec.type = attr.prog_type;
  if (attr.expected_attach_type == kAttachReplace) spec.role = ProgRole::kReplace;
  spec.insns = {reinterpret_cast<const uint64_t*>(attr.insns), attr.insn_cnt};
  if (attr.fd_array != 0) {
    // Its length is not passed; what instructions index is bounded instead.
    uint32_t used = 0;
    for (const uint64_t slot : spec.insns) {
      const auto src = static_cast<uint32_t>(slot >> 12 & 0xf);
      const bool indexed = src == BPF_PSEUDO_MAP_IDX || src == BPF_PSEUDO_MAP_IDX_VALUE;
      if ((slot & 0xff) != (BPF_LD | BPF_IMM | BPF_DW) || !indexed) continue;
      used = std::max(used, static_cast<uint32_t>(slot >> 32) + 1);
    }
    spec.fd_array = {reinterpret_cast<const int32_t*>(attr.fd_array), std::min(used, kFdArrayMax)};
  }
  if (attr.prog_btf_fd != 0) {
    spec.btf = btf_of_fd(static_cast<int>(attr.prog_btf_fd));
    if (spec.btf == nullptr) return -EBADF;
    spec.func_info = copy_records(attr.func_info, attr.func_info_rec_size, attr.func_info_cnt);
    spec.line_info = copy_records(attr.line_info, attr.line_info_rec_size, attr.line_info_cnt);
  }
  std::string log;
  Result<std::shared_ptr<ProgObject>> prog = create_prog(spec, log);
  put_log(attr, log);
  if (!prog) return -prog.error().errnum;
  keep_for_descriptors(*prog);
  return dup_for_user((*prog)->text.get());
}

long cmd_prog_test_run(const BpfCall& call) {
  const auto& test = call.attr.test;
  const std::shared_ptr<ProgObject> prog = prog_of_fd(static_cast<int>(test.prog_fd));
  if (prog == nullptr) return -EBADF;
  TestRun run;
  run.ctx = {reinterpret_cast<const uint8_t*>(test.ctx_in),
             test.ctx_in == 0 ? 0 : test.ctx_size_in};
  run.repeat = std::max(test.repeat, 1u);
  Result<TestResult> result = test_run(*prog, run);
  if (!result) return -result.error().errnum;
  call.user_attr->test.retval = static_cast<uint32_t>(result->retval);
  call.user_attr->test.duration = result->duration_ns;
  if (test.ctx_out != 0) {
    const size_t size = std::min<size_t>(test.ctx_size_out, result->ctx.size());
    std::memcpy(reinterpret_cast<void*>(test.ctx_out), result->ctx.data(), size);
    call.user_attr->test.ctx_size_out = static_cast<uint32_t>(size);
  }
  return 0;
}

long cmd_prog_bind_map(const BpfCall& call) {
  const auto& bind = call.attr.prog_bind_map;
  if (bind.flags != 0) return -EINVAL;
  const std::shared_ptr<ProgObject> prog = prog_of_fd(static_cast<int>(bind.prog_fd));
  const std::shared_ptr<MapObject> map = map_of_fd(static_cast<int>(bind.map_fd));
  if (prog == nullptr || map == nullptr) return -EBADF;
  // Loading happens on one thread; nobody else has seen this program yet.
  if (std::find(prog->maps.begin(), prog->maps.end(), map) == prog->maps.end()) {
    prog->maps.push_back(map);
  }
  return 0;
}

long cmd_btf_load(const BpfCall& call) {
  const bpf_attr& attr = call.attr;
  if (attr.btf == 0) return -EFAULT;
  Result<std::shared_ptr<BtfObject>> btf =
      create_btf({reinterpret_cast<const uint8_t*>(attr.btf), attr.btf_size});
  if (!btf) return -btf.error().errnum;
  keep_for_descriptors(*btf);
  return dup_for_user((*btf)->fd.get());
}

long cmd_link_create(const BpfCall& call) {
  const auto& link = call.attr.link_create;
  if (prog_of_fd(static_cast<int>(link.prog_fd)) == nullptr) return -EBADF;
  // libbpf asks with descriptor -1 whether perf links exist and takes EBADF for yes.
  if (fcntl(static_cast<int>(link.target_fd), F_GETFD) < 0) return -EBADF;
  return -EOPNOTSUPP;
}

long cmd_unsupported(const BpfCall&) { return -EOPNOTSUPP; }

}  // namespace bpftime
