/* SPDX-License-Identifier: MIT */
#include "unwind.h"

#include "guard.h"
#include "rt.h"

#define REG_BP 6u
#define REG_SP 7u
/* ucontext: flags, link, stack (24 bytes), then struct sigcontext: r8 to r15, di, si, bp, bx, dx,
 * ax, cx, sp, ip. */
#define UCONTEXT_REGS 40u
#define SIGCONTEXT_SP 15u
#define SIGCONTEXT_IP 16u

/* By DWARF number: the register's word in struct probe_regs, and in struct sigcontext. */
static const u8 frame_words[16] = {10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0};
static const u8 signal_words[16] = {13, 12, 14, 11, 9, 8, 10, 15, 0, 1, 2, 3, 4, 5, 6, 7};

struct walk {
  u64 ip, sp, bp;
  const struct unwind_index* index;
  const struct unwind_module* module; /* of ip; null: not in the index */
  const struct probe_frame* frame;
  /* All registers are known where the probe is and where a signal came, only those above else:
   * the address of a struct sigcontext, 0: see `frame`, 1: not known. */
  u64 regs_at;
  u32 is_return; /* ip is a return address: the call before it is what counts */
  struct rt_reads reads;
};
#define REGS_UNKNOWN 1u

const struct unwind_module* rt_unwind_module(const struct unwind_index* index, u64 addr) {
  const u32 half = rt_load_acquire(&index->generation) & 1;
  const struct unwind_module* modules = index->modules[half];
  u32 low = 0;
  u32 high = rt_load(&index->counts[half]);
  if (high > UNWIND_MODULES_MAX) return 0;
  while (low < high) {
    const u32 middle = (low + high) / 2;
    if (modules[middle].end <= addr) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low >= rt_load(&index->counts[half]) || modules[low].start > addr) return 0;
  return &modules[low];
}

