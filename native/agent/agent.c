/* SPDX-License-Identifier: MIT */
/* The agent: the only code of ours that runs inside targets, apart from verified programs.
 *
 * Rules of this world: no libc, no TLS, no malloc, no pointers that need relocation; system calls
 * by hand and only on paths that are not a probe's fast path; general registers only; bounded
 * stack (the target's own) and bounded time; async-signal-safe. If unsure, do nothing and count
 * it. Everything the daemon reads or writes here is declared in native/abi/agent.h. */
#include "../abi/agent.h"

#include <asm/unistd.h>

#include "../vm/rt/guard.h"
#include "../vm/rt/rt.h"
#include "../vm/rt/unwind.h"

#define AF_UNIX_ 1
#define SOCK_STREAM_CLOEXEC_ (1 | 02000000)
#define SOL_SOCKET_ 1
#define SCM_RIGHTS_ 1
#define MSG_CMSG_CLOEXEC_ 0x40000000
#define FREE_SLOT (~(u64)0)
/* Reserved by a push_return that has not filled it yet: a signal handler in between leaves it be.
 */
#define RESERVED_SLOT (~(u64)1)

struct agent_state agent_state;

/* ---- mapping: called by the daemon on a stopped thread, with a stack of its own ------------- */

struct iovec_ {
  void* base;
  u64 len;
};
struct msghdr_ {
  void* name;
  u32 namelen;
  struct iovec_* iov;
  u64 iovlen;
  void* control;
  u64 controllen;
  s32 flags;
};
struct cmsghdr_ {
  u64 len;
  s32 level;
  s32 type;
  s32 fds[];
};

static long receive_fds(struct map_batch* batch) {
  long err =
      rt_syscall6(__NR_socketpair, AF_UNIX_, SOCK_STREAM_CLOEXEC_, 0, (u64)batch->sockets, 0, 0);
  if (err < 0) return err;
  __asm__ volatile("int3" ::: "memory"); /* the daemon sends through the peer of sockets[0] */
  u8 byte;
  struct iovec_ iov = {&byte, 1};
  struct msghdr_ msg = {0, 0, &iov, 1, batch->control, sizeof batch->control, 0};
  err = rt_syscall6(__NR_recvmsg, batch->sockets[0], (u64)&msg, MSG_CMSG_CLOEXEC_, 0, 0, 0);
  rt_syscall6(__NR_close, batch->sockets[0], 0, 0, 0, 0, 0);
  rt_syscall6(__NR_close, batch->sockets[1], 0, 0, 0, 0, 0);
  if (err < 0) return err;
  const struct cmsghdr_* cmsg = (const struct cmsghdr_*)batch->control;
  const u64 want = 16 + 4 * (u64)batch->fd_count;
  if (msg.controllen < want || cmsg->len != want || cmsg->level != SOL_SOCKET_ ||
      cmsg->type != SCM_RIGHTS_) {
    return -71; /* EPROTO */
  }
  for (u32 i = 0; i < batch->fd_count; ++i) batch->fds[i] = cmsg->fds[i];
  return 0;
}

static long run_request(struct map_batch* batch, const struct map_request* request) {
  switch (request->op) {
    case MAP_OP_FD:
      if (request->fd_index >= batch->fd_count) return -22;
      return rt_syscall6(__NR_mmap, (u64)request->addr, (u64)request->bytes, request->prot,
                         request->flags, batch->fds[request->fd_index], 0);
    case MAP_OP_ANON:
      return rt_syscall6(__NR_mmap, (u64)request->addr, (u64)request->bytes, request->prot,
                         request->flags, -1, 0);
    case MAP_OP_UNMAP:
      return rt_syscall6(__NR_munmap, (u64)request->addr, (u64)request->bytes, 0, 0, 0, 0);
    case MAP_OP_WIPE_ON_FORK:
      return rt_syscall6(__NR_madvise, (u64)request->addr, (u64)request->bytes, 18, 0, 0, 0);
    case MAP_OP_DONT_FORK: {
      const u64 addr = request->addr != 0 || request == batch->requests ? request->addr
                                                                        : (u64)request[-1].result;
      return rt_syscall6(__NR_madvise, addr, (u64)request->bytes, 10, 0, 0, 0);
    }
    default:
      return -22; /* EINVAL */
  }
}

void agent_map_batch(struct map_batch* batch) {
  batch->error = 0;
  u32 received = 0;
  if (batch->fd_count > MAP_BATCH_FDS_MAX || batch->count > MAP_BATCH_MAX) {
    batch->error = -22;
  } else if (batch->fd_count > 0) {
    batch->error = (s32)receive_fds(batch);
    if (batch->error == 0) received = batch->fd_count;
  }
  for (u32 i = 0; i < batch->count && batch->error == 0; ++i) {
    batch->requests[i].result = run_request(batch, &batch->requests[i]);
    if (batch->requests[i].result < 0 && batch->requests[i].result > -4096) {
      batch->error = (s32)batch->requests[i].result;
    }
  }
  for (u32 i = 0; i < received; ++i) rt_syscall6(__NR_close, batch->fds[i], 0, 0, 0, 0, 0);
  __asm__ volatile("int3" ::: "memory");
  __builtin_unreachable();
}

