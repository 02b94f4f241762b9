/* SPDX-License-Identifier: MIT */
/* Who owns SIGSEGV and SIGBUS. While guarded reads are armed the kernel knows our handler; the
 * program believes that its own is installed: its rt_sigaction calls for these two signals are
 * answered here (the daemon diverts their system call sites), and faults that are not ours go on to
 * what it asked for, with the arguments, stack, flags and mask that the kernel would have used.
 *
 * Same rules as agent.c. Nothing here runs on a probe's path unless a read really faults. */
#include "../vm/rt/guard.h"

#include <asm/unistd.h>

#include "../vm/rt/mask.h"
#include "../vm/rt/rt.h"
#include "go.h"

#define SIG_BUS 7
#define SIG_SEGV 11
#define SIG_DFL_ 0ull
#define SIG_IGN_ 1ull
#define SA_SIGINFO_ 4ull
#define SA_RESTORER_ 0x04000000ull
#define SA_ONSTACK_ 0x08000000ull
#define SA_NODEFER_ 0x40000000ull
#define SA_RESETHAND_ 0x80000000ull
#define BOTH_SIGNALS ((1ull << (SIG_BUS - 1)) | (1ull << (SIG_SEGV - 1)))
#define SIGNALS 64
/* ucontext: flags, link, stack (24 bytes), then struct sigcontext whose 17th word is rip. */
#define UCONTEXT_RIP_WORD (5 + 16)

struct kernel_sigaction {
  u64 handler, flags, restorer, mask;
};

enum guard_phase { GUARD_OFF = 0, GUARD_CHANGING = 1, GUARD_ON = 2 };

/* What the program asked for. The lock is held for a few stores; a thread that is killed while
 * holding it takes its process with it. */
static struct {
  u32 phase; /* enum guard_phase */
  u32 lock;
  struct kernel_sigaction wanted[2]; /* SIGBUS, SIGSEGV */
  /* By signal - 1: handlers in which their own signal is open. The kernel knows agent_open_entry
   * in their place. */
  u64 open_handlers[SIGNALS];
} guard;

__asm__(
    ".pushsection .text, \"ax\", @progbits\n"
    ".balign 16\n"
    ".hidden agent_fault_entry, agent_fault_restorer\n"
    ".globl agent_fault_entry, agent_fault_restorer\n"
    "agent_fault_entry:\n" /* rdi signal, rsi siginfo, rdx ucontext */
    "  push %rdi\n  push %rsi\n  push %rdx\n"
    "  call agent_fault\n"
    "  pop %rdx\n  pop %rsi\n  pop %rdi\n"
    "  test %rax, %rax\n  jz 1f\n"
    "  jmp *%rax\n" /* the program's handler, as if the kernel had called it */
    "1:\n  ret\n"
    "agent_fault_restorer:\n"
    "  mov $15, %eax\n  syscall\n" /* rt_sigreturn */
    ".hidden agent_open_entry\n"
    ".globl agent_open_entry\n"
    "agent_open_entry:\n" /* as agent_fault_entry */
    "  push %rdi\n  push %rsi\n  push %rdx\n"
    "  call agent_open_handler\n"
    "  pop %rdx\n  pop %rsi\n  pop %rdi\n"
    "  jmp *%rax\n"
    ".popsection\n");
extern const char agent_fault_entry[] __attribute__((visibility("hidden")));
extern const char agent_open_entry[] __attribute__((visibility("hidden")));
extern const char agent_fault_restorer[] __attribute__((visibility("hidden")));

static long sigaction_raw(u32 sig, const struct kernel_sigaction* new,
                          struct kernel_sigaction* old) {
  return rt_syscall6(__NR_rt_sigaction, sig, (u64) new, (u64)old, 8, 0, 0);
}

static struct kernel_sigaction* wanted_of(u64 sig) { return &guard.wanted[sig == SIG_SEGV]; }

/* Our handler under the conditions of theirs. */
static long install_for(u32 sig, const struct kernel_sigaction* theirs) {
  const u64 kept = SA_ONSTACK_ | SA_NODEFER_ | 0x10000000ull /* SA_RESTART */;
  struct kernel_sigaction ours;
  const int is_function = theirs->handler > SIG_IGN_;
  ours.handler = (u64)agent_fault_entry;
  ours.flags = (is_function ? theirs->flags & kept : 0) | SA_SIGINFO_ | SA_RESTORER_;
  ours.restorer = (u64)agent_fault_restorer;
  ours.mask = is_function ? theirs->mask & ~BOTH_SIGNALS : 0;
  return sigaction_raw(sig, &ours, 0);
}

