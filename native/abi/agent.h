/* SPDX-License-Identifier: MIT */
/* What the daemon and the agent inside a target agree on.
 *
 * The agent is a position-independent blob: text (R-X), then at AGENT_DATA_ALIGN its private data
 * (zero-initialised). Its first bytes are a struct agent_header whose offsets count from the blob's
 * start. The daemon calls agent functions on a stopped thread with registers and stack of its
 * choice; they end in int3. */
#ifndef BPFTIME_ABI_AGENT_H
#define BPFTIME_ABI_AGENT_H

#include "frame.h"
#include "runtime.h"

#define AGENT_MAGIC 0x656d69746670625full
#define AGENT_V6 6u
#define AGENT_HELPERS_MAX 256u

struct agent_header {
  u64 magic;
  u32 version;
  u32 data_off;   /* page aligned */
  u32 data_bytes; /* page aligned */
  u32 env_off;    /* struct rt_env, inside the data */
  u32 state_off;  /* struct agent_state, inside the data */
  u32 map_batch;  /* agent_map_batch(struct map_batch *) */
  u32 push_return;
  u32 pop_return;
  u32 restore_returns;
  u32 ret_stub;      /* a program that does nothing: entry slots of detached hooks point here */
  u32 sigaction;     /* agent_sigaction(struct probe_frame *) */
  u32 guard_install; /* remote calls: result in rax at the int3 */
  u32 guard_remove;
  u32 pid_page_off; /* struct rt_pid_page, inside the data, page aligned */
  u32 loader_event; /* agent_loader_event(struct probe_frame *) */
  u32 go_resume;    /* agent_go_resume(struct probe_frame *) */
  u32 mask_site;    /* agent_mask_site(struct probe_frame *) */
  u32 clone_site;   /* agent_clone_site(struct probe_frame *) */
  u32 any_site;     /* agent_any_site(struct probe_frame *) */
  u32 masks_take;   /* remote calls, as guard_install */
  u32 masks_withdraw;
  u32 helpers[AGENT_HELPERS_MAX]; /* by BPF_FUNC id; 0 = not offered */
};

/* Counters of one hook on one CPU. Written by trampolines without a lock prefix: one instruction
 * on one CPU cannot be torn by another thread of that CPU. Shared with the daemon, which only adds
 * the CPUs up and shows them. */
struct hook_stats {
  u64 hits;
  u64 sampled_ticks; /* TSC ticks over all samples */
  u64 samples;       /* one call in HOOK_SAMPLE_EVERY is timed */
  u64 missed;        /* returns that could not be followed */
};
#define HOOK_SAMPLE_EVERY 1024u
#define HOOKS_PER_ARENA 2048u
ABI_ASSERT(sizeof(struct hook_stats) == 32, "trampolines add these offsets");

/* Return addresses that the balanced hijack keeps aside, per thread. Private memory: fork copies
 * it together with the stacks that it describes. */
struct shadow_entry {
  u64 slot;        /* stack address that held the return address; ~0: free, ~1: being filled in */
  u64 return_addr; /* the caller's */
  u64 site_id;
  u64 return_point; /* where the hijacked function returns to instead: what *slot holds */
};
#define SHADOW_DEPTH 512u
/* Behind the stacks: for each site the returns that were cut short, by site_id % UNWOUND_SITES. */
#define UNWOUND_SITES (1u << 18)
#define SHADOW_SWEEP_FIRST 64u
#define SHADOW_THREADS 4096u
/* Index of the first look: (thread_key >> 6) * SHADOW_HASH >> 52. Trampolines look there, too. */
#define SHADOW_HASH 0x9e3779b97f4a7c15ull

