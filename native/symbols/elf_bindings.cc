// SPDX-License-Identifier: MIT
#include "elf_bindings.h"

#include <gelf.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <string_view>
#include <unordered_map>

namespace bpftime::symbols {

namespace {

constexpr uint64_t kTableBytesMax = uint64_t{256} << 20;
constexpr size_t kSegmentsMax = 64;  // linkers make about five
constexpr size_t kSlotsMax = 1'000'000;
constexpr size_t kSlotNameMax = 4096;
constexpr size_t kSlotNamesBytesMax = size_t{64} << 20;

using Bytes = std::span<const uint8_t>;

Bytes file_bytes(Elf* elf, uint64_t offset, uint64_t size) {
  if (size == 0 || size > kTableBytesMax || offset > kElfFileBytesMax) return {};
  const Elf_Data* data = elf_getdata_rawchunk(elf, static_cast<int64_t>(offset), size, ELF_T_BYTE);
  if (data == nullptr || data->d_buf == nullptr || data->d_size < size) return {};
  return {static_cast<const uint8_t*>(data->d_buf), size};
}

// The segment whose file part holds [vaddr, vaddr + size).
const Segment* segment_of(const ElfSymbols& elf, uint64_t vaddr, uint64_t size) {
  const size_t count = std::min(elf.segments.size(), kSegmentsMax);
  for (const Segment& s : std::span(elf.segments).first(count)) {
    if (vaddr < s.vaddr || vaddr - s.vaddr > s.file_size) continue;
    if (size <= s.file_size - (vaddr - s.vaddr)) return &s;
  }
  return nullptr;
}

Bytes bytes_at(Elf* elf, const ElfSymbols& out, uint64_t vaddr, uint64_t size) {
  const Segment* segment = segment_of(out, vaddr, size);
  if (segment == nullptr) return {};
  const uint64_t within = vaddr - segment->vaddr;
  if (segment->file_off > kElfFileBytesMax) return {};
  return file_bytes(elf, segment->file_off + within, size);
}

// From `vaddr` to the end of the segment's file part, at most `most` bytes.
Bytes bytes_from(Elf* elf, const ElfSymbols& out, uint64_t vaddr, uint64_t most) {
  const Segment* segment = segment_of(out, vaddr, 1);
  if (segment == nullptr) return {};
  const uint64_t rest = segment->file_size - (vaddr - segment->vaddr);
  return bytes_at(elf, out, vaddr, std::min(rest, most));
}

template <typename T>
T read(Bytes bytes, uint64_t at) {
  T value;
  memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

// The entries of DT_RELA and its kin that matter here.
struct Dynamic {
  uint64_t rela = 0, rela_size = 0, plt = 0, plt_size = 0;
  uint64_t symbols = 0, strings = 0, strings_size = 0;
};

Dynamic parse_dynamic(Bytes bytes) {
  Dynamic found;
  for (uint64_t at = 0; at + sizeof(Elf64_Dyn) <= bytes.size(); at += sizeof(Elf64_Dyn)) {
    const auto entry = read<Elf64_Dyn>(bytes, at);
    if (entry.d_tag == DT_NULL) break;
    if (entry.d_tag == DT_RELA) found.rela = entry.d_un.d_ptr;
    if (entry.d_tag == DT_RELASZ) found.rela_size = entry.d_un.d_val;
    if (entry.d_tag == DT_JMPREL) found.plt = entry.d_un.d_ptr;
    if (entry.d_tag == DT_PLTRELSZ) found.plt_size = entry.d_un.d_val;
    if (entry.d_tag == DT_SYMTAB) found.symbols = entry.d_un.d_ptr;
    if (entry.d_tag == DT_STRTAB) found.strings = entry.d_un.d_ptr;
    if (entry.d_tag == DT_STRSZ) found.strings_size = entry.d_un.d_val;
  }
  return found;
}

// A program header of `type`; false when there is none.
bool find_phdr(Elf* elf, uint32_t type, GElf_Phdr* phdr) {
  size_t count = 0;
  if (elf_getphdrnum(elf, &count) != 0) return false;
  for (size_t i = 0; i < count; ++i) {
    if (gelf_getphdr(elf, static_cast<int>(i), phdr) != nullptr && phdr->p_type == type) {
      return true;
    }
  }
  return false;
}

class SlotCollector {
 public:
  SlotCollector(Bytes symbols, Bytes strings, ElfSymbols* out)
      : symbols_(symbols), strings_(strings), out_(out) {}

  void add_table(Bytes table) {
    for (uint64_t at = 0; at + sizeof(Elf64_Rela) <= table.size(); at += sizeof(Elf64_Rela)) {
      if (out_->slots.size() >= kSlotsMax) return;
      add(read<Elf64_Rela>(table, at));
    }
  }

 private:
  void add(const Elf64_Rela& rela) {
    const uint64_t type = ELF64_R_TYPE(rela.r_info);
    // Aligned, so that one read never sees half of an update.
    if (rela.r_offset % 8 != 0 || segment_of(*out_, rela.r_offset, 8) == nullptr) return;
    Slot slot;
    slot.vaddr = rela.r_offset;
    if (type == R_X86_64_IRELATIVE) {
      slot.resolver = static_cast<uint64_t>(rela.r_addend);
      if (slot.resolver == 0) return;
    } else if (type == R_X86_64_JUMP_SLOT || type == R_X86_64_GLOB_DAT) {
      slot.name = name_of(ELF64_R_SYM(rela.r_info));
      if (slot.name == kNoName) return;
    } else {
      return;
    }
    out_->slots.push_back(slot);
  }

  uint32_t name_of(uint64_t symbol) {
    const auto known = names_.find(symbol);
    if (known != names_.end()) return known->second;
    const uint32_t name = append_name(symbol);
    names_.emplace(symbol, name);
    return name;
  }

  uint32_t append_name(uint64_t symbol) {
    if (symbol >= symbols_.size() / sizeof(Elf64_Sym)) return kNoName;
    const auto entry = read<Elf64_Sym>(symbols_, symbol * sizeof(Elf64_Sym));
    if (entry.st_name == 0 || entry.st_name >= strings_.size()) return kNoName;
    const auto* begin = reinterpret_cast<const char*>(strings_.data()) + entry.st_name;
    const size_t most = std::min<size_t>(strings_.size() - entry.st_name, kSlotNameMax);
    const size_t length = strnlen(begin, most);
    if (length == 0 || length == most || names_bytes_ + length > kSlotNamesBytesMax) return kNoName;
    names_bytes_ += length + 1;
    const auto name = static_cast<uint32_t>(out_->names.size());
    out_->names.append(begin, length);
    out_->names.push_back('\0');
    return name;
  }

  Bytes symbols_, strings_;
  ElfSymbols* out_;
  std::unordered_map<uint64_t, uint32_t> names_;
  size_t names_bytes_ = 0;
};

// Static programs apply their relocations themselves, between two symbols of the linker.
void read_sections_of_relocations(Elf* elf, SlotCollector* collector) {
  Elf_Scn* scn = nullptr;
  while ((scn = elf_nextscn(elf, scn)) != nullptr) {
    GElf_Shdr shdr;
    if (gelf_getshdr(scn, &shdr) == nullptr || shdr.sh_type != SHT_RELA) continue;
    if ((shdr.sh_flags & SHF_ALLOC) == 0) continue;
    collector->add_table(file_bytes(elf, shdr.sh_offset, shdr.sh_size));
  }
}

// What the file has in the slots: before it is filled, a slot holds this, or this moved.
void read_initial_values(Elf* elf, ElfSymbols* out) {
  struct Range {
    uint64_t low = UINT64_MAX, high = 0;
    Bytes bytes;
  };
  std::unordered_map<const Segment*, Range> ranges;
  for (const Slot& slot : out->slots) {
    Range& range = ranges[segment_of(*out, slot.vaddr, 8)];
    range.low = std::min(range.low, slot.vaddr);
    range.high = std::max(range.high, slot.vaddr + 8);
  }
  for (auto& [segment, range] : ranges) {
    range.bytes = bytes_at(elf, *out, range.low, range.high - range.low);
  }
  std::erase_if(out->slots, [&](Slot& slot) {
    const Range& range = ranges[segment_of(*out, slot.vaddr, 8)];
    if (range.bytes.size() < range.high - range.low) return true;
    slot.initial = read<uint64_t>(range.bytes, slot.vaddr - range.low);
    return false;
  });
}

bool is_in_code(const ElfSymbols& elf, uint64_t vaddr, uint64_t size) {
  const Segment* segment = segment_of(elf, vaddr, size);
  return segment != nullptr && segment->exec;
}

bool has_symbol(const ElfSymbols& elf, uint64_t vaddr) {
  auto it = std::lower_bound(elf.symbols.begin(), elf.symbols.end(), vaddr,
                             [](const Symbol& s, uint64_t at) { return s.vaddr < at; });
  for (; it != elf.symbols.end() && it->vaddr == vaddr; ++it) {
    if (it->kind != SymbolKind::kObject && it->size > 0) return true;
  }
  return false;
}

// An entry of .eh_frame_hdr's search table, as addresses.
struct FdeEntry {
  uint64_t start, fde;
};

// Encodings that every linker writes; others are not read.
constexpr uint8_t kEncodingCount = 0x03;  // udata4
constexpr uint8_t kEncodingTable = 0x3b;  // sdata4 relative to the header
constexpr uint64_t kHeaderBytes = 12;
constexpr uint64_t kFdeHeadBytes = 16;  // length, CIE pointer, start and size of 4 bytes each

std::vector<FdeEntry> search_table(Elf* elf, const ElfSymbols& out) {
  std::vector<FdeEntry> entries;
  GElf_Phdr phdr;
  if (!find_phdr(elf, PT_GNU_EH_FRAME, &phdr)) return entries;
  const Bytes header = bytes_at(elf, out, phdr.p_vaddr, phdr.p_filesz);
  if (header.size() < kHeaderBytes || header[0] != 1) return entries;
  if (header[2] != kEncodingCount || header[3] != kEncodingTable) return entries;
  const uint64_t count =
      std::min<uint64_t>(read<uint32_t>(header, 8), (header.size() - kHeaderBytes) / 8);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t at = kHeaderBytes + i * 8;
    const auto start = static_cast<uint64_t>(int64_t{read<int32_t>(header, at)});
    const auto fde = static_cast<uint64_t>(int64_t{read<int32_t>(header, at + 4)});
    entries.push_back(FdeEntry{phdr.p_vaddr + start, phdr.p_vaddr + fde});
  }
  return entries;
}

}  // namespace

void read_slots(Elf* elf, ElfSymbols* out) {
  GElf_Phdr phdr;
  if (find_phdr(elf, PT_DYNAMIC, &phdr)) {
    const Dynamic dynamic = parse_dynamic(file_bytes(elf, phdr.p_offset, phdr.p_filesz));
    // Nothing says how many symbols there are; the strings mostly follow them.
    const uint64_t symbols_size =
        dynamic.strings > dynamic.symbols ? dynamic.strings - dynamic.symbols : kTableBytesMax;
    SlotCollector collector(bytes_from(elf, *out, dynamic.symbols, symbols_size),
                            bytes_at(elf, *out, dynamic.strings, dynamic.strings_size), out);
    collector.add_table(bytes_at(elf, *out, dynamic.rela, dynamic.rela_size));
    collector.add_table(bytes_at(elf, *out, dynamic.plt, dynamic.plt_size));
  } else {
    SlotCollector collector({}, {}, out);
    read_sections_of_relocations(elf, &collector);
  }
  read_initial_values(elf, out);
}

void read_extents(Elf* elf, ElfSymbols* out) {
  const std::vector<FdeEntry> entries = search_table(elf, *out);
  if (entries.empty()) return;
  const auto [low, high] =
      std::minmax_element(entries.begin(), entries.end(),
                          [](const FdeEntry& a, const FdeEntry& b) { return a.fde < b.fde; });
  const uint64_t base = low->fde;
  if (high->fde - base > kTableBytesMax) return;
  const Bytes frames = bytes_at(elf, *out, base, high->fde - base + kFdeHeadBytes);
  for (size_t i = 0; i < entries.size() && !frames.empty(); ++i) {
    const uint64_t start = entries[i].start;
    const uint64_t at = entries[i].fde - base;
    // Only where the entry itself says the same in the usual encoding, and ends before the next.
    const auto relative = static_cast<uint64_t>(int64_t{read<int32_t>(frames, at + 8)});
    if (entries[i].fde + 8 + relative != start) continue;
    const uint64_t size = read<uint32_t>(frames, at + 12);
    if (size == 0 || !is_in_code(*out, start, size) || has_symbol(*out, start)) continue;
    if (i + 1 < entries.size() && entries[i + 1].start - start < size) continue;
    out->extents.push_back(Extent{start, static_cast<uint32_t>(size)});
  }
}

}  // namespace bpftime::symbols
