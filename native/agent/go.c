/* SPDX-License-Identifier: MIT */
/* Goroutines that were preempted inside of what has since become a jump. Go's runtime keeps their
 * program counter on their stack, where it must stay as it is: it is walked by the collector and by
 * tracebacks. When such a goroutine goes on, runtime.asyncPreempt returns to that address; this
 * runs in front of that `ret`. Same rules as agent.c; the stack has about 200 bytes left here. */
#include "../abi/agent.h"

extern struct agent_state agent_state __attribute__((visibility("hidden")));

u64 agent_go_resume(struct probe_frame* frame) {
  /* What call_on_exit keeps between the frame and the return address: one word of flags. */
  u64* slot = (u64*)((u8*)frame + sizeof(*frame) + 8);
  const struct go_resume* all = agent_state.go_resumes;
  u64 low = 0, high = agent_state.go_resume_count;
  const u64 pc = *slot;
  while (low < high) {
    const u64 middle = (low + high) / 2;
    if (all[middle].pc < pc) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low < agent_state.go_resume_count && all[low].pc == pc) *slot = all[low].copy;
  return 0;
}
