// SPDX-License-Identifier: MIT
// ELF, BTF and BTF.ext: shape only. What the records mean is libbpf's business.
#include "elf_check.h"

#include <elf.h>

#include <cstring>

#include "btf_check.h"

namespace bpftime {

namespace {

constexpr uint16_t kMachineBpf = 247;  // EM_BPF

// Copies a T from any offset; false when it is not inside.
template <typename T>
bool load(std::span<const uint8_t> bytes, uint64_t offset, T& out) {
  if (offset > bytes.size() || bytes.size() - offset < sizeof(T)) return false;
  std::memcpy(&out, bytes.data() + offset, sizeof(T));
  return true;
}

Failure machine_reason(uint16_t machine) {
  switch (machine) {
    case EM_X86_64:
      return fail(ENOEXEC, "x86-64 object, want eBPF: compile with clang -target bpf");
    case EM_386:
      return fail(ENOEXEC, "i386 object, want eBPF: compile with clang -target bpf");
    case EM_AARCH64:
      return fail(ENOEXEC, "arm64 object, want eBPF: compile with clang -target bpf");
    case EM_RISCV:
      return fail(ENOEXEC, "RISC-V object, want eBPF: compile with clang -target bpf");
    default:
      return fail(ENOEXEC, "object for another machine, want eBPF: compile with clang -target bpf");
  }
}

Result<void> check_header(std::span<const uint8_t> file, Elf64_Ehdr& header) {
  if (file.size() > kObjectBytesMax) return fail(EFBIG, "object is over 64 MiB");
  if (file.size() < SELFMAG || std::memcmp(file.data(), ELFMAG, SELFMAG) != 0) {
    if (file.empty()) return fail(ENOEXEC, "empty file, want an eBPF object");
    if (file.size() >= 2 && file[0] == 'B' && file[1] == 'C') {
      return fail(ENOEXEC, "LLVM bitcode, want an eBPF object: compile with clang -target bpf -c");
    }
    if (file.size() >= 8 && std::memcmp(file.data(), "!<arch>\n", 8) == 0) {
      return fail(ENOEXEC, "archive, want a single eBPF object");
    }
    return fail(ENOEXEC, "not an ELF file");
  }
  if (file.size() < sizeof(header)) return fail(ENOEXEC, "truncated ELF file: header incomplete");
  std::memcpy(&header, file.data(), sizeof(header));
  if (header.e_ident[EI_CLASS] != ELFCLASS64) return fail(ENOEXEC, "32-bit ELF, want 64-bit eBPF");
  if (header.e_ident[EI_DATA] == ELFDATA2MSB) {
    return fail(ENOEXEC, "big-endian object, want little-endian: compile with -target bpfel");
  }
  if (header.e_ident[EI_DATA] != ELFDATA2LSB) return fail(ENOEXEC, "ELF of unknown byte order");
  if (header.e_machine != kMachineBpf && header.e_machine != EM_NONE) {
    return machine_reason(header.e_machine);
  }
  if (header.e_machine != kMachineBpf) return fail(ENOEXEC, "ELF without a machine, want eBPF");
  if (header.e_type != ET_REL) {
    return fail(ENOEXEC, "linked eBPF file, want a relocatable object: compile with -c");
  }
  return {};
}

// The object as a table of sections that are known to lie inside the file.
class Sections {
 public:
  Result<void> open(std::span<const uint8_t> file, const Elf64_Ehdr& header) {
    file_ = file;
    count_ = header.e_shnum;
    if (count_ == 0) return fail(ENOEXEC, "object without sections");
    if (count_ > kObjectSectionsMax) return fail(ENOEXEC, "object with over 4096 sections");
    if (header.e_shentsize != sizeof(Elf64_Shdr)) {
      return fail(ENOEXEC, "corrupt ELF: section headers of a wrong size");
    }
    const uint64_t bytes = uint64_t{count_} * sizeof(Elf64_Shdr);
    if (header.e_shoff > file.size() || file.size() - header.e_shoff < bytes) {
      return fail(ENOEXEC, "truncated object: section headers are missing");
    }
    table_ = header.e_shoff;
    for (uint32_t i = 0; i < count_; i++) {
      const Elf64_Shdr section = at(i);
      if (section.sh_type == SHT_NULL || section.sh_type == SHT_NOBITS) continue;
      if (section.sh_offset > file.size() || file.size() - section.sh_offset < section.sh_size) {
        return fail(ENOEXEC, "truncated object: a section lies outside of the file");
      }
      if ((section.sh_flags & SHF_COMPRESSED) != 0) {
        return fail(ENOEXEC, "object with compressed sections");
      }
    }
    names_ = header.e_shstrndx;
    if (!is_strings(names_)) return fail(ENOEXEC, "corrupt ELF: no section names");
    return {};
  }

  [[nodiscard]] uint32_t count() const { return count_; }
  [[nodiscard]] Elf64_Shdr at(uint32_t index) const {
    Elf64_Shdr section{};
    load(file_, table_ + uint64_t{index} * sizeof(section), section);
    return section;
  }
  [[nodiscard]] std::span<const uint8_t> bytes(uint32_t index) const {
    const Elf64_Shdr section = at(index);
    if (section.sh_type == SHT_NOBITS || section.sh_type == SHT_NULL) return {};
    return file_.subspan(section.sh_offset, section.sh_size);
  }
  // A string table that ends in NUL, so that every offset inside it is a string.
  [[nodiscard]] bool is_strings(uint32_t index) const {
    if (index == 0 || index >= count_ || at(index).sh_type != SHT_STRTAB) return false;
    const auto table = bytes(index);
    return !table.empty() && table.back() == 0;
  }
  [[nodiscard]] const char* name(uint32_t index) const {
    const uint32_t offset = at(index).sh_name;
    const auto table = bytes(names_);
    return offset < table.size() ? reinterpret_cast<const char*>(table.data()) + offset : nullptr;
  }

