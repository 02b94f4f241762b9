/* SPDX-License-Identifier: MIT */
/* Program counters of Go code that was displaced. Its runtime must only ever see original ones.
 * Same rules as agent.c. */
#include "go.h"

extern struct agent_state agent_state __attribute__((visibility("hidden")));

static u64 moved(const struct go_move* all, u64 count, u64 pc) {
  u64 low = 0, high = count;
  while (low < high) {
    const u64 middle = (low + high) / 2;
    if (all[middle].pc < pc) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < count && all[low].pc == pc ? all[low].to : 0;
}

/* Goroutines that were preempted inside of what has since become a jump: the runtime keeps their
 * program counter on their stack, where it must stay as it is, for it is walked by the collector
 * and by tracebacks. When such a goroutine goes on, runtime.asyncPreempt returns to that address;
 * this runs in front of that `ret`. The stack has about 200 bytes left here. */
u64 agent_go_resume(struct probe_frame* frame) {
  /* What call_on_exit keeps between the frame and the return address: one word of flags. */
  u64* slot = (u64*)((u8*)frame + sizeof(*frame) + 8);
  const u64 to = moved(agent_state.go_resumes, agent_state.go_resume_count, *slot);
  if (to != 0) *slot = to;
  return 0;
}

/* The original of a copied instruction that faulted, or 0: a nil dereference becomes a panic only
 * where the runtime knows the code. */
u64 agent_go_fault(u64 pc) { return moved(agent_state.go_faults, agent_state.go_fault_count, pc); }
