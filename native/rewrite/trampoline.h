// SPDX-License-Identifier: MIT
// Trampolines: the code between a site's jump and the programs.
//
// Shape of one site in an arena:   lanes: jumps to a copy or a body
//                                  head: on into the first body | jmp lane
//                                  body: counters, programs, the relocated window, back
//                                  copy: the relocated window alone, back
// The body saves what its programs change and of struct pt_regs only the words that some program
// reads; vector and x87 state is never touched because nothing that runs there uses it (but see
// go_stack.h). A program is called, or its code stands in the body (inline_code.h,
// docs/adr/0018). It may give the function's result in its place. At a function's entry flags are
// dead; elsewhere the red zone is stepped over and flags are kept. Returns are caught where the
// function's `ret`s stand (exit_plan.h), else by the balanced hijack; see
// docs/adr/0003-return-probe.md.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "../base/result.h"
#include "go_stack.h"
#include "inline_code.h"

namespace bpftime::rewrite {

// A head is two bytes: a short jump to one of the lanes before it, each a jump somewhere, or a
// `test` that goes on into the body behind it. Which one is a single byte, so it can change while
// threads run (native/target/session_switch.cc).
constexpr uint32_t kHeadLanes = 7;
constexpr uint32_t kLaneBytes = 8;
constexpr uint32_t kGateBytes = 2;
/// A block is aligned so that head and body begin a cache line.
constexpr uint32_t kBlockAlign = 64;
constexpr uint32_t kBeforeHead = kLaneBytes * (1 + kHeadLanes);
constexpr uint32_t kHeadBytes = kBeforeHead + kGateBytes;
static_assert(kBeforeHead % kBlockAlign == 0);
/// Words of struct pt_regs (bit i: word i) that hold the nine registers a call may clobber.
constexpr uint32_t kCallClobbers = 0x7fc0;

/// Whether a program at a function's entry gives the result in the function's place: by what it
/// returns, or if it says so in the frame (is_answered).
enum class Answers : uint8_t { kNever, kIfItSays, kAlways };

/// One program at one site. Addresses are the target's.
struct HookCall {
  uint64_t entry_slot = 0;  // 8 bytes holding the program's address (or the agent's return stub)
  uint64_t stats = 0;       // struct hook_stats of CPU 0 (native/abi/agent.h)
  uint64_t cookie = 0;
  uint64_t hook_id = 0;
  uint32_t ctx_read_mask = 0;         // words of pt_regs the program reads
  bool escapes_ctx = true;            // reads more than the mask says: fill everything
  uint32_t clobbers = kCallClobbers;  // words of the registers that the program changes
  bool counted = true;                // false for the agent's own hooks
  Answers answers = Answers::kNever;
  // Stands in the body instead of a call while `entry_slot` holds `entry`, and not once more when
  // it holds something else (whose lower half differs).
  std::optional<InlineCode> code;
  uint64_t entry = 0;
};

struct TrampolineSpec {
  uint64_t body = 0;  // where the code will be
  uint64_t copy = 0;  // the relocated window
  // The same once more for an address, to end the body: a jump less. Null: the copy is jumped to.
  std::function<Result<std::vector<uint8_t>>(uint64_t dest)> tail;
  uint64_t func_ip = 0;  // bpf_get_func_ip
  uint32_t site_id = 0;
  bool at_entry = true;   // flags dead, no red zone: never when a loop leads back to the site
  bool has_rdpid = true;  // else the CPU number comes from the limit of a GDT segment
  uint32_t stats_cpu_shift = 0;  // log2 of the bytes between two CPUs' hook_stats
  std::vector<HookCall> on_entry;
  std::vector<HookCall> on_return;   // only when at_entry, or at an exit
  std::vector<HookCall> on_answer;   // as on_return, for calls that a program of on_entry answered
  bool fs_points_at_itself = false;  // the word at fs:0 is fs base: the TLS ABI of a known libc
  uint64_t shadows = 0;              // the process' table of struct shadow_stack
  uint64_t push_return_slot = 0;     // agent_push_return
  uint64_t pop_return_slot = 0;      // agent_pop_return
  std::optional<GoStack> go;         // the code is Go's: programs run on an agent stack
  // Instructions that come before the programs, relocated for an address: a stack check of Go.
  std::function<Result<std::vector<uint8_t>>(uint64_t dest)> prefix;
};

/// The place of a function's `ret`: what stands before it is executed first.
struct ExitSpec {
  /// The instructions in front of the `ret`, relocated for an address.
  std::function<Result<std::vector<uint8_t>>(uint64_t dest)> prefix;
  std::vector<uint8_t> ret;  // the instruction itself
};

struct Trampoline {
  std::vector<uint8_t> code;
  uint32_t return_point = 0;  // offset where hijacked functions come back; 0 = none
};

/// Fails with EOPNOTSUPP when something is out of reach of a rel32.
Result<Trampoline> build_trampoline(const TrampolineSpec& spec);

/// The body of an exit: the programs of `spec.on_entry`, if any (the entry's window ends in the
/// `ret` then), the prefix, the programs of `spec.on_return`, the `ret`. All registers and the
/// flags are as the function left them.
Result<Trampoline> build_exit(const TrampolineSpec& spec, const ExitSpec& exit);

/// A site in front of a `syscall` instruction whose call the agent may answer itself: the function
/// in `filter_slot` gets the frame and returns 1 (result in frame.ax, go on behind the call) or 0.
struct FilterSpec {
  uint64_t body = 0;
  uint64_t copy = 0;         // the relocated window, then the `syscall`
  uint64_t behind = 0;       // address behind the `syscall`
  uint64_t filter_slot = 0;  // 8 bytes holding the function's address
  std::optional<GoStack> go;
};
Result<Trampoline> build_filter(const FilterSpec& spec);

}  // namespace bpftime::rewrite
