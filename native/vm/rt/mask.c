/* SPDX-License-Identifier: MIT */
#include "mask.h"

#include "guard.h"

struct rt_token rt_tokens[RT_TOKENS] __attribute__((aligned(64)));
struct rt_token rt_trial __attribute__((aligned(64)));

/* Where the kernel would abort to, with the signature of glibc in front of it. Sequences of length
 * zero contain no instruction, so nobody ever comes here. */
__asm__(
    ".pushsection .text, \"ax\", @progbits\n"
    ".hidden rt_mask_abort\n"
    ".globl rt_mask_abort\n"
    "  .long 0x53053053\n"
    "rt_mask_abort:\n"
    "  ud2\n"
    ".popsection\n");
extern const char rt_mask_abort[] __attribute__((visibility("hidden")));

#define BETWEEN_STORES() __asm__ volatile("" ::: "memory")

/* One instruction, so that no signal comes in between; 0 when the word was not `from`. */
static int exchange(u64 from, u64 to) {
  u8 done;
  __asm__ volatile("cmpxchgq %2, %%fs:(%3)\n  sete %1"
                   : "+a"(from), "=q"(done)
                   : "r"(to), "r"(rt_env.rseq_cs_off)
                   : "memory", "cc");
  return done;
}

static void describe(struct rt_token* token) {
  token->start_ip = (u64)rt_mask_abort;
  token->abort_ip = (u64)rt_mask_abort;
}

static struct rt_token* token_of(u64 thread, int create) {
  const u64 index = ((thread >> 6) * RT_TOKEN_HASH) >> 52;
  for (u32 probe = 0; probe < 32; ++probe) {
    struct rt_token* token = &rt_tokens[(index + probe) & (RT_TOKENS - 1)];
    const u64 owner = rt_load_acquire(&token->thread);
    if (owner == thread) return token;
    if (owner != 0) continue;
    if (!create) return 0;
    if (rt_cas64(&token->thread, 0, thread)) return token;
    if (rt_load_acquire(&token->thread) == thread) return token;
  }
  return 0;
}

/* A signal handler may run all of this at any instruction. The word is written before the state
 * that speaks of it, and looked at behind it. */
struct rt_token* rt_mask_claim(void) {
  if (!rt_mask_is_followed()) return 0;
  const u64 word = rt_rseq_cs();
  if (word == (u64)&rt_trial) return 0;
  /* Of a thread that had this memory before. */
  if (rt_is_token(word))
    exchange(word, 0);
  else if (word != 0)
    return 0; /* a sequence of the program's */
  struct rt_token* token = token_of(rt_fs_base(), 1);
  if (token == 0) return 0;
  const u32 tid = rt_tid();
  if (rt_load(&token->tid) != tid) {
    rt_store(&token->state, RT_TOKEN_UNKNOWN);
    BETWEEN_STORES();
    rt_store(&token->tid, tid);
    BETWEEN_STORES();
  }
  const u32 state = rt_load(&token->state);
  BETWEEN_STORES();
  if (state == RT_TOKEN_UNKNOWN) {
    describe(&rt_trial);
    describe(token);
    BETWEEN_STORES();
    if (exchange(0, (u64)&rt_trial)) {
      BETWEEN_STORES();
      rt_store(&token->state, RT_TOKEN_TRIED);
    }
    return 0;
  }
  if (rt_rseq_cs() != 0) return 0;
  rt_store(&token->state, RT_TOKEN_PROVEN);
  return exchange(0, (u64)token) ? token : 0;
}

/* Inside of a handler its own signal is blocked, and is one of those that have a handler: what
 * rt_sigreturn will make of the mask is not seen by us, so no token is left there. */
void rt_mask_judge(const struct rt_token* token, u64 mask) {
  if ((mask & (rt_load(&rt_env.caught) | RT_FAULT_SIGNALS)) != 0) exchange((u64)token, 0);
}

void rt_mask_forget(void) {
  if (rt_env.rseq_cs_off == 0) return;
  const u64 word = rt_rseq_cs();
  if (rt_is_token(word)) exchange(word, 0);
}

void rt_mask_lend(void) {
  if (rt_env.rseq_cs_off == 0) return;
  struct rt_token* token = token_of(rt_fs_base(), 0);
  if (token != 0) rt_store(&token->state, RT_TOKEN_UNKNOWN);
  BETWEEN_STORES();
  const u64 word = rt_rseq_cs();
  /* A trial from before would prove nothing of whoever comes. */
  if (rt_is_token(word) || word == (u64)&rt_trial) exchange(word, 0);
}

long rt_mask_withdraw(void) {
  for (u32 i = 0; i < RT_TOKENS; ++i) {
    struct rt_token* token = &rt_tokens[i];
    if (token->thread == 0) continue;
    const u64 at = token->thread + (u64)rt_env.rseq_cs_off;
    const u64 none = 0;
    u64 word = 0;
    token->state = RT_TOKEN_UNKNOWN;
    /* Memory that is gone holds no word. */
    if (rt_read_by_kernel(&word, at, sizeof word) != 0) continue;
    if (!rt_is_token(word) && word != (u64)&rt_trial) continue;
    if (rt_write_user(at, &none, sizeof none) != 0) return -RT_EFAULT;
  }
  return 0;
}
