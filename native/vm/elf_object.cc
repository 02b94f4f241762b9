// SPDX-License-Identifier: MIT
// ELF-64 with the relocations of the kernel's Documentation/bpf/llvm_reloc.rst, and .BTF.ext as of
// Documentation/bpf/btf.rst. Every offset and index of the file is checked where it is used.
#include "elf_object.h"

#include <elf.h>
#include <linux/bpf.h>

#include <algorithm>
#include <optional>

#include "elf_read.h"
#include "isa.h"
#include "vm.h"

namespace bpftime {
namespace {

using namespace isa;

constexpr uint32_t kReloc64 = 1;     // R_BPF_64_64: an lddw
constexpr uint32_t kRelocCall = 10;  // R_BPF_64_32
constexpr uint16_t kBtfMagic = 0xeb9f;
constexpr uint64_t kDataBytesMax = 64u << 20;

struct BtfExtHeader {
  uint16_t magic;
  uint8_t version, flags;
  uint32_t hdr_len, func_info_off, func_info_len, line_info_off, line_info_len;
};

class ElfObject {
 public:
  ElfObject(std::span<const uint8_t> file, const ObjectNames& names, std::string& why)
      : sections_(file), names_(names), why_(why) {}

  bool link(const std::string& wanted) {
    if (!read_sections() || !find_main(wanted)) return false;
    place(main_section_, main_off_, main_end_);
    for (uint32_t i = 0; i < sections_.size(); ++i) {
      if (sections_.is_code(i) && sections_.name_of(i) == ".text" && i != main_section_) {
        place(i, 0, sections_[i].sh_size);
      }
    }
    if (program.slots.empty()) return refuse("a section of code is damaged");
    if (!relocate()) return false;
    read_types();
    return true;
  }
  ObjectProgram program;

 private:
  /// Part of a section that became slots.
  struct Piece {
    uint32_t section;
    uint64_t begin, end;  // bytes
    uint32_t slot;
  };

  bool refuse(std::string why) {
    why_ = std::move(why);
    return false;
  }

  [[nodiscard]] std::string symbol_name(const Elf64_Sym& symbol) const {
    return text_at(sections_.bytes_of(sections_[symbols_].sh_link), symbol.st_name);
  }

  bool read_sections() {
    const char* wrong = sections_.read();
    if (wrong != nullptr) return refuse(wrong);
    for (uint32_t i = 0; i < sections_.size(); ++i) {
      if (sections_[i].sh_type == SHT_SYMTAB) symbols_ = i;
    }
    if (symbols_ == 0) return refuse("it has no symbols");
    data_.resize(sections_.size());
    return true;
  }

  /// The function that is named, or that begins the section that is.
  bool find_main(const std::string& wanted) {
    const std::span<const uint8_t> table = sections_.bytes_of(symbols_);
    for (uint64_t i = 0; const auto symbol = record_at<Elf64_Sym>(table, i); ++i) {
      const uint32_t section = symbol->st_shndx;
      if (ELF64_ST_TYPE(symbol->st_info) != STT_FUNC || section >= sections_.size() ||
          !sections_.is_code(section)) {
        continue;
      }
      const bool is_named = symbol_name(*symbol) == wanted || sections_.name_of(section) == wanted;
      if (!is_named && !(wanted.empty() && sections_.name_of(section) != ".text")) continue;
      const uint64_t bytes = sections_[section].sh_size;
      if (symbol->st_value > bytes || symbol->st_size > bytes - symbol->st_value) {
        return refuse("a function lies outside of its section");
      }
      main_section_ = section;
      main_off_ = symbol->st_value;
      main_end_ = symbol->st_value + symbol->st_size;
      if (sections_.name_of(section) == ".text") main_end_ = bytes;  // with what stands behind it
      return true;
    }
    return refuse(wanted.empty() ? "it has no program" : "it has no program '" + wanted + "'");
  }

  void place(uint32_t section, uint64_t begin, uint64_t end) {
    const std::span<const uint8_t> code = sections_.bytes_of(section);
    if (end > code.size() || begin % 8 != 0 || end % 8 != 0 ||
        program.slots.size() + (end - begin) / 8 > kInsnCountMax) {
      return;
    }
    const auto slot = static_cast<uint32_t>(program.slots.size());
    pieces_.push_back({section, begin, end, slot});
    program.slots.resize(slot + (end - begin) / 8);
    if (end != begin) {
      std::memcpy(program.slots.data() + slot, code.data() + begin, end - begin);
    }
  }

