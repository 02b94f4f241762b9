/* SPDX-License-Identifier: MIT */
/* Whether faults are let through to a handler, known without asking the kernel.
 *
 * A fault on a blocked signal kills. The kernel clears the rseq_cs word of a thread's registered
 * struct rseq (rseq(2)) when the thread is preempted or gets a signal outside of the sequence that
 * the word names. We let it name an empty sequence, our token, in front of one look at the mask: as
 * long as the token is there no signal handler was entered since, and the thread was not switched
 * out. What else changes a mask are system calls; the daemon has their sites lead through
 * rt_mask_forget(). docs/adr/0017-signal-masks.md has the whole argument. */
#ifndef BPFTIME_RT_MASK_H
#define BPFTIME_RT_MASK_H

#include "rt.h"

#define RT_TOKENS 4096u
#define RT_TOKEN_HASH 0x9e3779b97f4a7c15ull

enum rt_token_state {
  RT_TOKEN_UNKNOWN = 0, /* nobody knows whether the kernel looks at this thread's word */
  RT_TOKEN_TRIED = 1,   /* the word named rt_trial */
  RT_TOKEN_PROVEN = 2,  /* and the kernel has cleared it */
};

/* One for each memory that was a thread's: the word of a thread that ended is found, and is still
 * valid for the kernel, when another thread gets its memory. */
struct rt_token {
  u32 version, flags; /* struct rseq_cs: zero */
  u64 start_ip, post_commit_offset, abort_ip;
  u64 thread; /* fs base; 0: unused */
  u32 tid;
  u32 state; /* enum rt_token_state */
  u64 reserved[2];
};
ABI_ASSERT(sizeof(struct rt_token) == 64, "a token tells its thread by its address");

#pragma GCC visibility push(hidden)
extern struct rt_token rt_tokens[RT_TOKENS];
extern struct rt_token rt_trial;

RT_INLINE u64 rt_rseq_cs(void) {
  u64 word;
  __asm__ volatile("movq %%fs:(%1), %0" : "=r"(word) : "r"(rt_env.rseq_cs_off) : "memory");
  return word;
}

/* Where it is known that the word at fs:0 is fs base: the daemon looks before it follows masks. */
RT_INLINE u64 rt_fs_base(void) {
  u64 base;
  __asm__ volatile("movq %%fs:0, %0" : "=r"(base));
  return base;
}

RT_INLINE int rt_is_token(u64 word) { return word - (u64)rt_tokens < sizeof rt_tokens; }

/* Masks are followed, as far as the daemon has looked. */
RT_INLINE int rt_mask_is_followed(void) {
  return rt_env.rseq_cs_off != 0 && rt_load(&rt_env.mask_events) == rt_load(&rt_env.mask_settled);
}

/* 1: this thread certainly has both fault signals open. */
RT_INLINE int rt_mask_is_open(void) {
  if (!rt_mask_is_followed()) return 0;
  const struct rt_token* token = (const struct rt_token*)rt_rseq_cs();
  return rt_is_token((u64)token) && rt_load(&token->tid) == rt_tid() &&
         rt_load(&token->thread) == rt_fs_base();
}

/* Puts this thread's token, before a look at its mask; null when it cannot have one now. */
struct rt_token* rt_mask_claim(void);
/* What the look has shown: takes the token away again unless it may stay. */
void rt_mask_judge(const struct rt_token* token, u64 mask);
/* The mask is about to change. */
void rt_mask_forget(void);
/* Somebody else is about to live with this thread's word, which the kernel then does not clear. */
void rt_mask_lend(void);
/* Takes every token out of every word, dead threads' too; 0, or -errno when that cannot be seen
 * through. All threads stand still. */
long rt_mask_withdraw(void);

#pragma GCC visibility pop
#endif