/* ---- return addresses: called by trampolines ----------------------------------------------- */

static inline u64 thread_key(void) {
  u64 base;
  __asm__ volatile("rdfsbase %0" : "=r"(base));
  return base != 0 ? base : 1;
}

static struct shadow_stack* shadow_of(u64 key, int create) {
  struct shadow_stack* all = agent_state.shadows;
  if (all == 0) return 0;
  u64 index = ((key >> 6) * SHADOW_HASH) >> 52; /* 12 bits: SHADOW_THREADS */
  for (u32 probe = 0; probe < 64; ++probe) {
    struct shadow_stack* shadow = &all[(index + probe) & (SHADOW_THREADS - 1)];
    u64 owner = __atomic_load_n(&shadow->thread_key, __ATOMIC_ACQUIRE);
    if (owner == key) return shadow;
    if (owner != 0) continue;
    if (!create) return 0;
    if (__atomic_compare_exchange_n(&shadow->thread_key, &owner, key, 0, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE)) {
      return shadow;
    }
    if (owner == key) return shadow;
  }
  return 0;
}

/* What is in entry i's slot if its frame lives: the word there, or, when a tail call made a newer
 * entry of the same slot, the return address that the newest of those keeps. 0: not readable. */
static u64 held_in_slot(const struct shadow_stack* shadow, u64 i) {
  const u64 slot = shadow->entries[i].slot;
  for (u64 newer = i + 1; newer < shadow->depth; ++newer) {
    if (shadow->entries[newer].slot == slot) return shadow->entries[newer].return_addr;
  }
  u64 now = 0;
  return rt_read_user(&now, slot, sizeof now) == 0 ? now : 0;
}

/* A frame of this entry ended, or will end, without a return that its probes see. */
static void count_unwound(const struct shadow_entry* entry) {
  u64* by_site = (u64*)(agent_state.shadows + SHADOW_THREADS);
  __atomic_fetch_add(&by_site[entry->site_id % UNWOUND_SITES], 1, __ATOMIC_RELAXED);
  __atomic_fetch_add(&agent_state.unwound, 1, __ATOMIC_RELAXED);
}

/* Drops entries of frames that are gone without returning (longjmp, a destroyed coroutine). A live
 * hijacked frame has our return point in its slot; a slot that holds something else, or is no
 * longer mapped, belongs to nobody. Comparing addresses would not do: another coroutine's stack may
 * lie anywhere. Reads cost a system call each, so this runs only when the stack has doubled, or
 * when somebody looks at what was cut short. */
static void sweep(struct shadow_stack* shadow) {
  if (__atomic_exchange_n(&shadow->sweeping, 1, __ATOMIC_ACQ_REL) != 0) return;
  for (u64 i = shadow->depth; i > 0; --i) {
    struct shadow_entry* entry = &shadow->entries[i - 1];
    if (entry->slot >= RESERVED_SLOT) continue;
    if (held_in_slot(shadow, i - 1) == entry->return_point) continue;
    entry->slot = FREE_SLOT;
    count_unwound(entry);
  }
  u64 kept = 0;
  for (u64 i = 0; i < shadow->depth; ++i) {
    const struct shadow_entry entry = shadow->entries[i];
    if (entry.slot == FREE_SLOT) continue;
    if (entry.slot == RESERVED_SLOT) {
      /* Whom our signal interrupted will fill exactly this one. */
      while (kept < i) shadow->entries[kept++].slot = FREE_SLOT;
      kept = i + 1;
      continue;
    }
    if (kept != i) shadow->entries[kept] = entry;
    ++kept;
  }
  __atomic_store_n(&shadow->depth, kept, __ATOMIC_RELEASE);
  /* Trampolines push without asking while depth < sweep_at. */
  const u64 next = 2 * kept + SHADOW_SWEEP_FIRST;
  shadow->sweep_at = next < SHADOW_DEPTH ? next : SHADOW_DEPTH;
  __atomic_store_n(&shadow->sweeping, 0, __ATOMIC_RELEASE);
}

/* Keeps the return address in *slot aside; the copy will return to `return_point` instead, which is
 * written at once: the trampoline's call writes the same, but a signal may come before that.
 * Returns 1, or 0 when it cannot be followed. A signal handler may run the same code at any
 * instruction: the entry is reserved before it is filled, and an unfinished one is nobody else's.
 */
