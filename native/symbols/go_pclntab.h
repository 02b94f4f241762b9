// SPDX-License-Identifier: MIT
// The Go runtime's own function table, pclntab: it stays in a program that was stripped of its
// symbols, because tracebacks and the collector need it. Pure: bytes in, functions out.
//
// Layouts of Go 1.2, 1.16, 1.18 and 1.20 (and later, whose magic is that of 1.20), 64-bit little
// endian: src/runtime/symtab.go and src/internal/abi/symtab.go of those releases. Input is hostile:
// every offset is checked, names and counts have limits.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

namespace bpftime::symbols {

struct GoFunction {
  uint64_t vaddr = 0;
  uint64_t end = 0;  // where the next function begins: padding included
  std::string_view name;
};

/// Calls `found` for each function in address order. `text_vaddr`: where code begins, for tables
/// whose header leaves that to the loader (0 there). Returns how many there were; 0 when the bytes
/// are no such table.
uint32_t read_pclntab(std::span<const uint8_t> table, uint64_t text_vaddr,
                      const std::function<void(const GoFunction&)>& found);

/// Offset of the first thing in `bytes` that looks like the head of a table, from `from` on;
/// bytes.size() when there is none.
size_t find_pclntab(std::span<const uint8_t> bytes, size_t from);

/// Offset in the table's header of the address that code begins at; 0 for layouts without it.
uint64_t text_start_field(std::span<const uint8_t> table);

}  // namespace bpftime::symbols
