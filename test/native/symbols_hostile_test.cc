// SPDX-License-Identifier: MIT
// The symbol reader on damaged files: it may refuse or find less, but never crash, hang or return
// symbols that point outside of its own name table.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "symbols/elf_symbols.h"
#include "tap.h"

namespace {

using bpftime::symbols::ElfSymbols;
using bpftime::symbols::read_elf_symbols;

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
  return elf.names.empty() || elf.names.back() == '\0';
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
  return tap::done();
}
