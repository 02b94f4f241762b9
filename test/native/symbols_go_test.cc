// SPDX-License-Identifier: MIT
// Go's function table in each of its layouts, built here by hand: names and extents are found; and
// damaged at random, nothing outside of the table is looked at (under a sanitizer: no report).
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "symbols/go_pclntab.h"
#include "tap.h"

namespace {

using bpftime::symbols::find_pclntab;
using bpftime::symbols::GoFunction;
using bpftime::symbols::read_pclntab;

constexpr uint64_t kText = 0x401000;
constexpr const char* kNames[] = {"main.main", "main.(*T).Method", "net/http.(*conn).serve"};
constexpr uint64_t kStarts[] = {0, 0x40, 0x1c0, 0x200};  // and the end of the last

class Writer {
 public:
  std::vector<uint8_t> bytes;
  template <typename T>
  void put(T value) {
    bytes.insert(bytes.end(), reinterpret_cast<const uint8_t*>(&value),
                 reinterpret_cast<const uint8_t*>(&value) + sizeof(T));
  }
  template <typename T>
  void set(size_t at, T value) {
    memcpy(bytes.data() + at, &value, sizeof value);
  }
  uint64_t names(uint32_t* offs) {
    const uint64_t start = bytes.size();
    for (int i = 0; i < 3; ++i) {
      offs[i] = static_cast<uint32_t>(bytes.size() - start);
      bytes.insert(bytes.end(), kNames[i], kNames[i] + strlen(kNames[i]) + 1);
    }
    while (bytes.size() % 8 != 0) bytes.push_back(0);
    return start;
  }
};

void put_head(Writer* out, uint32_t magic) {
  out->put(magic);
  out->put(uint32_t{0x08010000});  // two zeros, quantum 1, 8-byte pointers
  out->put(uint64_t{3});
}

std::vector<uint8_t> table_12() {
  Writer out;
  put_head(&out, 0xfffffffb);
  const size_t index = out.bytes.size();
  out.bytes.resize(index + 7 * 8);
  uint32_t offs[3];
  const uint64_t names = out.names(offs);
  for (size_t i = 0; i < 4; ++i) {
    out.set(index + 16 * i, kText + kStarts[i]);
    if (i == 3) break;
    out.set(index + 16 * i + 8, uint64_t{out.bytes.size()});
    out.put(kText + kStarts[i]);
    out.put(static_cast<uint32_t>(names) + offs[i]);
  }
  return out.bytes;
}

std::vector<uint8_t> table_with_offsets(uint32_t magic, bool relative, uint64_t text) {
  Writer out;
  put_head(&out, magic);
  out.put(uint64_t{1});  // files
  if (relative) out.put(text);
  const size_t parts = out.bytes.size();
  out.bytes.resize(parts + 5 * 8);
  uint32_t offs[3];
  out.set(parts, out.names(offs));
  const size_t functions = out.bytes.size();
  out.set(parts + 32, uint64_t{functions});
  const size_t word = relative ? 4 : 8;
  out.bytes.resize(functions + 7 * word);
  for (size_t i = 0; i < 4; ++i) {
    const uint64_t entry = relative ? kStarts[i] : kText + kStarts[i];
    const uint64_t info = out.bytes.size() - functions;
    memcpy(out.bytes.data() + functions + 2 * word * i, &entry, word);
    if (i == 3) break;
    memcpy(out.bytes.data() + functions + 2 * word * i + word, &info, word);
    const size_t at = out.bytes.size();
    out.bytes.resize(at + word);
    memcpy(out.bytes.data() + at, &entry, word);
    out.put(offs[i]);
  }
  return out.bytes;
}

// `vaddr-end name` per function.
std::string describe(const std::vector<uint8_t>& table, uint64_t text_vaddr) {
  std::string text;
  read_pclntab(table, text_vaddr, [&](const GoFunction& function) {
    char line[128];
    snprintf(line, sizeof line, "%lx-%lx %.*s\n", function.vaddr, function.end,
             static_cast<int>(function.name.size()), function.name.data());
    text += line;
  });
  return text;
}

// Reads exactly the bytes given: a copy on the heap of that size, for the sanitizer.
bool is_sound(const std::vector<uint8_t>& table) {
  const std::unique_ptr<uint8_t[]> exact(new uint8_t[table.size()]);
  memcpy(exact.get(), table.data(), table.size());
  bool sound = true;
  uint64_t last = 0;
  read_pclntab({exact.get(), table.size()}, kText, [&](const GoFunction& function) {
    const auto* name = reinterpret_cast<const uint8_t*>(function.name.data());
    sound = sound && function.end > function.vaddr && function.vaddr >= last &&
            name >= exact.get() && name + function.name.size() < exact.get() + table.size();
    last = function.vaddr;
  });
  return sound;
}

unsigned next_random(unsigned long long* state) {
  *state = *state * 6364136223846793005ull + 1442695040888963407ull;
  return static_cast<unsigned>(*state >> 33);
}

}  // namespace

int main() {
  const std::string want =
      "401000-401040 main.main\n"
      "401040-4011c0 main.(*T).Method\n"
      "4011c0-401200 net/http.(*conn).serve\n";
  const struct {
    const char* what;
    std::vector<uint8_t> table;
  } tables[] = {
      {"Go 1.2", table_12()},
      {"Go 1.16", table_with_offsets(0xfffffffa, false, 0)},
      {"Go 1.18", table_with_offsets(0xfffffff0, true, kText)},
      {"Go 1.20", table_with_offsets(0xfffffff1, true, kText)},
      {"Go 1.20, start of code left to the loader", table_with_offsets(0xfffffff1, true, 0)},
  };
  unsigned long long state = 20261125;
  for (const auto& [what, table] : tables) {
    const std::string got = describe(table, kText);
    tap::ok(got == want, what);
    if (got != want) printf("# %s\n", got.c_str());
    bool sound = true;
    for (int round = 0; round < 20000; ++round) {
      auto bytes = table;
      for (unsigned i = 1 + next_random(&state) % 8; i > 0; --i) {
        bytes[8 + next_random(&state) % (bytes.size() - 8)] =
            static_cast<uint8_t>(next_random(&state));
      }
      if (round % 3 == 0) bytes.resize(next_random(&state) % bytes.size());
      sound = sound && is_sound(bytes);
    }
    tap::ok(sound, "damaged: nothing is taken from outside");
    std::vector<uint8_t> around(64, 0xee);
    around.insert(around.end(), table.begin(), table.end());
    tap::ok(find_pclntab(around, 0) == 64, "found by its head");
    tap::ok(find_pclntab(around, 65) == around.size(), "and nowhere else");
  }
  std::vector<uint8_t> odd = tables[2].table;
  odd[7] = 4;
  tap::ok(describe(odd, kText).empty(), "a 32-bit table is none of ours");
  return tap::done();
}