/* With every signal blocked, because a handler may come here as well; the mask as it was. */
static u64 lock_guard(void) {
  const u64 all = ~0ull;
  u64 mask = 0;
  rt_syscall6(RT_SYS_RT_SIGPROCMASK, 0 /* SIG_BLOCK */, (u64)&all, (u64)&mask, 8, 0, 0);
  while (__atomic_exchange_n(&guard.lock, 1, __ATOMIC_ACQUIRE) != 0) {
    rt_syscall6(__NR_sched_yield, 0, 0, 0, 0, 0, 0);
  }
  return mask;
}
static void unlock_guard(u64 mask) {
  __atomic_store_n(&guard.lock, 0, __ATOMIC_RELEASE);
  rt_syscall6(RT_SYS_RT_SIGPROCMASK, 2 /* SIG_SETMASK */, (u64)&mask, 0, 8, 0, 0);
}

static void lose_masks(void) {
  rt_store(&rt_env.mask_lost, 1);
  __atomic_fetch_add(&rt_env.mask_events, 1, __ATOMIC_SEQ_CST);
}

/* Called on a fault. Returns 0 to go on where rip says, or the program's handler. */
u64 agent_fault(u64 sig, const s32* info, u64* context) {
  u64* rip = &context[UCONTEXT_RIP_WORD];
  if (*rip >= (u64)rt_guard_begin && *rip < (u64)rt_guard_end) {
    *rip = (u64)rt_guard_fixup;
    return 0;
  }
  const u64 original = agent_go_fault(*rip);
  if (original != 0) *rip = original;
  struct kernel_sigaction* theirs = wanted_of(sig);
  const u64 handler = theirs->handler;
  if (handler > SIG_IGN_) {
    if (theirs->flags & SA_NODEFER_) lose_masks();
    if (theirs->flags & SA_RESETHAND_) theirs->handler = SIG_DFL_;
    return handler;
  }
  const int was_sent = info[2] <= 0; /* si_code of kill(2) and its kin */
  if (handler == SIG_IGN_ && was_sent) return 0;
  /* Die as the program would have died: the instruction faults again without a handler. */
  const struct kernel_sigaction none = {SIG_DFL_, SA_RESTORER_, (u64)agent_fault_restorer, 0};
  sigaction_raw((u32)sig, &none, 0);
  if (was_sent) {
    const u64 pid = (u64)rt_syscall6(__NR_getpid, 0, 0, 0, 0, 0, 0);
    const u64 tid = (u64)rt_syscall6(__NR_gettid, 0, 0, 0, 0, 0, 0);
    rt_syscall6(__NR_tgkill, pid, tid, sig, 0, 0, 0);
  }
  return 0;
}

/* ---- who may change signal masks: docs/adr/0017-signal-masks.md ----------------------------- */

static int is_function(const struct kernel_sigaction* action) { return action->handler > SIG_IGN_; }

/* Nothing would tell that a thread is in it. */
static int is_open(const struct kernel_sigaction* action) {
  return is_function(action) && (action->flags & SA_NODEFER_);
}

/* Bits are only added: a token that is not given costs time, one too many may cost a life. */
static void note_handler(u64 sig, const struct kernel_sigaction* action) {
  if (!is_function(action) || sig - 1 >= SIGNALS) return;
  __atomic_fetch_or(&rt_env.caught, 1ull << (sig - 1), __ATOMIC_SEQ_CST);
}

/* Before the first handler in which its own signal is open: from now on reads ask. */
u64 agent_open_handler(u64 sig) {
  lose_masks();
  return __atomic_load_n(&guard.open_handlers[sig - 1], __ATOMIC_RELAXED);
}

/* One rt_sigaction of the program's for a signal that is not a fault's: an open handler is called
 * through us. A child with borrowed memory has handlers of its own and gets what it asks for. */
