/* SPDX-License-Identifier: MIT */
/* probe_frame: what a trampoline builds on the target's stack and passes to programs as context.
 * The first 168 bytes are the kernel's struct pt_regs for x86-64, so programs compiled against
 * bpf_tracing.h (PT_REGS_PARM1, BPF_KPROBE, ...) read it unchanged; helpers that need more than
 * the registers (get_func_ip, get_attach_cookie) find it behind them. */
#ifndef BPFTIME_ABI_FRAME_H
#define BPFTIME_ABI_FRAME_H

#include "types.h"

struct probe_regs {
  u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp,
      ss;
};
ABI_ASSERT(sizeof(struct probe_regs) == 168, "struct pt_regs, arch/x86/include/asm/ptrace.h");

struct probe_frame {
  struct probe_regs regs;
  u64 func_ip;     /* bpf_get_func_ip: address of the probed function or instruction */
  u64 cookie;      /* bpf_get_attach_cookie of the program that is running */
  u64 hook_id;     /* hook of the program that is running */
  u64 is_answered; /* bpf_override_return: 1 if the function is not to run; its result is regs.ax */
  u64 reserved;
};
ABI_ASSERT(sizeof(struct probe_frame) == 208, "trampolines address the frame by constants");
ABI_ASSERT(offsetof(struct probe_frame, func_ip) == 168, "see native/vm/rt/helpers.c");

#endif
