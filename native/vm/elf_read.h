// SPDX-License-Identifier: MIT
// Reading what may be damaged: records, texts and sections of a file, with every offset checked.
#pragma once

#include <elf.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace bpftime {

/// Record `index` of a table; nothing if it is not wholly there.
template <typename T>
std::optional<T> record_at(std::span<const uint8_t> bytes, uint64_t index) {
  if (index >= bytes.size() / sizeof(T)) return std::nullopt;
  T record;
  std::memcpy(&record, bytes.data() + index * sizeof(T), sizeof(T));
  return record;
}

/// The text at an offset of a table of them; "" if there is none.
inline std::string text_at(std::span<const uint8_t> strings, uint64_t off) {
  if (off >= strings.size()) return {};
  const auto* begin = reinterpret_cast<const char*>(strings.data()) + off;
  return {begin, strnlen(begin, strings.size() - off)};
}

/// The sections of an eBPF object file, which has to outlive this.
class ElfSections {
 public:
  explicit ElfSections(std::span<const uint8_t> file) : file_(file) {}

  /// Null: they are read; else what is wrong with the file.
  const char* read() {
    const auto header = record_at<Elf64_Ehdr>(file_, 0);
    if (!header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) return "it is no ELF file";
    if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
        header->e_type != ET_REL || header->e_machine != EM_BPF) {
      return "it is no eBPF object (compile with clang -O2 -target bpf -c)";
    }
    constexpr const char* kDamaged = "its table of sections is damaged";
    if (header->e_shentsize != sizeof(Elf64_Shdr) || header->e_shoff > file_.size()) {
      return kDamaged;
    }
    const std::span<const uint8_t> table = file_.subspan(header->e_shoff);
    for (uint32_t i = 0; i < header->e_shnum; ++i) {
      const auto section = record_at<Elf64_Shdr>(table, i);
      if (!section) return kDamaged;
      all_.push_back(*section);
    }
    names_ = bytes_of(header->e_shstrndx);
    return nullptr;
  }

  [[nodiscard]] size_t size() const { return all_.size(); }
  const Elf64_Shdr& operator[](size_t index) const { return all_[index]; }

  /// Empty when they are not within the file, or there is no such section.
  [[nodiscard]] std::span<const uint8_t> bytes_of(size_t index) const {
    if (index >= all_.size()) return {};
    const Elf64_Shdr& section = all_[index];
    if (section.sh_type == SHT_NOBITS || section.sh_offset > file_.size() ||
        section.sh_size > file_.size() - section.sh_offset) {
      return {};
    }
    return file_.subspan(section.sh_offset, section.sh_size);
  }
  [[nodiscard]] std::string name_of(size_t index) const {
    return text_at(names_, all_[index].sh_name);
  }
  [[nodiscard]] bool is_code(size_t index) const {
    return all_[index].sh_type == SHT_PROGBITS && (all_[index].sh_flags & SHF_EXECINSTR) != 0;
  }

 private:
  std::span<const uint8_t> file_;
  std::vector<Elf64_Shdr> all_;
  std::span<const uint8_t> names_;
};

}  // namespace bpftime