struct shadow_stack {
  u64 thread_key; /* fs base of the owner, 1 when that is 0; 0: unused */
  u64 depth;
  u64 sweep_at; /* depth at which entries of vanished frames are looked for; the daemon writes 0
                   to have them counted at the next push */
  u64 sweeping; /* 1 while entries move: a signal handler must not move them as well */
  u64 reserved[4];
  struct shadow_entry entries[SHADOW_DEPTH];
};
ABI_ASSERT(sizeof(struct shadow_stack) == 64 + 32 * SHADOW_DEPTH, "the daemon walks these");
#define SHADOWS_BYTES (sizeof(struct shadow_stack) * SHADOW_THREADS + 8 * (u64)UNWOUND_SITES)

struct go_move;
struct agent_state {
  u32 version; /* AGENT_V6 */
  u32 reserved;
  struct shadow_stack *shadows; /* SHADOWS_BYTES; null until the first return probe */
  u64 shadow_misses;            /* returns not followed: stack or table full */
  u64 unwound;                  /* returns cut short by an exception, a forced unwind or longjmp */
  struct load_gate *gate; /* shared with the daemon; null until something waits for a module */
  const struct go_move *go_resumes; /* from originals to copies */
  u64 go_resume_count;
  const struct go_move *go_faults; /* from copies to originals */
  u64 go_fault_count;
  /* Who is here, before a journal says so: see JournalOwner in native/target/journal.h. */
  u64 owner_start;
  s32 owner_tracer, owner_daemon;
  s32 home; /* the process that was entered: in a copy that fork made this is another one */
  u32 reserved1;
};

/* How a process that loads or unloads modules lets the daemon put its probes in before any code of
 * them runs. A page shared with the daemon; every u32 of it but `wanted` may be a futex. */
struct load_gate {
  u32 version;      /* AGENT_V6 */
  u32 wanted;       /* daemon: 1 while something waits for a module; else nobody is told */
  u32 event;        /* agent: how often the loader changed its list of modules */
  u32 seen;         /* daemon: the last event that it woke up for, written at once */
  u32 settled;      /* daemon: the last event whose consequences are in force */
  u32 unanswered;   /* agent: the daemon did not answer when `seen` was `absent_since` */
  u32 absent_since; /* agent */
  u32 reserved;
};
#define LOAD_SEEN_NS 100000000ull     /* without an answer within this time there is no daemon */
#define LOAD_SETTLED_NS 2000000000ull /* the longest a load waits for a daemon that is alive */
ABI_ASSERT(sizeof(struct load_gate) == 32, "mapped by daemons and agents of one version");

/* An instruction of Go code that was displaced: goroutines that were preempted there go on at
 * `to`, and a copy that faults (`pc`) does so in the name of the original (`to`). Tables of these
 * are sorted; they change while no thread is in the agent. */
struct go_move {
  u64 pc;
  u64 to;
};
#define GO_MOVES_MAX (1u << 18)

/* One request of map_batch, executed in order by the stopped thread. */
enum map_op {
  MAP_OP_FD = 1,
  MAP_OP_ANON = 2,
  MAP_OP_UNMAP = 3,
  MAP_OP_WIPE_ON_FORK = 4,
  MAP_OP_DONT_FORK = 5,
};
struct map_request {
  u32 op;       /* enum map_op */
  u32 fd_index; /* MAP_OP_FD: which received descriptor */
  u64 addr;     /* wanted address, 0 = any; UNMAP, WIPE_ON_FORK, DONT_FORK: which (0: what the
                   request before this one has mapped) */
  u64 bytes;
  u32 prot;
  u32 flags;  /* mmap flags */
  s64 result; /* out: address or -errno */
};

#define MAP_BATCH_MAX 64u
#define MAP_BATCH_FDS_MAX 64u
struct map_batch {
  u32 version; /* AGENT_V6 */
  u32 count;
  s32 sockets[2]; /* made by the agent; the daemon sends the descriptors into sockets[0]'s peer */
  u32 fd_count;
  s32 error; /* 0, or -errno of the first failing step */
  struct map_request requests[MAP_BATCH_MAX];
  s32 fds[MAP_BATCH_FDS_MAX];
  u8 control[512]; /* cmsg space */
};

#endif