static long exchange_action(u64 sig, const struct kernel_sigaction* new,
                            struct kernel_sigaction* old) {
  u64* const known = &guard.open_handlers[sig - 1];
  const u64 before = __atomic_load_n(known, __ATOMIC_RELAXED);
  struct kernel_sigaction ours;
  if (new != 0) note_handler(sig, new);
  if (new != 0 && is_open(new) && rt_is_memory_borrowed()) {
    lose_masks();
  } else if (new != 0 && is_open(new)) {
    __atomic_store_n(known, new->handler, __ATOMIC_RELAXED);
    ours = *new;
    ours.handler = (u64)agent_open_entry;
    new = &ours;
  }
  const long err = sigaction_raw((u32)sig, new, old);
  if (err != 0) __atomic_store_n(known, before, __ATOMIC_RELAXED);
  if (err == 0 && old->handler == (u64)agent_open_entry) old->handler = before;
  return err;
}

/* The same as agent_sigaction, for the other signals. */
static u32 other_sigaction(struct probe_frame* frame) {
  const u64 sig = frame->regs.di;
  struct kernel_sigaction new = {0, 0, 0, 0};
  struct kernel_sigaction old = {0, 0, 0, 0};
  if (!rt_env.masks_taken || sig - 1 >= SIGNALS) return 0;
  /* The kernel will say the same of it. */
  if (frame->regs.si != 0 && rt_read_user(&new, frame->regs.si, sizeof new) != 0) return 0;
  if (!is_open(&new) && __atomic_load_n(&guard.open_handlers[sig - 1], __ATOMIC_RELAXED) == 0) {
    note_handler(sig, &new);
    return 0;
  }
  const u64 mask = lock_guard();
  const long err = exchange_action(sig, frame->regs.si != 0 ? &new : 0, &old);
  unlock_guard(mask);
  frame->regs.ax = (u64)err;
  if (err == 0 && frame->regs.dx != 0 && rt_write_user(frame->regs.dx, &old, sizeof old) != 0) {
    frame->regs.ax = (u64)-RT_EFAULT;
  }
  return 1;
}

/* In front of an rt_sigprocmask system call. */
u64 agent_mask_site(const struct probe_frame* frame) {
  (void)frame;
  rt_mask_forget();
  return 0;
}

/* In front of vfork(2), clone(2), clone3(2): a child may live in our memory, with our word. */
u64 agent_clone_site(const struct probe_frame* frame) {
  (void)frame;
  rt_mask_lend();
  return 0;
}

/* In front of a system call whose number is in rax by now. */
u64 agent_any_site(const struct probe_frame* frame) {
  switch (frame->regs.ax) {
    case __NR_rt_sigprocmask:
    case __NR_rt_sigreturn:
      rt_mask_forget();
      break;
    case __NR_clone:
    case __NR_clone3:
    case __NR_fork:
    case __NR_vfork:
      rt_mask_lend();
      break;
    case __NR_rt_sigaction:
      /* Whose answers we do not see: each signal may have a handler of any kind. */
      lose_masks();
      break;
    default:
      break;
  }
  return 0;
}

/* Stands in for one rt_sigaction system call: rdi signal, rsi new, rdx old, r10 size of a mask.
 * Returns 1 when it was answered (result in frame->regs.ax), 0 to let the kernel do it. */
u32 agent_sigaction(struct probe_frame* frame) {
  const u64 sig = frame->regs.di;
  if (frame->regs.r10 != 8) return 0;
  if (sig != SIG_SEGV && sig != SIG_BUS) return other_sigaction(frame);
  while (__atomic_load_n(&guard.phase, __ATOMIC_ACQUIRE) == GUARD_CHANGING) {
    rt_syscall6(__NR_sched_yield, 0, 0, 0, 0, 0, 0);
  }
  if (guard.phase != GUARD_ON) return 0;
  struct kernel_sigaction new = {0, 0, 0, 0};
  frame->regs.ax = (u64)-RT_EFAULT;
  if (frame->regs.si != 0 && rt_read_user(&new, frame->regs.si, sizeof new) != 0) return 1;
  if (rt_is_memory_borrowed()) { /* it has signal handlers of its own */
    /* The new program starts with default handlers anyway; ignoring is inherited, so it is real. */
    if (frame->regs.si != 0 && new.handler != SIG_DFL_) return 0;
    if (frame->regs.dx != 0 &&
        rt_write_user(frame->regs.dx, wanted_of(sig), sizeof(struct kernel_sigaction)) != 0) {
      return 1;
    }
    frame->regs.ax = 0;
    return 1;
  }
  if (frame->regs.si != 0) note_handler(sig, &new);
  const u64 mask = lock_guard();
  const struct kernel_sigaction before = *wanted_of(sig);
  if (frame->regs.si != 0) {
    *wanted_of(sig) = new;
    install_for((u32)sig, &new);
  }
  unlock_guard(mask);
  frame->regs.ax = 0;
  if (frame->regs.dx != 0 && rt_write_user(frame->regs.dx, &before, sizeof before) != 0) {
    frame->regs.ax = (u64)-RT_EFAULT;
  }
  return 1;
}

