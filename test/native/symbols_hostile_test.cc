// SPDX-License-Identifier: MIT
// The symbol reader on damaged files: it may refuse or find less, but never crash, hang or return
// symbols that point outside of its own name table.
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "symbols/elf_symbols.h"
#include "tap.h"

namespace {

using bpftime::symbols::ElfSymbols;
using bpftime::symbols::kNoName;
using bpftime::symbols::read_elf_symbols;
using bpftime::symbols::SymbolKind;

std::vector<unsigned char> read_all(const char* path) {
  std::vector<unsigned char> bytes;
  FILE* file = fopen(path, "rb");
  if (file == nullptr) return bytes;
  bytes.resize(4 << 20);
  bytes.resize(fread(bytes.data(), 1, bytes.size(), file));
  fclose(file);
  return bytes;
}

unsigned next_random(unsigned long long* state) {
  *state = *state * 6364136223846793005ull + 1442695040888963407ull;
  return static_cast<unsigned>(*state >> 33);
}

bool is_sound(const ElfSymbols& elf) {
  for (const auto& symbol : elf.symbols) {
    if (symbol.name >= elf.names.size()) return false;
  }
  for (const auto& slot : elf.slots) {
    if (slot.name != kNoName && slot.name >= elf.names.size()) return false;
    if ((slot.name == kNoName) == (slot.resolver == 0) || slot.vaddr % 8 != 0) return false;
  }
  for (const auto& extent : elf.extents) {
    const bool in_code = std::any_of(elf.segments.begin(), elf.segments.end(), [&](const auto& s) {
      return s.exec && extent.vaddr >= s.vaddr && extent.size <= s.file_size &&
             extent.vaddr - s.vaddr <= s.file_size - extent.size;
    });
    if (!in_code) return false;
  }
  return elf.names.empty() || elf.names.back() == '\0';
}

// The words that decide about slots and extents: the dynamic segment, relocations, .eh_frame_hdr.
struct Target {
  size_t at, size;
};

std::vector<Target> targets_of(const std::vector<unsigned char>& bytes) {
  std::vector<Target> found;
  Elf64_Ehdr ehdr;
  memcpy(&ehdr, bytes.data(), sizeof ehdr);
  for (unsigned i = 0; i < ehdr.e_phnum; ++i) {
    Elf64_Phdr phdr;
    memcpy(&phdr, bytes.data() + ehdr.e_phoff + i * sizeof phdr, sizeof phdr);
    if (phdr.p_type == PT_DYNAMIC) found.push_back({phdr.p_offset, phdr.p_filesz});
    if (phdr.p_type == PT_GNU_EH_FRAME) {
      // The header and the first entries; the frames follow it.
      found.push_back({phdr.p_offset, 64});
      found.push_back({phdr.p_offset, phdr.p_filesz + 4096});
    }
    if (phdr.p_type != PT_DYNAMIC) continue;
    for (size_t at = 0; at < phdr.p_filesz; at += sizeof(Elf64_Dyn)) {
      Elf64_Dyn entry;
      memcpy(&entry, bytes.data() + phdr.p_offset + at, sizeof entry);
      // In libc, as in most libraries, the first segment begins at 0 in the file and in memory.
      if (entry.d_tag == DT_RELA || entry.d_tag == DT_JMPREL) {
        found.push_back({entry.d_un.d_ptr, 512});
      }
    }
  }
  std::erase_if(found, [&](const Target& t) { return t.at + t.size > bytes.size(); });
  return found;
}

// libc has ifuncs, slots of both kinds, and functions that only its unwind table knows.
void damage_bindings() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&gnu_get_libc_version), &info) == 0) return;
  const auto good = read_all(info.dli_fname);
  const auto whole = read_elf_symbols(info.dli_fname, "/nonexistent");
  tap::ok(whole.ok() && is_sound(whole.value()), "libc is read");
  const auto& slots = whole.value().slots;
  const auto resolves = [&](const auto& symbol) {
    return symbol.kind == SymbolKind::kIfunc &&
           std::any_of(slots.begin(), slots.end(),
                       [&](const auto& slot) { return slot.resolver == symbol.vaddr; });
  };
  const auto& symbols = whole.value().symbols;
  tap::ok(std::any_of(symbols.begin(), symbols.end(), resolves), "slots of its own ifuncs");
  const auto names_calloc = [&](const auto& slot) {
    return slot.name != kNoName && whole.value().names.c_str() + slot.name == std::string("calloc");
  };
  tap::ok(std::any_of(slots.begin(), slots.end(), names_calloc), "slots of names");
  tap::ok(!whole.value().extents.empty(), "extents without symbols");

  const auto targets = targets_of(good);
  tap::ok(targets.size() == 5, "dynamic segment, unwind table, two relocation tables");
  char path[] = "/tmp/bpftimefs-test-elf-XXXXXX";
  const int fd = mkstemp(path);
  unsigned long long state = 20261125;
  bool sound = true;
  int lost = 0;
  for (int round = 0; round < 300 && !targets.empty(); ++round) {
    auto bytes = good;
    const unsigned changes = 1 + next_random(&state) % 16;
    for (unsigned i = 0; i < changes; ++i) {
      const Target& target = targets[next_random(&state) % targets.size()];
      const size_t at = target.at + next_random(&state) % target.size;
      // Half of the damage are the numbers that overflow.
      const unsigned value = next_random(&state);
      bytes[at] = static_cast<unsigned char>(value % 2 != 0 ? 0xff : value >> 8);
    }
    if (ftruncate(fd, 0) != 0 || pwrite(fd, bytes.data(), bytes.size(), 0) < 0) break;
    const auto elf = read_elf_symbols(path, "/nonexistent");
    if (!elf.ok() || !is_sound(elf.value())) sound = false;
    if (elf.ok() && elf.value().slots.size() < slots.size()) ++lost;
  }
  close(fd);
  unlink(path);
  printf("# %d of 300 with fewer slots\n", lost);
  tap::ok(sound, "damaged dynamic segments, relocations and unwind tables are sound or left out");
  tap::ok(lost > 0 && lost < 300, "some lose slots, some do not");
}

}  // namespace