 private:
  std::span<const uint8_t> file_;
  uint64_t table_ = 0;
  uint32_t count_ = 0;
  uint32_t names_ = 0;
};

Result<void> check_symbols(const Sections& sections, uint32_t index) {
  const Elf64_Shdr table = sections.at(index);
  if (table.sh_entsize != sizeof(Elf64_Sym) || table.sh_size % sizeof(Elf64_Sym) != 0) {
    return fail(ENOEXEC, "corrupt ELF: symbols of a wrong size");
  }
  if (!sections.is_strings(table.sh_link)) return fail(ENOEXEC, "corrupt ELF: no symbol names");
  const auto bytes = sections.bytes(index);
  const size_t names_size = sections.bytes(table.sh_link).size();
  for (uint64_t at = 0; at < bytes.size(); at += sizeof(Elf64_Sym)) {
    Elf64_Sym symbol{};
    load(bytes, at, symbol);
    if (symbol.st_name >= names_size) return fail(ENOEXEC, "corrupt ELF: symbol without a name");
    if (symbol.st_shndx == SHN_UNDEF || symbol.st_shndx >= SHN_LORESERVE) continue;
    if (symbol.st_shndx >= sections.count()) {
      return fail(ENOEXEC, "corrupt ELF: symbol in a section that is not there");
    }
    const uint64_t size = sections.at(symbol.st_shndx).sh_size;
    if (symbol.st_value > size || size - symbol.st_value < symbol.st_size) {
      return fail(ENOEXEC, "corrupt ELF: symbol outside of its section");
    }
  }
  return {};
}

Result<void> check_relocations(const Sections& sections, uint32_t index) {
  const Elf64_Shdr table = sections.at(index);
  if (table.sh_entsize != sizeof(Elf64_Rel) || table.sh_size % sizeof(Elf64_Rel) != 0) {
    return fail(ENOEXEC, "corrupt ELF: relocations of a wrong size");
  }
  if (table.sh_link >= sections.count() || sections.at(table.sh_link).sh_type != SHT_SYMTAB ||
      table.sh_info == 0 || table.sh_info >= sections.count()) {
    return fail(ENOEXEC, "corrupt ELF: relocations without symbols or target");
  }
  const uint64_t symbols = sections.at(table.sh_link).sh_size / sizeof(Elf64_Sym);
  const uint64_t target_size = sections.at(table.sh_info).sh_size;
  const auto bytes = sections.bytes(index);
  for (uint64_t at = 0; at < bytes.size(); at += sizeof(Elf64_Rel)) {
    Elf64_Rel relocation{};
    load(bytes, at, relocation);
    if (ELF64_R_SYM(relocation.r_info) >= symbols || relocation.r_offset >= target_size) {
      return fail(ENOEXEC, "corrupt ELF: relocation out of bounds");
    }
  }
  return {};
}

Result<void> check_section(const Sections& sections, uint32_t index, uint32_t& programs) {
  const Elf64_Shdr section = sections.at(index);
  const char* name = sections.name(index);
  if (name == nullptr) return fail(ENOEXEC, "corrupt ELF: section without a name");
  if (section.sh_type == SHT_SYMTAB) return check_symbols(sections, index);
  if (section.sh_type == SHT_REL) return check_relocations(sections, index);
  if (section.sh_type == SHT_RELA) return fail(ENOEXEC, "relocations with addends are not eBPF's");
  if (section.sh_type == SHT_PROGBITS && (section.sh_flags & SHF_EXECINSTR) != 0) {
    if (section.sh_size % 8 != 0) return fail(ENOEXEC, "truncated object: half an instruction");
    // .text holds subprograms that only others call.
    if (section.sh_size != 0 && std::strcmp(name, ".text") != 0) programs++;
  }
  return {};
}

Result<void> check_types(const Sections& sections) {
  std::span<const uint8_t> btf, ext;
  uint32_t btf_count = 0, ext_count = 0;
  for (uint32_t i = 1; i < sections.count(); i++) {
    const char* name = sections.name(i);
    if (std::strcmp(name, ".BTF") == 0) {
      btf = sections.bytes(i);
      btf_count++;
    } else if (std::strcmp(name, ".BTF.ext") == 0) {
      ext = sections.bytes(i);
      ext_count++;
    }
  }
  if (btf_count > 1 || ext_count > 1) return fail(ENOEXEC, "corrupt ELF: .BTF twice");
  if (btf_count == 0) return {};
  return check_btf(btf, ext);
}

}  // namespace

Result<void> check_bpf_object(std::span<const uint8_t> file) {
  Elf64_Ehdr header{};
  const Result<void> header_ok = check_header(file, header);
  if (!header_ok) return header_ok;
  Sections sections;
  const Result<void> sections_ok = sections.open(file, header);
  if (!sections_ok) return sections_ok;
  uint32_t programs = 0;
  uint32_t symbol_tables = 0;
  for (uint32_t i = 1; i < sections.count(); i++) {
    const Result<void> section_ok = check_section(sections, i, programs);
    if (!section_ok) return section_ok;
    if (sections.at(i).sh_type == SHT_SYMTAB) symbol_tables++;
  }
  const Result<void> types_ok = check_types(sections);
  if (!types_ok) return types_ok;
  if (symbol_tables != 1) return fail(ENOEXEC, "object without symbols (stripped?)");
  if (programs == 0) {
    return fail(ENOEXEC, "no program in the object: give each function a SEC(\"...\")");
  }
  return {};
}

}  // namespace bpftime
