/* SPDX-License-Identifier: MIT */
/* The dynamic loader's debugger hook (_dl_debug_state): called after modules were mapped and before
 * any of their code runs, and again when they were unmapped. While somebody waits for a module the
 * daemon is told, and gets a bounded time to put its probes in.
 *
 * Same rules as agent.c. The caller holds the loader's lock: a daemon that is dead must not cost
 * more than one short wait in the life of the process. */
#include <asm/unistd.h>

#include "../abi/agent.h"
#include "../vm/rt/rt.h"

#define CLOCK_MONOTONIC_ 1u
#define FUTEX_WAIT_ 0
#define FUTEX_WAKE_ 1
#define EAGAIN_ (-11)
#define EINTR_ (-4)

extern struct agent_state agent_state __attribute__((visibility("hidden")));

struct timespec_ {
  s64 sec, nsec;
};

/* Waits until *word has reached `event`; 0 when that took longer than `limit_ns`. */
static int reaches(u32* word, u32 event, u64 limit_ns) {
  const u64 deadline = rt_clock_ns(CLOCK_MONOTONIC_) + limit_ns;
  for (;;) {
    const u32 now = rt_load_acquire(word);
    if ((s32)(now - event) >= 0) return 1;
    const u64 time = rt_clock_ns(CLOCK_MONOTONIC_);
    if (time >= deadline) return 0;
    const u64 left = deadline - time;
    const struct timespec_ wait = {(s64)(left / 1000000000u), (s64)(left % 1000000000u)};
    const long err = rt_syscall6(__NR_futex, (u64)word, FUTEX_WAIT_, now, (u64)&wait, 0, 0);
    /* A filter that forbids futex(2): polling would burn the caller's processor. */
    if (err != 0 && err != EAGAIN_ && err != EINTR_ && err != -110 /* ETIMEDOUT */) return 0;
  }
}

u64 agent_loader_event(struct probe_frame* frame) {
  (void)frame;
  /* Code that changes signal masks may have come: see native/vm/rt/mask.h. */
  __atomic_fetch_add(&rt_env.mask_events, 1, __ATOMIC_SEQ_CST);
  struct load_gate* gate = agent_state.gate;
  if (gate == 0 || rt_load(&gate->wanted) == 0) return 0;
  const u32 event = __atomic_add_fetch(&gate->event, 1, __ATOMIC_ACQ_REL);
  rt_syscall6(__NR_futex, (u64)&gate->event, FUTEX_WAKE_, 1, 0, 0, 0);
  /* Nobody was there last time, and nobody has come since. */
  const u32 seen = rt_load_acquire(&gate->seen);
  if (gate->unanswered != 0 && gate->absent_since == seen) return 0;
  gate->unanswered = 0;
  if (reaches(&gate->seen, event, LOAD_SEEN_NS) &&
      reaches(&gate->settled, event, LOAD_SETTLED_NS)) {
    return 0;
  }
  gate->absent_since = rt_load_acquire(&gate->seen);
  gate->unanswered = 1;
  return 0;
}
