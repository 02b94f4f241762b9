// SPDX-License-Identifier: MIT
#include "vdso.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "../base/scoped_fd.h"
#include "proc_maps.h"
#include "remote_thread.h"

namespace bpftime::target {

namespace {

// Offset of a function of the image, or 0.
uint64_t symbol_off(const std::vector<uint8_t>& image, const char* name) {
  const auto at = [&](uint64_t off, size_t size) -> const uint8_t* {
    return off <= image.size() && size <= image.size() - off ? image.data() + off : nullptr;
  };
  const auto* ehdr = reinterpret_cast<const Elf64_Ehdr*>(at(0, sizeof(Elf64_Ehdr)));
  if (ehdr == nullptr) return 0;
  for (int i = 0; i < ehdr->e_shnum; ++i) {
    const auto* section = reinterpret_cast<const Elf64_Shdr*>(
        at(ehdr->e_shoff + static_cast<uint64_t>(i) * sizeof(Elf64_Shdr), sizeof(Elf64_Shdr)));
    if (section == nullptr) return 0;
    if (section->sh_type != SHT_DYNSYM) continue;
    const auto* strings = reinterpret_cast<const Elf64_Shdr*>(
        at(ehdr->e_shoff + section->sh_link * sizeof(Elf64_Shdr), sizeof(Elf64_Shdr)));
    if (strings == nullptr) return 0;
    for (uint64_t off = 0; off + sizeof(Elf64_Sym) <= section->sh_size; off += sizeof(Elf64_Sym)) {
      const auto* sym =
          reinterpret_cast<const Elf64_Sym*>(at(section->sh_offset + off, sizeof(Elf64_Sym)));
      if (sym == nullptr) return 0;
      const size_t length = strlen(name) + 1;
      const uint8_t* text = at(strings->sh_offset + sym->st_name, length);
      if (text != nullptr && memcmp(text, name, length) == 0) return sym->st_value;
    }
  }
  return 0;
}

constexpr size_t kPageBytes = 4096;

// An image and what was found in it. Nearly all processes of a machine have the same.
struct Known {
  std::vector<uint8_t> image;
  uint64_t syscall_off = 0;
  uint64_t clock_gettime_off = 0;
};

void learn(std::vector<uint8_t> image, Known* known) {
  static constexpr uint8_t kSyscall[] = {0x0f, 0x05};
  const auto insn =
      std::search(image.begin(), image.end(), std::begin(kSyscall), std::end(kSyscall));
  known->syscall_off = insn == image.end() ? 0 : static_cast<uint64_t>(insn - image.begin());
  known->clock_gettime_off = symbol_off(image, "__vdso_clock_gettime");
  known->image = std::move(image);
}

// Where exec put it. A restored checkpoint may have moved it since: whoever uses this looks.
uint64_t base_by_auxv(pid_t pid) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/auxv", pid);
  const ScopedFd fd(open(path, O_RDONLY | O_CLOEXEC));
  Elf64_auxv_t entries[64];
  const ssize_t got = fd.valid() ? read(fd.get(), entries, sizeof entries) : 0;
  for (size_t i = 0; got > 0 && i < static_cast<size_t>(got) / sizeof entries[0]; ++i) {
    if (entries[i].a_type == AT_SYSINFO_EHDR) return entries[i].a_un.a_val;
  }
  return 0;
}

Result<Vdso> vdso_at(uint64_t base, const Known& known) {
  if (known.syscall_off == 0) {
    return fail(EOPNOTSUPP, "the process' vDSO has no system call instruction");
  }
  Vdso found;
  found.syscall_insn = base + known.syscall_off;
  if (known.clock_gettime_off != 0) found.clock_gettime = base + known.clock_gettime_off;
  return found;
}

}  // namespace

Result<Vdso> find_vdso(pid_t pid) {
  thread_local Known known;
  // The first page holds the build id: if it is the same so is the rest.
  uint8_t page[kPageBytes];
  const uint64_t base = base_by_auxv(pid);
  if (known.image.size() >= sizeof page && base != 0 &&
      read_memory(pid, base, page, sizeof page).ok() &&
      memcmp(page, known.image.data(), sizeof page) == 0) {
    return vdso_at(base, known);
  }
  const Result<std::vector<Region>> regions = read_regions(pid);
  if (!regions) return regions.error();
  for (const Region& region : regions.value()) {
    if (region.path != "[vdso]") continue;
    std::vector<uint8_t> image(region.end - region.start);
    const Result<void> read = read_memory(pid, region.start, image.data(), image.size());
    if (!read) return read.error();
    learn(std::move(image), &known);
    return vdso_at(region.start, known);
  }
  return fail(EOPNOTSUPP, "the process has no vDSO");
}

}  // namespace bpftime::target
