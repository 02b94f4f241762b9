// SPDX-License-Identifier: MIT
// Finds the Go runtime's function table in an ELF file and takes its functions over as symbols.
#pragma once

#include <libelf.h>

#include "elf_symbols.h"

namespace bpftime::symbols {

/// Marks symbols that are Go functions, and adds those that the symbol tables do not name (all of
/// them when the file is stripped). Needs `out->segments`; leaves `out->symbols` sorted by vaddr.
void read_go_symbols(Elf* elf, ElfSymbols* out);

}  // namespace bpftime::symbols
