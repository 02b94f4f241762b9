// SPDX-License-Identifier: MIT
// Files are read, never mapped: a file that shrinks under a mapping would end the daemon by SIGBUS.
#include "elf_symbols.h"

#include <elfutils/libdwelf.h>
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <lzma.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>

#include "../base/scoped_fd.h"
#include "elf_bindings.h"
#include "go_symbols.h"

namespace bpftime::symbols {

namespace {

constexpr uint64_t kDebugdataBytesMax = uint64_t{256} << 20;

struct ElfCloser {
  void operator()(Elf* elf) const { elf_end(elf); }
};
using ElfHandle = std::unique_ptr<Elf, ElfCloser>;

struct Section {
  uint64_t vaddr, end;
};

// Bit 15 of a version: only for programs linked long ago; `name@OLD`, not `name@@DEFAULT`.
constexpr GElf_Versym kVersionHidden = 0x8000;

void add_symbol(const GElf_Sym& sym, const char* name, bool hidden, ElfSymbols* out) {
  const int type = GELF_ST_TYPE(sym.st_info);
  if (sym.st_shndx == SHN_UNDEF || sym.st_value == 0 || name == nullptr || *name == '\0') return;
  if (type != STT_FUNC && type != STT_GNU_IFUNC && type != STT_OBJECT && type != STT_NOTYPE) return;
  // Untyped labels are functions written in assembler when they lie in code; mapping symbols and
  // local labels are not.
  if (type == STT_NOTYPE && (*name == '.' || *name == '$')) return;
  Symbol symbol;
  symbol.vaddr = sym.st_value;
  symbol.size = sym.st_size;
  symbol.kind = type == STT_OBJECT      ? SymbolKind::kObject
                : type == STT_GNU_IFUNC ? SymbolKind::kIfunc
                                        : SymbolKind::kFunction;
  // Versioned names (`memcpy@@GLIBC_2.14` in some .symtab) are known by the part in front.
  const char* at = strchr(name, '@');
  symbol.local =
      GELF_ST_BIND(sym.st_info) == STB_LOCAL || hidden || (at != nullptr && at[1] != '@');
  symbol.name = static_cast<uint32_t>(out->names.size());
  out->names.append(name, at != nullptr ? static_cast<size_t>(at - name) : strlen(name));
  out->names.push_back('\0');
  out->symbols.push_back(symbol);
}

// The versions of a .dynsym's symbols, if it has any.
Elf_Data* versions_of(Elf* elf, Elf_Scn* table) {
  Elf_Scn* scn = nullptr;
  while ((scn = elf_nextscn(elf, scn)) != nullptr) {
    GElf_Shdr shdr;
    if (gelf_getshdr(scn, &shdr) == nullptr || shdr.sh_type != SHT_GNU_versym) continue;
    if (shdr.sh_link == elf_ndxscn(table)) return elf_getdata(scn, nullptr);
  }
  return nullptr;
}

void read_table(Elf* elf, Elf_Scn* scn, const GElf_Shdr& shdr, ElfSymbols* out) {
  Elf_Data* data = elf_getdata(scn, nullptr);
  if (data == nullptr || shdr.sh_entsize != sizeof(Elf64_Sym)) return;
  const uint64_t count = std::min<uint64_t>(data->d_size / sizeof(Elf64_Sym), kSymbolsMax);
  Elf_Data* versions = shdr.sh_type == SHT_DYNSYM ? versions_of(elf, scn) : nullptr;
  for (uint64_t i = 0; i < count && out->symbols.size() < kSymbolsMax; ++i) {
    GElf_Sym sym;
    if (gelf_getsym(data, static_cast<int>(i), &sym) == nullptr) break;
    GElf_Versym version = 0;
    const bool versioned =
        versions != nullptr && gelf_getversym(versions, static_cast<int>(i), &version) != nullptr;
    const bool hidden = versioned && (version & kVersionHidden) != 0;
    add_symbol(sym, elf_strptr(elf, shdr.sh_link, sym.st_name), hidden, out);
  }
}

std::vector<uint8_t> unpack_xz(const uint8_t* bytes, size_t size) {
  std::vector<uint8_t> out;
  lzma_stream stream = LZMA_STREAM_INIT;
  if (lzma_stream_decoder(&stream, kDebugdataBytesMax, 0) != LZMA_OK) return out;
  stream.next_in = bytes;
  stream.avail_in = size;
  out.resize(1 << 20);
  size_t filled = 0;
  lzma_ret ret = LZMA_OK;
  while (ret == LZMA_OK && filled < kDebugdataBytesMax) {
    if (filled == out.size()) out.resize(out.size() * 2);
    stream.next_out = out.data() + filled;
    stream.avail_out = out.size() - filled;
    ret = lzma_code(&stream, LZMA_FINISH);
    filled = out.size() - stream.avail_out;
  }
  lzma_end(&stream);
  out.resize(ret == LZMA_STREAM_END ? filled : 0);
  return out;
}

void read_sections(Elf* elf, bool may_nest, std::vector<Section>* code, ElfSymbols* out) {
  size_t names = 0;
  if (elf_getshdrstrndx(elf, &names) != 0) return;
  Elf_Scn* scn = nullptr;
  while ((scn = elf_nextscn(elf, scn)) != nullptr) {
    GElf_Shdr shdr;
    if (gelf_getshdr(scn, &shdr) == nullptr) continue;
    const char* name = elf_strptr(elf, names, shdr.sh_name);
    if ((shdr.sh_flags & SHF_EXECINSTR) != 0 && code != nullptr) {
      code->push_back(Section{shdr.sh_addr, shdr.sh_addr + shdr.sh_size});
    }
    if (shdr.sh_type == SHT_SYMTAB || shdr.sh_type == SHT_DYNSYM) read_table(elf, scn, shdr, out);
    if (may_nest && name != nullptr && strcmp(name, ".gnu_debugdata") == 0) {
      Elf_Data* data = elf_rawdata(scn, nullptr);
      if (data == nullptr || data->d_buf == nullptr) continue;
      std::vector<uint8_t> inner =
          unpack_xz(static_cast<const uint8_t*>(data->d_buf), data->d_size);
      const ElfHandle nested(elf_memory(reinterpret_cast<char*>(inner.data()), inner.size()));
      if (nested != nullptr) read_sections(nested.get(), false, nullptr, out);
    }
  }
}

void read_segments(Elf* elf, ElfSymbols* out) {
  size_t count = 0;
  if (elf_getphdrnum(elf, &count) != 0) return;
  for (size_t i = 0; i < count; ++i) {
    GElf_Phdr phdr;
    if (gelf_getphdr(elf, static_cast<int>(i), &phdr) == nullptr) continue;
    if (phdr.p_type == PT_LOAD) {
      out->segments.push_back(Segment{phdr.p_vaddr, phdr.p_offset, phdr.p_filesz, phdr.p_memsz,
                                      (phdr.p_flags & PF_X) != 0});
    }
    if (phdr.p_type == PT_INTERP && phdr.p_filesz > 1 && phdr.p_filesz < 4096) {
      const Elf_Data* data =
          elf_getdata_rawchunk(elf, static_cast<int64_t>(phdr.p_offset), phdr.p_filesz, ELF_T_BYTE);
      if (data != nullptr) {
        out->interpreter.assign(static_cast<const char*>(data->d_buf), phdr.p_filesz - 1);
      }
    }
  }
}

void read_build_id(Elf* elf, ElfSymbols* out) {
  const void* id = nullptr;
  const ssize_t size = dwelf_elf_gnu_build_id(elf, &id);
  for (ssize_t i = 0; i < size && i < 64; ++i) {
    char hex[3];
    snprintf(hex, sizeof hex, "%02x", static_cast<const uint8_t*>(id)[i]);
    out->build_id += hex;
  }
}

void read_debug_file(const char* debug_root, ElfSymbols* out) {
  if (out->build_id.size() < 6) return;
  const std::string path = std::string(debug_root) + "/.build-id/" + out->build_id.substr(0, 2) +
                           "/" + out->build_id.substr(2) + ".debug";
  const ScopedFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return;
  const ElfHandle elf(elf_begin(fd.get(), ELF_C_READ, nullptr));
  if (elf != nullptr && elf_kind(elf.get()) == ELF_K_ELF) {
    read_sections(elf.get(), false, nullptr, out);
  }
}

// Sorts, drops what is said twice, and gives sizes to assembler labels that have none.
void finish(const std::vector<Section>& code, ElfSymbols* out) {
  auto& symbols = out->symbols;
  const auto in_code = [&](uint64_t vaddr) {
    return std::any_of(code.begin(), code.end(),
                       [&](const Section& s) { return vaddr >= s.vaddr && vaddr < s.end; });
  };
  std::erase_if(
      symbols, [&](const Symbol& s) { return s.kind != SymbolKind::kObject && !in_code(s.vaddr); });
  const auto name_of = [&](const Symbol& s) { return out->names.c_str() + s.name; };
  std::stable_sort(symbols.begin(), symbols.end(), [&](const Symbol& a, const Symbol& b) {
    if (a.vaddr != b.vaddr) return a.vaddr < b.vaddr;
    const int order = strcmp(name_of(a), name_of(b));
    if (order != 0) return order < 0;
    return a.local != b.local ? b.local : a.size > b.size;
  });
  symbols.erase(std::unique(symbols.begin(), symbols.end(),
                            [&](const Symbol& a, const Symbol& b) {
                              return a.vaddr == b.vaddr && strcmp(name_of(a), name_of(b)) == 0;
                            }),
                symbols.end());
  uint64_t next = 0;
  for (size_t i = symbols.size(); i-- > 0;) {
    Symbol& symbol = symbols[i];
    if (i + 1 < symbols.size() && symbols[i + 1].vaddr > symbol.vaddr) next = symbols[i + 1].vaddr;
    if (symbol.size != 0 || symbol.kind == SymbolKind::kObject) continue;
    for (const Section& section : code) {
      if (symbol.vaddr < section.vaddr || symbol.vaddr >= section.end) continue;
      const uint64_t limit = next > symbol.vaddr ? std::min(next, section.end) : section.end;
      symbol.size = limit - symbol.vaddr;
    }
  }
}

}  // namespace

Result<ElfSymbols> read_elf_symbols(const char* path, const char* debug_root) {
  static const bool version_ok = elf_version(EV_CURRENT) != EV_NONE;
  if (!version_ok) return fail(EIO, "libelf has another version than its header");
  const ScopedFd fd(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return fail(errno, "cannot open the module's file");
  struct stat st {};
  if (fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode)) return fail(ENOEXEC, "not a regular file");
  if (static_cast<uint64_t>(st.st_size) > kElfFileBytesMax) return fail(EFBIG, "file over 4 GiB");
  const ElfHandle elf(elf_begin(fd.get(), ELF_C_READ, nullptr));
  GElf_Ehdr ehdr;
  if (elf == nullptr || elf_kind(elf.get()) != ELF_K_ELF ||
      gelf_getehdr(elf.get(), &ehdr) == nullptr || gelf_getclass(elf.get()) != ELFCLASS64 ||
      ehdr.e_machine != EM_X86_64) {
    return fail(ENOEXEC, "not an x86-64 ELF file");
  }
  ElfSymbols out;
  out.is_position_independent = ehdr.e_type == ET_DYN;
  std::vector<Section> code;
  read_segments(elf.get(), &out);
  read_build_id(elf.get(), &out);
  read_sections(elf.get(), true, &code, &out);
  read_debug_file(debug_root, &out);
  read_go_symbols(elf.get(), &out);
  if (code.empty()) {
    for (const Segment& s : out.segments) {
      if (s.exec) code.push_back(Section{s.vaddr, s.vaddr + s.mem_size});
    }
  }
  finish(code, &out);
  read_slots(elf.get(), &out);
  read_extents(elf.get(), &out);
  return out;
}

}  // namespace bpftime::symbols
