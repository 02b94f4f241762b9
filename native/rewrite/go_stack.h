// SPDX-License-Identifier: MIT
// The way of a trampoline off a goroutine's stack and back.
//
// A goroutine's stack may have no byte to spare, and what lies below it is another's. So programs
// run on an agent stack: one of a pool, claimed with one locked instruction and given back with a
// store. Whoever has room where he is (the scheduler, a signal handler, a goroutine with a grown
// stack) stays there, which also means that a signal handler never waits for a stack.
//
// Until a stack is found nothing may be written: functions that check their stack have some hundred
// bytes below the stack pointer (StackGuard), in others registers wait in mm0-2, which Go code does
// not use and the kernel keeps per thread and per signal handler.
#pragma once

#include <cstdint>

#include "../abi/frame.h"
#include "emit.h"

namespace bpftime::rewrite {

constexpr uint32_t kGoStackShift = 14;  // 16 KiB: eight BPF frames of 512 bytes and the helpers
constexpr uint32_t kGoStackCount = 256;
constexpr uint32_t kGoStackTop = 64;  // the claim, in the last line of each stack
constexpr uint32_t kGoRoomBytes = 8192;

/// Offsets from the frame, which begins with struct probe_frame.
constexpr uint32_t kGoFlags = sizeof(probe_frame);  // as lahf and seto leave them in ax
constexpr uint32_t kGoSp = kGoFlags + 8;            // the stack pointer of the code that was left
constexpr uint32_t kGoFrameBytes = kGoFlags + 32;

struct GoStack {
  uint64_t pool_slot = 0;     // 8 bytes holding the address of the first stack's claim
  int32_t g_offset = 0;       // of the current g, from the thread pointer
  bool has_rdpid = true;      // else the CPU number comes from the limit of a GDT segment
  bool has_room = false;      // 24 bytes below the stack pointer are free
  bool is_flags_live = true;  // else flags may change
};

/// Leaves the stack. Afterwards rsp is the frame; ax and cx are stored in it and free, so are
/// flags; all other registers are as they were.
void put_go_enter(CodeBuffer* code, const GoStack& go);

/// Goes back; takes ax and cx from the frame. All other registers must be right already.
void put_go_leave(CodeBuffer* code, const GoStack& go);

}  // namespace bpftime::rewrite
