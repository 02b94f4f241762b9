// SPDX-License-Identifier: MIT
// ELF-64 with the relocations of the kernel's Documentation/bpf/llvm_reloc.rst. Every offset and
// index of the file is checked where it is used.
#include "elf_text.h"

#include <elf.h>

#include <cstring>
#include <optional>

#include "elf_read.h"
#include "vm.h"

namespace bpftime {

namespace {

constexpr uint32_t kRelocCall = 10;  // R_BPF_64_32
constexpr uint8_t kOpCall = 0x85;
constexpr uint32_t kLocalCall = 1;  // source register of a call within the program

class ElfText {
 public:
  ElfText(std::span<const uint8_t> file, const HelperByName& helper, std::string& why)
      : sections_(file), helper_(helper), why_(why) {}

  bool link(const std::string& main_name) {
    return read_sections() && place(main_name) && relocate();
  }
  std::vector<uint64_t> slots;

 private:
  bool refuse(std::string why) {
    why_ = std::move(why);
    return false;
  }

  bool read_sections() {
    const char* wrong = sections_.read();
    if (wrong != nullptr) return refuse(wrong);
    starts_.resize(sections_.size());
    return true;
  }

  /// The first section of code that is not .text, where compilers put what has no section of its
  /// own: functions that are called.
  [[nodiscard]] std::string main_section() const {
    for (size_t i = 0; i < sections_.size(); ++i) {
      const std::string name = sections_.name_of(i);
      if (sections_.is_code(i) && sections_[i].sh_size != 0 && name != ".text") return name;
    }
    return ".text";
  }

  // The main section, then every other one with code.
  bool place(const std::string& wanted) {
    const std::string main_name = wanted.empty() ? main_section() : wanted;
    std::vector<size_t> order;
    for (size_t i = 0; i < sections_.size(); ++i) {
      if (!sections_.is_code(i) || sections_[i].sh_size == 0) continue;
      const bool is_main = sections_.name_of(i) == main_name;
      if (is_main && has_main_) return refuse("it has two sections " + main_name);
      order.insert(is_main ? order.begin() : order.end(), i);
      has_main_ |= is_main;
    }
    if (!has_main_) return refuse("it has no code in a section " + main_name);
    for (const size_t i : order) {
      const std::span<const uint8_t> code = sections_.bytes_of(i);
      if (code.empty() || code.size() % 8 != 0) return refuse("a section of code is damaged");
      if (slots.size() + code.size() / 8 > kInsnCountMax) return refuse("it has too much code");
      starts_[i] = slots.size();
      slots.resize(slots.size() + code.size() / 8);
      std::memcpy(slots.data() + *starts_[i], code.data(), code.size());
    }
    return true;
  }

  bool relocate() {
    for (size_t t = 0; t < sections_.size(); ++t) {
      const Elf64_Shdr& table = sections_[t];
      if (table.sh_type != SHT_REL && table.sh_type != SHT_RELA) continue;
      if (table.sh_info >= sections_.size() || !starts_[table.sh_info]) continue;
      if (table.sh_type == SHT_RELA) return refuse("its relocations are of an unknown form");
      if (table.sh_link >= sections_.size()) return refuse("its relocations have no symbols");
      const std::span<const uint8_t> relocations = sections_.bytes_of(t);
      for (uint64_t i = 0; const auto reloc = record_at<Elf64_Rel>(relocations, i); ++i) {
        if (!apply(*reloc, table.sh_info, table.sh_link)) return false;
      }
    }
    return true;
  }

  bool apply(const Elf64_Rel& reloc, uint32_t section, uint32_t symbols) {
    const auto symbol =
        record_at<Elf64_Sym>(sections_.bytes_of(symbols), ELF64_R_SYM(reloc.r_info));
    const uint32_t names = sections_[symbols].sh_link;
    if (!symbol || names >= sections_.size()) return refuse("a symbol is missing");
    const std::string name = text_at(sections_.bytes_of(names), symbol->st_name);
    if (ELF64_R_TYPE(reloc.r_info) != kRelocCall) {
      return refuse("it refers to data or a map, '" + name + "': only code is linked");
    }
    if (reloc.r_offset % 8 != 0 || reloc.r_offset >= sections_[section].sh_size) {
      return refuse("a relocation lies outside of its section");
    }
    const uint64_t at = *starts_[section] + reloc.r_offset / 8;
    if ((slots[at] & 0xff) != kOpCall) return refuse("a call is to be linked where none is");
    const auto addend = static_cast<int32_t>(slots[at] >> 32);
    if (symbol->st_shndx == SHN_UNDEF) {
      const int64_t id = helper_(name);
      if (id < 0) return refuse("it calls '" + name + "', which is not registered");
      slots[at] = kOpCall | static_cast<uint64_t>(id) << 32;
      return true;
    }
    if (symbol->st_shndx >= sections_.size() || !starts_[symbol->st_shndx] ||
        symbol->st_value > sections_[symbol->st_shndx].sh_size) {
      return refuse("it calls '" + name + "', which is no code");
    }
    // Documentation/bpf/llvm_reloc.rst: in slots, and as from the one behind the call. Where it
    // leads, the validator checks.
    const int64_t to =
        static_cast<int64_t>(*starts_[symbol->st_shndx] + symbol->st_value / 8) + addend + 1;
    const auto distance = static_cast<uint32_t>(to - static_cast<int64_t>(at) - 1);
    slots[at] = kOpCall | kLocalCall << 12 | static_cast<uint64_t>(distance) << 32;
    return true;
  }

  ElfSections sections_;
  const HelperByName& helper_;
  std::string& why_;
  std::vector<std::optional<uint64_t>> starts_;  // slot of each section of code
  bool has_main_ = false;
};

}  // namespace

std::vector<uint64_t> text_of_elf(std::span<const uint8_t> file, const std::string& main_name,
                                  const HelperByName& helper, std::string& why) {
  ElfText text(file, helper, why);
  if (!text.link(main_name)) return {};
  return std::move(text.slots);
}

}  // namespace bpftime
