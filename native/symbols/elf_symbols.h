// SPDX-License-Identifier: MIT
// Function symbols of an ELF file: .symtab, .dynsym, .gnu_debugdata, the separate debug file that
// its build-id names, and the Go runtime's own table (go_pclntab.h). Input is hostile: every offset
// and count is checked, limits apply.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../base/result.h"

namespace bpftime::symbols {

enum class SymbolKind : uint8_t { kFunction = 0, kIfunc = 1, kObject = 2 };

struct Symbol {
  uint64_t vaddr = 0;  // as linked, before relocation of the module
  uint64_t size = 0;   // bytes; 0 in the file: distance to the next symbol or the section's end
  uint32_t name = 0;   // offset in ElfSymbols::names
  SymbolKind kind = SymbolKind::kFunction;
  bool is_go = false;  // in the Go runtime's own table: Go code, with its stacks and registers
  bool local = false;  // STB_LOCAL, or an old version that nobody links against any more
};

struct Segment {
  uint64_t vaddr = 0, file_off = 0, file_size = 0, mem_size = 0;
  bool exec = false;
};

constexpr uint32_t kNoName = UINT32_MAX;

/// A word that the dynamic linker fills with a function's address: of an ifunc, with the address of
/// the implementation that its resolver chose.
struct Slot {
  uint64_t vaddr = 0;
  uint64_t resolver = 0;    // R_X86_64_IRELATIVE: the resolver, as linked; else 0
  uint64_t initial = 0;     // what the file has there
  uint32_t name = kNoName;  // JUMP_SLOT and GLOB_DAT: offset in ElfSymbols::names
};

/// A function that no symbol names, from the unwind tables.
struct Extent {
  uint64_t vaddr = 0;
  uint32_t size = 0;
};

struct ElfSymbols {
  std::vector<Symbol> symbols;  // sorted by vaddr; one entry per (vaddr, name)
  std::vector<Slot> slots;
  std::vector<Extent> extents;  // of functions without a symbol
  std::string names;            // NUL-terminated names, UTF-8 as found
  std::vector<Segment> segments;
  std::string build_id;     // lower-case hex, empty when there is none
  std::string interpreter;  // PT_INTERP, empty for static programs
  bool is_position_independent = false;
};

constexpr uint64_t kElfFileBytesMax = uint64_t{4} << 30;
constexpr uint32_t kSymbolsMax = 4'000'000;

/// Reads `path`; `debug_root` is where separate debug files are looked up ("/usr/lib/debug").
/// ENOENT, EACCES from open; ENOEXEC when it is not a 64-bit little-endian x86-64 ELF file.
Result<ElfSymbols> read_elf_symbols(const char* path, const char* debug_root);

}  // namespace bpftime::symbols