  [[nodiscard]] std::optional<uint32_t> slot_of(uint32_t section, uint64_t off) const {
    for (const Piece& piece : pieces_) {
      if (piece.section == section && off >= piece.begin && off < piece.end && off % 8 == 0) {
        return piece.slot + static_cast<uint32_t>((off - piece.begin) / 8);
      }
    }
    return std::nullopt;
  }

  bool relocate() {
    for (uint32_t t = 0; t < sections_.size(); ++t) {
      if (sections_[t].sh_type != SHT_REL || sections_[t].sh_link != symbols_) continue;
      const std::span<const uint8_t> table = sections_.bytes_of(t);
      for (uint64_t i = 0; const auto reloc = record_at<Elf64_Rel>(table, i); ++i) {
        const auto slot = slot_of(sections_[t].sh_info, reloc->r_offset);
        if (!slot) continue;  // of another program
        const auto symbol =
            record_at<Elf64_Sym>(sections_.bytes_of(symbols_), ELF64_R_SYM(reloc->r_info));
        if (!symbol) return refuse("a symbol is missing");
        const uint64_t type = ELF64_R_TYPE(reloc->r_info);
        const bool is_done = type == kRelocCall ? link_call(*slot, *symbol)
                             : type == kReloc64 ? link_address(*slot, *symbol)
                                                : refuse("a relocation is of an unknown kind");
        if (!is_done) return false;
      }
    }
    return true;
  }

  bool link_call(uint32_t at, const Elf64_Sym& symbol) {
    Insn insn = decode(program.slots[at]);
    const std::string name = symbol_name(symbol);
    if (insn.opcode != kOpCall) return refuse("a call is to be linked where none is");
    if (symbol.st_shndx == SHN_UNDEF) {
      const int64_t id = names_.helper(name);
      if (id < 0) return refuse("it calls '" + name + "', which is not registered");
      insn.src = kCallHelper;
      insn.imm = static_cast<int32_t>(id);
    } else {
      // In slots, and as from the one behind the call.
      const uint64_t off = symbol.st_value + static_cast<uint64_t>((int64_t{insn.imm} + 1) * 8);
      const auto target = slot_of(symbol.st_shndx, off);
      if (!target) return refuse("it calls '" + name + "', which is another program");
      insn.src = kCallLocal;
      insn.imm = static_cast<int32_t>(*target) - static_cast<int32_t>(at) - 1;
    }
    program.slots[at] = encode(insn);
    return true;
  }

  bool link_address(uint32_t at, const Elf64_Sym& symbol) {
    Insn insn = decode(program.slots[at]);
    const std::string name = symbol_name(symbol);
    if (!insn.is_lddw() || at + 1 >= program.slots.size()) {
      return refuse("an address is to be linked where none is");
    }
    if (symbol.st_shndx == SHN_UNDEF || symbol.st_shndx >= sections_.size()) {
      return refuse("it refers to '" + name + "', which it does not have");
    }
    const std::string section = sections_.name_of(symbol.st_shndx);
    Insn second = decode(program.slots[at + 1]);
    if (section == ".maps" || section == "maps") {
      const int64_t id = names_.map(name);
      if (id < 0) return refuse("it uses map '" + name + "', which is not registered");
      insn.src = kPseudoMapFd;
      insn.imm = static_cast<int32_t>(id);
    } else if (sections_.is_code(symbol.st_shndx)) {
      const auto target =
          slot_of(symbol.st_shndx, symbol.st_value + static_cast<uint32_t>(insn.imm));
      if (!target)
        return refuse("it takes the address of '" + name + "', which is another program");
      insn.src = kPseudoFunc;
      insn.imm = static_cast<int32_t>(*target) - static_cast<int32_t>(at) - 1;
    } else {
      const auto id = data_of(symbol.st_shndx, section);
      if (!id) return false;
      second.imm = static_cast<int32_t>(static_cast<uint32_t>(symbol.st_value) +
                                        static_cast<uint32_t>(insn.imm));
      insn.src = kPseudoMapValue;
      insn.imm = static_cast<int32_t>(*id);
    }
    program.slots[at] = encode(insn);
    program.slots[at + 1] = encode(second);
    return true;
  }