/* Which signals have handlers now; those that are open are called through us from now on. */
static long take_handlers(void) {
  u64 probe = 0;
  rt_env.caught = 0;
  /* As words are looked at when they are withdrawn. */
  if (rt_read_by_kernel(&probe, (u64)&rt_env.caught, sizeof probe) != 0) return -RT_EOPNOTSUPP;
  for (u32 sig = 1; sig <= SIGNALS; ++sig) {
    struct kernel_sigaction now = {0, 0, 0, 0};
    const long err = sigaction_raw(sig, 0, &now);
    if (err != 0) return err;
    note_handler(sig, &now);
    if (sig == SIG_SEGV || sig == SIG_BUS || !is_open(&now)) continue;
    guard.open_handlers[sig - 1] = now.handler;
    now.handler = (u64)agent_open_entry;
    if (sigaction_raw(sig, &now, 0) != 0) return -RT_EINVAL;
  }
  return 0;
}

static void give_handlers_back(void) {
  for (u32 sig = 1; sig <= SIGNALS; ++sig) {
    struct kernel_sigaction now = {0, 0, 0, 0};
    const u64 handler = guard.open_handlers[sig - 1];
    if (handler == 0 || sigaction_raw(sig, 0, &now) != 0) continue;
    if (now.handler != (u64)agent_open_entry) continue;
    now.handler = handler;
    sigaction_raw(sig, &now, 0);
  }
  rt_memset(guard.open_handlers, 0, sizeof guard.open_handlers);
}

/* Called by the daemon on one thread while all stand still and none is in an rt_sigaction call: no
 * thread sees half of a change, no fork copies one. They end in int3 with the result in rax. */

static void finish(long result) {
  __asm__ volatile("int3" ::"a"(result) : "memory");
  __builtin_unreachable();
}

/* Takes the two signals over. The sites of rt_sigaction are diverted already. */
void agent_guard_install(void) {
  rt_pid(); /* remembered before a child with borrowed memory can ask first */
  __atomic_store_n(&guard.phase, GUARD_CHANGING, __ATOMIC_RELEASE);
  long err = sigaction_raw(SIG_BUS, 0, &guard.wanted[0]);
  if (err == 0) err = sigaction_raw(SIG_SEGV, 0, &guard.wanted[1]);
  if (err == 0) err = install_for(SIG_BUS, &guard.wanted[0]);
  if (err == 0) err = install_for(SIG_SEGV, &guard.wanted[1]);
  __atomic_store_n(&guard.phase, err == 0 ? GUARD_ON : GUARD_OFF, __ATOMIC_RELEASE);
  if (err == 0) rt_env.guard_mode = 1;
  finish(err);
}

static int is_ours(u32 sig) {
  struct kernel_sigaction now;
  return sigaction_raw(sig, 0, &now) == 0 && now.handler == (u64)agent_fault_entry;
}

/* Gives the program back the handlers that it believes to have. */
void agent_guard_remove(void) {
  rt_env.guard_mode = 0;
  const long err = rt_mask_withdraw();
  if (err != 0) finish(err);
  rt_env.rseq_cs_off = 0;
  rt_env.masks_taken = 0;
  give_handlers_back();
  __atomic_store_n(&guard.phase, GUARD_CHANGING, __ATOMIC_RELEASE);
  if (is_ours(SIG_BUS)) sigaction_raw(SIG_BUS, &guard.wanted[0], 0);
  if (is_ours(SIG_SEGV)) sigaction_raw(SIG_SEGV, &guard.wanted[1], 0);
  __atomic_store_n(&guard.phase, GUARD_OFF, __ATOMIC_RELEASE);
  finish(0);
}

/* Signal masks will be followed. */
void agent_masks_take(void) {
  const long err = take_handlers();
  if (err != 0) give_handlers_back();
  rt_env.mask_lost = 0;
  rt_env.masks_taken = err == 0;
  finish(err);
}

/* The daemon has found sites that change masks and were not seen so far. */
void agent_masks_withdraw(void) { finish(rt_mask_withdraw()); }
