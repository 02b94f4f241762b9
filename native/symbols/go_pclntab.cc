// SPDX-License-Identifier: MIT
#include "go_pclntab.h"

#include <cstring>

#include "elf_symbols.h"

namespace bpftime::symbols {

namespace {

constexpr uint32_t kMagic12 = 0xfffffffb;
constexpr uint32_t kMagic116 = 0xfffffffa;
constexpr uint32_t kMagic118 = 0xfffffff0;
constexpr uint32_t kMagic120 = 0xfffffff1;
constexpr size_t kHeadBytes = 8;  // magic, two zeros, instruction quantum, pointer size
constexpr size_t kAlign = 8;
constexpr size_t kNameBytesMax = 4096;
constexpr uint64_t kTextStartField118 = kHeadBytes + 2 * 8;

// Checked reads of one table.
class Table {
 public:
  explicit Table(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  template <typename T>
  bool read(uint64_t off, T* out) const {
    if (off > bytes_.size() || bytes_.size() - off < sizeof(T)) return false;
    memcpy(out, bytes_.data() + off, sizeof(T));
    return true;
  }
  // A NUL-terminated name; empty when it is not one.
  [[nodiscard]] std::string_view text(uint64_t off) const {
    if (off >= bytes_.size()) return {};
    const char* start = reinterpret_cast<const char*>(bytes_.data() + off);
    const size_t limit = std::min<size_t>(bytes_.size() - off, kNameBytesMax);
    const void* end = memchr(start, '\0', limit);
    if (end == nullptr) return {};
    return {start, static_cast<size_t>(static_cast<const char*>(end) - start)};
  }

 private:
  std::span<const uint8_t> bytes_;
};

// Where the parts of a table lie, whatever its version.
struct Layout {
  uint64_t count = 0;
  uint64_t text_start = 0;  // added to entries
  uint64_t names = 0;
  uint64_t functions = 0;      // the index; offsets in it count from `function_base`
  uint64_t function_base = 0;  //
  uint32_t word = 8;           // bytes of each of the two fields of an index entry
};

bool has_head(const Table& table, uint32_t* magic) {
  uint8_t rest[4] = {};
  if (!table.read(0, magic) || !table.read(4, &rest)) return false;
  if (*magic != kMagic12 && *magic != kMagic116 && *magic != kMagic118 && *magic != kMagic120) {
    return false;
  }
  return rest[0] == 0 && rest[1] == 0 && rest[2] == 1 && rest[3] == 8;
}

bool read_layout(const Table& table, uint64_t text_vaddr, Layout* out) {
  uint32_t magic = 0;
  if (!has_head(table, &magic) || !table.read(kHeadBytes, &out->count)) return false;
  if (out->count == 0 || out->count > kSymbolsMax) return false;
  const auto word = [&](uint64_t index) {
    uint64_t value = 0;
    return table.read(kHeadBytes + 8 * index, &value) ? value : ~uint64_t{0};
  };
  if (magic == kMagic12) {
    out->functions = kHeadBytes + 8;
    return true;
  }
  const bool relative = magic != kMagic116;
  const uint64_t first = relative ? 3 : 2;  // textStart came with 1.18
  out->names = word(first);
  out->functions = word(first + 4);
  out->function_base = out->functions;
  if (relative) {
    out->word = 4;
    out->text_start = word(2) != 0 ? word(2) : text_vaddr;
  }
  return true;
}

// The index entry `i`: where function i begins and where what is known of it lies.
bool read_entry(const Table& table, const Layout& layout, uint64_t i, uint64_t* vaddr,
                uint64_t* info) {
  const uint64_t at = layout.functions + i * 2 * layout.word;
  if (layout.word == 8) return table.read(at, vaddr) && table.read(at + 8, info);
  uint32_t pair[2] = {};
  if (!table.read(at, &pair)) return false;
  *vaddr = layout.text_start + pair[0];
  *info = pair[1];
  return true;
}

}  // namespace

uint32_t read_pclntab(std::span<const uint8_t> bytes, uint64_t text_vaddr,
                      const std::function<void(const GoFunction&)>& found) {
  const Table table(bytes);
  Layout layout;
  if (!read_layout(table, text_vaddr, &layout) || layout.functions > bytes.size()) return 0;
  uint32_t count = 0;
  uint64_t vaddr = 0, info = 0;
  if (!read_entry(table, layout, 0, &vaddr, &info)) return 0;
  for (uint64_t i = 0; i < layout.count; ++i) {
    // The index ends with an entry that has only an address: the end of the last function.
    uint64_t next = 0, next_info = 0;
    if (!read_entry(table, layout, i + 1, &next, &next_info)) {
      uint32_t low = 0;
      const uint64_t at = layout.functions + (i + 1) * 2 * layout.word;
      if (layout.word == 8 ? !table.read(at, &next) : !table.read(at, &low)) return count;
      if (layout.word == 4) next = layout.text_start + low;
    }
    if (next <= vaddr) return count;  // not sorted: the rest is no table
    int32_t name_off = 0;
    // struct _func: entry (a pointer, since 1.18 an offset of four bytes), then the name.
    if (info <= bytes.size() && table.read(layout.function_base + info + layout.word, &name_off) &&
        name_off >= 0) {
      const std::string_view name = table.text(layout.names + static_cast<uint64_t>(name_off));
      if (!name.empty()) {
        found(GoFunction{vaddr, next, name});
        ++count;
      }
    }
    vaddr = next;
    info = next_info;
  }
  return count;
}

size_t find_pclntab(std::span<const uint8_t> bytes, size_t from) {
  for (size_t at = (from + kAlign - 1) / kAlign * kAlign; at + kHeadBytes <= bytes.size();
       at += kAlign) {
    uint32_t magic = 0;
    if (has_head(Table(bytes.subspan(at)), &magic)) return at;
  }
  return bytes.size();
}

uint64_t text_start_field(std::span<const uint8_t> bytes) {
  uint32_t magic = 0;
  if (!has_head(Table(bytes), &magic)) return 0;
  return magic == kMagic118 || magic == kMagic120 ? kTextStartField118 : 0;
}

}  // namespace bpftime::symbols