  /// The id of the map that a section of data becomes.
  std::optional<uint32_t> data_of(uint32_t index, const std::string& name) {
    if (data_[index]) return data_[index];
    const Elf64_Shdr& section = sections_[index];
    const std::span<const uint8_t> bytes = sections_.bytes_of(index);
    const bool is_zero = section.sh_type == SHT_NOBITS;
    data_bytes_ += section.sh_size;
    if ((section.sh_flags & SHF_ALLOC) == 0 || section.sh_size == 0 ||
        data_bytes_ > kDataBytesMax || (!is_zero && bytes.empty())) {
      refuse("it refers to section '" + name + "', which is no data");
      return std::nullopt;
    }
    ObjectData data{name, std::vector<uint8_t>(section.sh_size),
                    (section.sh_flags & SHF_WRITE) == 0};
    std::copy(bytes.begin(), bytes.end(), data.bytes.begin());
    data_[index] = names_.data_id + static_cast<uint32_t>(program.data.size());
    program.data.push_back(std::move(data));
    return data_[index];
  }

  /// Types and lines, for sentences: what is wrong with them is left out.
  void read_types() {
    std::span<const uint8_t> ext;
    for (uint32_t i = 0; i < sections_.size(); ++i) {
      const std::span<const uint8_t> bytes = sections_.bytes_of(i);
      if (sections_.name_of(i) == ".BTF") program.btf.assign(bytes.begin(), bytes.end());
      if (sections_.name_of(i) == ".BTF.ext") ext = bytes;
    }
    const auto header = record_at<BtfExtHeader>(ext, 0);
    if (program.btf.empty() || !header || header->magic != kBtfMagic) return;
    const uint64_t begin = uint64_t{header->hdr_len} + header->line_info_off;
    if (begin > ext.size() || header->line_info_len > ext.size() - begin) return;
    read_lines(ext.subspan(begin, header->line_info_len));
  }

  /// A record size, then for each section: name, number of records, records.
  void read_lines(std::span<const uint8_t> table) {
    const auto record_bytes = record_at<uint32_t>(table, 0);
    if (!record_bytes || *record_bytes < sizeof(bpf_line_info)) return;
    const auto strings = btf_strings();
    std::vector<bpf_line_info> lines;
    for (uint64_t at = 4; at + 8 <= table.size();) {
      const std::span<const uint8_t> rest = table.subspan(at);
      const std::string name = text_at(strings, *record_at<uint32_t>(rest, 0));
      const uint64_t count = *record_at<uint32_t>(rest, 1);
      at += 8;
      for (uint64_t i = 0; i < count && at + *record_bytes <= table.size(); ++i) {
        auto line = *record_at<bpf_line_info>(table.subspan(at), 0);
        at += *record_bytes;
        const auto slot = slot_in(name, line.insn_off);
        if (!slot) continue;
        line.insn_off = *slot;
        lines.push_back(line);
      }
    }
    std::sort(lines.begin(), lines.end(), [](const bpf_line_info& a, const bpf_line_info& b) {
      return a.insn_off < b.insn_off;
    });
    program.line_info.resize(lines.size() * sizeof(bpf_line_info));
    if (!lines.empty()) {
      std::memcpy(program.line_info.data(), lines.data(), program.line_info.size());
    }
  }

  [[nodiscard]] std::optional<uint32_t> slot_in(const std::string& section, uint64_t off) const {
    for (const Piece& piece : pieces_) {
      if (sections_.name_of(piece.section) == section) {
        const auto slot = slot_of(piece.section, off);
        if (slot) return slot;
      }
    }
    return std::nullopt;
  }

  [[nodiscard]] std::span<const uint8_t> btf_strings() const {
    // struct btf_header: hdr_len at 4, str_off at 16, str_len at 20.
    const std::span<const uint8_t> btf = program.btf;
    if (btf.size() < 24) return {};
    const uint64_t begin = uint64_t{*record_at<uint32_t>(btf, 1)} + *record_at<uint32_t>(btf, 4);
    const uint64_t bytes = *record_at<uint32_t>(btf, 5);
    if (begin > btf.size() || bytes > btf.size() - begin) return {};
    return btf.subspan(begin, bytes);
  }

  ElfSections sections_;
  const ObjectNames& names_;
  std::string& why_;
  uint32_t symbols_ = 0;
  uint32_t main_section_ = 0;
  uint64_t main_off_ = 0, main_end_ = 0;
  std::vector<Piece> pieces_;
  std::vector<std::optional<uint32_t>> data_;  // per section: its map
  uint64_t data_bytes_ = 0;
};

}  // namespace

ObjectProgram program_of_elf(std::span<const uint8_t> file, const std::string& wanted,
                             const ObjectNames& names, std::string& why) {
  ElfObject object(file, names, why);
  if (!object.link(wanted)) return {};
  return std::move(object.program);
}

}  // namespace bpftime