int main() {
  const auto good = read_all("/proc/self/exe");
  const auto whole = read_elf_symbols("/proc/self/exe", "/nonexistent");
  tap::ok(whole.ok() && !whole.value().symbols.empty(), "an intact file has symbols");
  char path[] = "/tmp/bpftimefs-test-elf-XXXXXX";
  const int fd = mkstemp(path);
  unsigned long long state = 20261122;
  bool sound = true;
  int refused = 0;
  constexpr int kRounds = 3000;
  for (int round = 0; round < kRounds; ++round) {
    auto bytes = good;
    const unsigned changes = 1 + next_random(&state) % 16;
    for (unsigned i = 0; i < changes; ++i) {
      // Headers decide; half of the damage goes there, and to the section table at the end.
      const size_t where = next_random(&state) % 4;
      const size_t span = where < 2 ? 1024 : bytes.size();
      const size_t at =
          where == 1 ? bytes.size() - 1 - next_random(&state) % 4096 : next_random(&state) % span;
      bytes[at] = static_cast<unsigned char>(next_random(&state));
    }
    if (round % 7 == 0) bytes.resize(next_random(&state) % bytes.size());
    if (ftruncate(fd, 0) != 0 || pwrite(fd, bytes.data(), bytes.size(), 0) < 0) return 2;
    const auto elf = read_elf_symbols(path, "/nonexistent");
    if (!elf) ++refused;
    if (elf.ok() && !is_sound(elf.value())) sound = false;
  }
  close(fd);
  unlink(path);
  printf("# %d of %d refused\n", refused, kRounds);
  tap::ok(sound, "damaged files yield sound tables or a refusal");
  tap::ok(refused > 0 && refused < kRounds, "some are refused, some are read");
  tap::ok(!read_elf_symbols("/etc/hostname", "").ok(), "a text file is refused");
  tap::ok(!read_elf_symbols("/dev/zero", "").ok(), "a device is refused");
  tap::ok(!read_elf_symbols("/nonexistent", "").ok(), "a missing file is refused");
  damage_bindings();
  return tap::done();
}