u32 rt_unwind_rule(const struct unwind_module* module, u64 addr) {
  const struct unwind_table* table = (const struct unwind_table*)module->table;
  const u64 off = addr - module->bias;
  if (table == 0 || off < table->first || off > 0xffffffffu) return UNWIND_NONE;
  const u32 block = (u32)(off - table->first) >> UNWIND_BLOCK_SHIFT;
  if (block >= table->block_count) return UNWIND_NONE;
  const u32* blocks = (const u32*)((const u8*)table + table->blocks_off);
  const struct unwind_row* rows = (const struct unwind_row*)((const u8*)table + table->rows_off);
  u32 low = blocks[block];
  u32 high = blocks[block + 1];
  /* The last row that starts at or before `off`. */
  while (low < high) {
    const u32 middle = (low + high + 1) / 2;
    if (rows[middle].start <= off) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return rows[low].start <= off ? rows[low].rule : (u32)UNWIND_NONE;
}

static int read_word(struct walk* walk, u64 addr, u64* out) {
  return rt_reads_word(&walk->reads, addr, out) == 0;
}

/* A register of the frame that is being looked at, by its DWARF number. */
static int read_reg(struct walk* walk, u32 reg, u64* out) {
  if (reg == REG_SP || reg == REG_BP) {
    *out = reg == REG_SP ? walk->sp : walk->bp;
    return 1;
  }
  if (reg > 15 || walk->regs_at == REGS_UNKNOWN) return 0;
  if (walk->regs_at != 0) return read_word(walk, walk->regs_at + 8u * signal_words[reg], out);
  *out = ((const u64*)&walk->frame->regs)[frame_words[reg]];
  return 1;
}

/* Becomes the caller, whose address is right below `cfa`. */
static int step_to(struct walk* walk, u64 cfa, u64 bp) {
  u64 addr;
  /* Frames only ever lie further up. */
  if (cfa < walk->sp + 8 || !read_word(walk, cfa - 8, &addr) || addr == 0) return 0;
  walk->module = walk->index != 0 ? rt_unwind_module(walk->index, addr - 1) : 0;
  if (walk->module == 0) {
    const u64 real = rt_true_return(cfa - 8, addr);
    if (real != addr) {
      addr = real;
      if (walk->index != 0) walk->module = rt_unwind_module(walk->index, addr - 1);
    }
  }
  walk->ip = addr;
  walk->sp = cfa;
  walk->bp = bp;
  walk->regs_at = REGS_UNKNOWN;
  walk->is_return = 1;
  return 1;
}

/* Becomes what the signal interrupted: rsp is at the ucontext. */
static int step_to_interrupted(struct walk* walk) {
  const u64 regs = walk->sp + UCONTEXT_REGS;
  u64 ip, sp, bp;
  if (!read_word(walk, regs + 8 * SIGCONTEXT_IP, &ip) || ip == 0) return 0;
  if (!read_word(walk, regs + 8 * SIGCONTEXT_SP, &sp)) return 0;
  if (!read_word(walk, regs + 8u * signal_words[REG_BP], &bp)) return 0;
  walk->ip = ip;
  walk->sp = sp;
  walk->bp = bp;
  walk->regs_at = regs;
  walk->is_return = 0;
  walk->module = walk->index != 0 ? rt_unwind_module(walk->index, ip) : 0;
  return 1;
}

/* mov $15, %eax or %rax; syscall: how unwinders know where a signal handler returns to. */
static int is_sigreturn(struct walk* walk) {
  u64 first, second;
  if (!walk->is_return || !read_word(walk, walk->ip, &first)) return 0;
  if (first == 0x0f0000000fc0c748ull) {
    return read_word(walk, walk->ip + 8, &second) && (second & 0xff) == 0x05;
  }
  return (first & 0x00ffffffffffffffull) == 0x00050f0000000fb8ull;
}

/* At a function's first instruction the frame pointer is still the caller's, so the caller is only
 * found at the top of the stack. It is believed if a call instruction precedes it. */
static int is_at_entry(struct walk* walk) {
  u64 addr, code;
  if (walk->regs_at != 0 || walk->frame->regs.ip != walk->frame->func_ip) return 0;
  if (!read_word(walk, walk->sp, &addr) || addr < 8 || !read_word(walk, addr - 8, &code)) return 0;
  if ((code >> 24 & 0xff) == 0xe8) return 1;
  for (u32 at = 1; at < 7; at++) { /* call *operand, of two bytes up to seven */
    if ((code >> 8 * at & 0xff) == 0xff && (code >> (8 * at + 8) & 0x38) == 0x10) return 1;
  }
  return 0;
}

static int step_by_frame_pointer(struct walk* walk) {
  u64 bp;
  if (is_sigreturn(walk)) return step_to_interrupted(walk);
  if (is_at_entry(walk)) return step_to(walk, walk->sp + 8, walk->bp);
  if (walk->bp < walk->sp || (walk->bp & 7) != 0 || !read_word(walk, walk->bp, &bp)) return 0;
  return step_to(walk, walk->bp + 16, bp);
}

static int step_wide(struct walk* walk, u32 index) {
  const struct unwind_table* table = (const struct unwind_table*)walk->module->table;
  if (index >= table->wide_count) return 0;
  const struct unwind_wide* wide =
      (const struct unwind_wide*)((const u8*)table + table->wides_off) + index;
  u64 cfa;
  u64 bp = walk->bp;
  if (!read_reg(walk, wide->cfa_reg, &cfa)) return step_by_frame_pointer(walk);
  cfa += (u64)(s64)wide->cfa_off;
  if (wide->cfa_deref) {
    if (!read_word(walk, cfa, &cfa)) return 0;
    cfa += (u64)(s64)wide->cfa_add;
  }
  if (wide->bp_kind == UNWIND_BP_AT_CFA && !read_word(walk, cfa + (u64)(s64)wide->bp_off, &bp)) {
    return 0;
  }
  if (wide->bp_kind == UNWIND_BP_AT_REG) {
    if (!read_reg(walk, wide->bp_reg, &bp)) return 0;
    if (!read_word(walk, bp + (u64)(s64)wide->bp_off, &bp)) return 0;
  }
  return step_to(walk, cfa, bp);
}

static int step(struct walk* walk) {
  const u64 addr = walk->ip - walk->is_return;
  const u32 rule = walk->module != 0 ? rt_unwind_rule(walk->module, addr) : (u32)UNWIND_NONE;
  const u64 off = 8ull * UNWIND_OFFSET(rule);
  u64 cfa;
  u64 bp = walk->bp;
  switch (UNWIND_KIND(rule)) {
    case UNWIND_SP:
      cfa = walk->sp + off;
      break;
    case UNWIND_BP:
      cfa = walk->bp + off;
      break;
    case UNWIND_PLT:
      cfa = walk->sp + ((addr & 15) >= UNWIND_OFFSET(rule) ? 16 : 8);
      break;
    case UNWIND_SIGNAL:
      return step_to_interrupted(walk);
    case UNWIND_WIDE:
      return step_wide(walk, UNWIND_OFFSET(rule));
    case UNWIND_END:
      return 0;
    default:
      return step_by_frame_pointer(walk);
  }
  if (UNWIND_BP_SLOT(rule) != 0 && !read_word(walk, cfa - 8ull * UNWIND_BP_SLOT(rule), &bp)) {
    return 0;
  }
  return step_to(walk, cfa, bp);
}

static u32 walk_once(struct walk* walk, u32 skip, u64* out, u32 count_max) {
  const struct probe_regs* regs = &walk->frame->regs;
  u32 count = 0;
  walk->ip = regs->ip;
  walk->sp = regs->sp;
  walk->bp = regs->bp;
  walk->regs_at = 0;
  /* At a return the registers are those of the caller, behind its call. */
  walk->is_return = regs->ip != walk->frame->func_ip;
  walk->module = walk->index != 0 ? rt_unwind_module(walk->index, walk->ip - walk->is_return) : 0;
  while (count < count_max) {
    if (skip != 0) {
      skip--;
    } else {
      out[count++] = walk->ip;
    }
    if (count == count_max || !step(walk)) break;
  }
  return count;
}

u32 rt_stack_walk(const struct probe_frame* frame, u32 skip, u64* out, u32 count_max) {
  struct walk walk;
  const struct unwind_index* index = (const struct unwind_index*)rt_load(&rt_env.unwind_index);
  walk.frame = frame;
  walk.index = index;
  rt_reads_begin(&walk.reads);
  const u32 before = index != 0 ? rt_load_acquire(&index->generation) : 0;
  u32 count = walk_once(&walk, skip, out, count_max);
  if (index != 0 && RT_UNLIKELY(rt_load_acquire(&index->generation) - before >= 2)) {
    count = walk_once(&walk, skip, out, count_max);
  }
  rt_reads_end(&walk.reads);
  return count;
}

ABI_ASSERT(sizeof(struct rt_build_id) == 32, "programs have arrays of these");

void rt_stack_build_ids(const u64* ips, u32 count, struct rt_build_id* out) {
  const struct unwind_index* index = (const struct unwind_index*)rt_load(&rt_env.unwind_index);
  for (u32 i = 0; i < count; i++) {
    const struct unwind_module* module = index != 0 ? rt_unwind_module(index, ips[i]) : 0;
    u64 any = 0;
    for (u32 k = 0; module != 0 && k < UNWIND_BUILD_ID_BYTES; k++) any |= module->build_id[k];
    rt_memset(&out[i], 0, sizeof(out[i]));
    out[i].status = any != 0 ? RT_BUILD_ID_VALID : RT_BUILD_ID_IP;
    out[i].where = any != 0 ? ips[i] - module->start + module->file_off : ips[i];
    if (any != 0) rt_memcpy(out[i].build_id, module->build_id, UNWIND_BUILD_ID_BYTES);
  }
}
