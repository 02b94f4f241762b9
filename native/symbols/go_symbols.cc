// SPDX-License-Identifier: MIT
#include "go_symbols.h"

#include <gelf.h>

#include <algorithm>
#include <cstring>

#include "go_pclntab.h"

namespace bpftime::symbols {

namespace {

constexpr uint8_t kPaddingByte = 0xcc;  // the Go linker fills gaps between functions with int3

struct Found {
  std::span<const uint8_t> bytes;
  uint64_t vaddr = 0;
};

std::span<const uint8_t> as_span(const Elf_Data* data) {
  if (data == nullptr || data->d_buf == nullptr) return {};
  return {static_cast<const uint8_t*>(data->d_buf), data->d_size};
}

std::span<const uint8_t> segment_bytes(Elf* elf, const Segment& segment) {
  if (segment.file_size > kElfFileBytesMax) return {};
  return as_span(elf_getdata_rawchunk(elf, static_cast<int64_t>(segment.file_off),
                                      segment.file_size, ELF_T_BYTE));
}

// The section by its name; `.data.rel.ro.gopclntab` in position-independent programs.
Found table_section(Elf* elf, uint64_t* text_vaddr) {
  Found found;
  size_t names = 0;
  if (elf_getshdrstrndx(elf, &names) != 0) return found;
  Elf_Scn* scn = nullptr;
  while ((scn = elf_nextscn(elf, scn)) != nullptr) {
    GElf_Shdr shdr;
    if (gelf_getshdr(scn, &shdr) == nullptr) continue;
    const char* name = elf_strptr(elf, names, shdr.sh_name);
    if (name == nullptr) continue;
    if (strcmp(name, ".text") == 0) *text_vaddr = shdr.sh_addr;
    if (shdr.sh_type == SHT_NOBITS) continue;
    if (strcmp(name, ".gopclntab") == 0 || strcmp(name, ".data.rel.ro.gopclntab") == 0) {
      found = Found{as_span(elf_rawdata(scn, nullptr)), shdr.sh_addr};
    }
  }
  return found;
}

// What the dynamic linker will add into the word at `field`, or 0.
uint64_t relocated_value(Elf* elf, uint64_t field) {
  Elf_Scn* scn = nullptr;
  while ((scn = elf_nextscn(elf, scn)) != nullptr) {
    GElf_Shdr shdr;
    if (gelf_getshdr(scn, &shdr) == nullptr || shdr.sh_type != SHT_RELA) continue;
    Elf_Data* data = elf_getdata(scn, nullptr);
    if (data == nullptr || shdr.sh_entsize != sizeof(Elf64_Rela)) continue;
    const size_t count = std::min<size_t>(data->d_size / sizeof(Elf64_Rela), kSymbolsMax);
    for (size_t i = 0; i < count; ++i) {
      GElf_Rela rela;
      if (gelf_getrela(data, static_cast<int>(i), &rela) == nullptr) break;
      if (rela.r_offset == field && GELF_R_TYPE(rela.r_info) == R_X86_64_RELATIVE) {
        return static_cast<uint64_t>(rela.r_addend);
      }
    }
  }
  return 0;
}

class Collector {
 public:
  Collector(Elf* elf, ElfSymbols* out) : out_(out), known_(out->symbols.size()) {
    for (const Segment& segment : out->segments) {
      if (segment.exec) code_.push_back(Found{segment_bytes(elf, segment), segment.vaddr});
    }
    std::stable_sort(out->symbols.begin(), out->symbols.end(),
                     [](const Symbol& a, const Symbol& b) { return a.vaddr < b.vaddr; });
  }

  void add(const GoFunction& function) {
    if (out_->symbols.size() >= kSymbolsMax || !in_code(function.vaddr, function.end)) return;
    // Both lists ascend.
    while (at_ < known_ && out_->symbols[at_].vaddr < function.vaddr) ++at_;
    bool is_named = false;
    for (size_t i = at_; i < known_ && out_->symbols[i].vaddr == function.vaddr; ++i) {
      if (out_->symbols[i].kind == SymbolKind::kObject) continue;
      out_->symbols[i].is_go = true;
      is_named = true;
    }
    if (is_named) return;
    Symbol symbol;
    symbol.vaddr = function.vaddr;
    symbol.size = function.end - padding(function.vaddr, function.end) - function.vaddr;
    symbol.is_go = true;
    symbol.name = static_cast<uint32_t>(out_->names.size());
    out_->names.append(function.name);
    out_->names.push_back('\0');
    out_->symbols.push_back(symbol);
  }

 private:
  [[nodiscard]] bool in_code(uint64_t vaddr, uint64_t end) const {
    return std::any_of(code_.begin(), code_.end(), [&](const Found& part) {
      return vaddr >= part.vaddr && end - part.vaddr <= part.bytes.size();
    });
  }
  [[nodiscard]] uint64_t padding(uint64_t vaddr, uint64_t end) const {
    uint64_t count = 0;
    for (const Found& part : code_) {
      if (vaddr < part.vaddr || end - part.vaddr > part.bytes.size()) continue;
      const uint8_t* behind = part.bytes.data() + (end - part.vaddr);
      // At least one byte stays: runtime.breakpoint is little more than an int3.
      while (count + 1 < end - vaddr && behind[-1 - static_cast<int64_t>(count)] == kPaddingByte) {
        ++count;
      }
    }
    return count;
  }

  ElfSymbols* out_;
  size_t known_;
  size_t at_ = 0;
  std::vector<Found> code_;
};

}  // namespace

void read_go_symbols(Elf* elf, ElfSymbols* out) {
  uint64_t text_vaddr = 0;
  const Found section = table_section(elf, &text_vaddr);
  Collector collector(elf, out);
  const auto read = [&](const Found& table) {
    const uint64_t field = text_start_field(table.bytes);
    const uint64_t relocated = field != 0 ? relocated_value(elf, table.vaddr + field) : 0;
    return read_pclntab(table.bytes, relocated != 0 ? relocated : text_vaddr,
                        [&](const GoFunction& function) { collector.add(function); });
  };
  if (!section.bytes.empty()) {
    static_cast<void>(read(section));
    return;
  }
  // Sections are for linkers: a program runs without them, and the table tells itself by its head.
  // Files that do have sections, and none of this name, are not Go's.
  size_t sections = 0;
  if (elf_getshdrnum(elf, &sections) != 0 || sections > 1) return;
  for (const Segment& segment : out->segments) {
    if (segment.exec) continue;
    if (text_vaddr == 0) {
      for (const Segment& code : out->segments) {
        if (code.exec) text_vaddr = code.vaddr;
      }
    }
    const std::span<const uint8_t> bytes = segment_bytes(elf, segment);
    for (size_t at = find_pclntab(bytes, 0); at < bytes.size(); at = find_pclntab(bytes, at + 1)) {
      if (read(Found{bytes.subspan(at), segment.vaddr + at}) > 0) return;
    }
  }
}

}  // namespace bpftime::symbols
