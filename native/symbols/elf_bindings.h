// SPDX-License-Identifier: MIT
// What tells where an ifunc went: the slots that the dynamic linker fills, and the extents that
// unwind tables give to functions without a symbol. Both by segments, not sections, so that
// stripped files have them; only static programs without a dynamic segment are read by sections.
#pragma once

#include <libelf.h>

#include "elf_symbols.h"

namespace bpftime::symbols {

/// Fills `out->slots`. Needs `out->segments`.
void read_slots(Elf* elf, ElfSymbols* out);

/// Fills `out->extents`. Needs `out->symbols` sorted by vaddr.
void read_extents(Elf* elf, ElfSymbols* out);

}  // namespace bpftime::symbols