u32 agent_push_return(u64* slot, u32 site_id, u64 return_point) {
  struct shadow_stack* shadow = shadow_of(thread_key(), 1);
  if (shadow == 0) goto miss;
  if (shadow->depth == 0) shadow->sweep_at = SHADOW_SWEEP_FIRST;
  if (shadow->depth >= shadow->sweep_at || shadow->depth >= SHADOW_DEPTH) sweep(shadow);
  const u64 depth = shadow->depth;
  if (depth >= SHADOW_DEPTH) goto miss;
  struct shadow_entry* entry = &shadow->entries[depth];
  entry->slot = RESERVED_SLOT;
  __atomic_store_n(&shadow->depth, depth + 1, __ATOMIC_RELEASE);
  entry->return_addr = *slot;
  entry->site_id = site_id;
  entry->return_point = return_point;
  *slot = return_point;
  __atomic_store_n(&entry->slot, (u64)slot, __ATOMIC_RELEASE);
  return 1;
miss:
  __atomic_fetch_add(&agent_state.shadow_misses, 1, __ATOMIC_RELAXED);
  return 0;
}

static u64 take(struct shadow_stack* shadow, u64 slot, u32 site_id) {
  for (u64 i = shadow->depth; i > 0; --i) {
    struct shadow_entry* entry = &shadow->entries[i - 1];
    if (entry->slot != slot || entry->site_id != site_id) continue;
    const u64 return_addr = entry->return_addr;
    entry->slot = FREE_SLOT;
    u64 depth = shadow->depth;
    while (depth > 0 && shadow->entries[depth - 1].slot == FREE_SLOT) --depth;
    __atomic_store_n(&shadow->depth, depth, __ATOMIC_RELEASE);
    return return_addr;
  }
  return 0;
}

/* Gives back what push_return kept for this slot. A stack that moved to another thread in between
 * (M:N schedulers) is searched for everywhere; without the address there is nowhere to return to,
 * and stopping here, visibly, is the only honest end. */
u64 agent_pop_return(u64* slot, u32 site_id) {
  struct shadow_stack* shadow = shadow_of(thread_key(), 0);
  u64 return_addr = shadow != 0 ? take(shadow, (u64)slot, site_id) : 0;
  if (return_addr != 0) return return_addr;
  for (u32 i = 0; i < SHADOW_THREADS; ++i) {
    struct shadow_stack* other = &agent_state.shadows[i];
    if (other->thread_key == 0 || other == shadow) continue;
    return_addr = take(other, (u64)slot, site_id);
    if (return_addr != 0) return return_addr;
  }
  __builtin_trap();
}

/* See rt/unwind.h. A tail call leaves several entries of one slot: each keeps what the one before
 * it put there. */
u64 rt_true_return(u64 slot, u64 addr) {
  if (agent_state.shadows == 0) return addr;
  const struct shadow_stack* shadow = shadow_of(thread_key(), 0);
  if (shadow == 0) return addr;
  const u64 depth = shadow->depth < SHADOW_DEPTH ? shadow->depth : SHADOW_DEPTH;
  for (u64 i = depth; i > 0; --i) {
    const struct shadow_entry* entry = &shadow->entries[i - 1];
    if (entry->slot == slot && entry->return_point == addr) addr = entry->return_addr;
  }
  return addr;
}

/* Runs as a program on the entry of the unwinder (_Unwind_RaiseException and its like): writes the
 * true return addresses back, so that exceptions, pthread_cancel and backtraces see the stack they
 * know. The frames concerned end without a return event; they are counted. */
u64 agent_restore_returns(struct probe_frame* frame) {
  struct shadow_stack* shadow = shadow_of(thread_key(), 0);
  if (shadow == 0) return 0;
  const u64 sp = (u64)frame;
  /* Newest first: frames that longjmp left behind are still here, and their slots may be in use
   * again, by somebody else or by a later frame of the same function. */
  for (u64 i = shadow->depth; i > 0; --i) {
    struct shadow_entry* entry = &shadow->entries[i - 1];
    u64 now = 0;
    if (entry->slot >= RESERVED_SLOT || entry->slot <= sp) continue;
    if (rt_read_user(&now, entry->slot, sizeof now) != 0) now = 0;
    if (now == entry->return_point) *(u64*)entry->slot = entry->return_addr;
    entry->slot = FREE_SLOT;
    count_unwound(entry);
  }
  u64 depth = shadow->depth;
  while (depth > 0 && shadow->entries[depth - 1].slot == FREE_SLOT) --depth;
  __atomic_store_n(&shadow->depth, depth, __ATOMIC_RELEASE);
  return 0;
}

/* What the entry slot of a detached hook points at. */
u64 agent_ret_stub(void* ctx) {
  (void)ctx;
  return 0;
}
