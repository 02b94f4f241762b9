/* SPDX-License-Identifier: MIT */
/* Unwind tables: how the runtime in a target finds callers where no frame pointer leads to them.
 *
 * The daemon makes a table of each module's .eh_frame: a memfd, the same for every process that
 * maps the module, read-only there. A process has one index of its modules, private memory that the
 * daemon writes. Tables are not unmapped before the agent leaves, so a reader needs no lock. A row
 * says what the frame of the instructions from its start to the next row is like.
 *
 * "CFA": the stack pointer before the call; the return address lies right below it. */
#ifndef BPFTIME_ABI_UNWIND_H
#define BPFTIME_ABI_UNWIND_H

#include "types.h"

#define UNWIND_V1 1u

enum unwind_kind {
  UNWIND_NONE = 0,   /* nothing is known: frame pointers */
  UNWIND_END = 1,    /* there is no caller */
  UNWIND_SP = 2,     /* CFA = rsp + 8 * offset */
  UNWIND_BP = 3,     /* CFA = rbp + 8 * offset */
  UNWIND_PLT = 4,    /* CFA = rsp + 8, or 16 when the low four bits of rip are >= offset */
  UNWIND_SIGNAL = 5, /* rsp is at the ucontext that rt_sigreturn(2) takes */
  UNWIND_WIDE = 6,   /* offset: index of a struct unwind_wide */
};

/* A rule: kind | offset << 3 | bp << 22. bp: 0, rbp is the caller's; else it is at CFA - 8 * bp. */
#define UNWIND_KIND(rule) ((rule)&7u)
#define UNWIND_OFFSET(rule) ((rule) >> 3 & 0x7ffffu)
#define UNWIND_BP_SLOT(rule) ((rule) >> 22)
#define UNWIND_OFFSET_MAX 0x7ffffu
#define UNWIND_BP_SLOT_MAX 0x3ffu

struct unwind_row {
  u32 start; /* from the module's load bias */
  u32 rule;
};

/* CFA = reg + cfa_off, or *(reg + cfa_off) + cfa_add. Registers have their DWARF numbers. */
struct unwind_wide {
  u8 cfa_reg;
  u8 cfa_deref;
  u8 bp_kind; /* enum unwind_bp */
  u8 bp_reg;  /* UNWIND_BP_AT_REG */
  s32 cfa_off;
  s32 cfa_add;
  s32 bp_off;
};
enum unwind_bp { UNWIND_BP_SAME = 0, UNWIND_BP_AT_CFA = 1, UNWIND_BP_AT_REG = 2 };

/* Rows are found by blocks of text: block b begins amid row blocks[b], the next one amid
 * blocks[b + 1], which the last block has, too. */
#define UNWIND_BLOCK_SHIFT 8
struct unwind_table {
  u32 version; /* UNWIND_V1 */
  u32 first;   /* what block 0 begins with, from the load bias */
  u32 block_count;
  u32 row_count;
  u32 wide_count;
  u32 blocks_off; /* u32[block_count + 1] */
  u32 rows_off;   /* struct unwind_row[row_count], by start */
  u32 wides_off;  /* struct unwind_wide[wide_count] */
};

#define UNWIND_BUILD_ID_BYTES 20u
/* One executable mapping. */
struct unwind_module {
  u64 start, end;                     /* addresses in the target */
  u64 bias;                           /* where link address 0 would be */
  u64 table;                          /* struct unwind_table *; 0: it has none */
  u64 file_off;                       /* of start */
  u8 build_id[UNWIND_BUILD_ID_BYTES]; /* zeroes: it has none */
  u32 reserved;
};

/* Sorted by start. Readers take the half that the generation's lowest bit names; the daemon writes
 * the other one and counts up. Whoever saw the count grow by two has to look again. */
#define UNWIND_MODULES_MAX 1024u
struct unwind_index {
  u32 version; /* UNWIND_V1 */
  u32 generation;
  u32 counts[2];
  struct unwind_module modules[2][UNWIND_MODULES_MAX];
};

ABI_ASSERT(sizeof(struct unwind_row) == 8, "tables are shared by daemons and agents of one build");
ABI_ASSERT(sizeof(struct unwind_wide) == 16, "as above");
ABI_ASSERT(sizeof(struct unwind_table) == 32, "as above");
ABI_ASSERT(sizeof(struct unwind_module) == 64, "as above");
ABI_ASSERT(offsetof(struct unwind_index, modules) == 16, "the daemon writes halves by offset");

#endif
