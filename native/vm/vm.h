// SPDX-License-Identifier: MIT
// The VM as the rest of the daemon sees it: validate bytecode, compile it to a ProgramImage, or
// interpret it. Bytecode is an array of raw 8-byte eBPF slots (RFC 9669, little endian) in which
// map references carry map ids: BPF_PSEUDO_MAP_FD (imm = map id) and BPF_PSEUDO_MAP_VALUE
// (imm = map id, imm of the second slot = byte offset into the first value).
//
// Nothing here keeps global state; every function may be called from any thread. Hostile bytecode
// yields a Verdict, never a crash. What a *valid* program does with memory is the verifier's job.
#pragma once

#include <bitset>
#include <cstdint>
#include <span>

#include "../base/result.h"
#include "image.h"

namespace bpftime {

inline constexpr uint32_t kInsnCountMax = 1u << 20;  // 8-byte slots, second half of lddw included
inline constexpr uint32_t kHelperIdMax = 512;        // helper ids are below this
inline constexpr uint32_t kCallFramesMax = 8;        // main program included
inline constexpr uint32_t kFrameBytes = 512;         // stack of each frame

/// Helper ids (BPF_FUNC_*) that a program may call.
using HelperSet = std::bitset<kHelperIdMax>;

/// The answer of validate(): accepted, or the first instruction refused and why.
struct Verdict {
  bool ok = true;
  uint32_t insn_index = 0;  // 8-byte slot the reason is about
  uint8_t opcode = 0;       // its opcode byte
  const char* reason = "";  // static sentence, lower case, no full stop
  explicit operator bool() const { return ok; }
};

struct ValidateOptions {
  const HelperSet* helpers = nullptr;  // ids that may be called; null: any id below kHelperIdMax
  uint32_t prog_type = 0;              // BPF_PROG_TYPE_*; 0: no context layout is assumed
  uint32_t ctx_bytes = 0;              // size of the context that r1 points at; 0: unknown
  bool defer_helpers = false;          // calls of helpers that do not exist may stand in dead code
};

/// Checks everything about a program that needs no knowledge of register contents. O(n).
[[nodiscard]] Verdict validate(std::span<const uint64_t> slots,
                               const ValidateOptions& options = {});

/// Geometry of a map whose lookups may be inlined; type 0 if there is no such map.
struct MapGeometry {
  uint32_t type = 0;  // BPF_MAP_TYPE_*
  uint32_t max_entries = 0;
  uint32_t value_stride = 0;  // as in struct vm_map
  uint32_t elem_stride = 0;   // as in struct vm_map
  uint32_t cpu_count = 0;     // as in struct vm_map
  uint64_t data_off = 0;      // as in struct vm_map
  // Of hash maps, as in struct vm_map. 0: their lookups are calls.
  uint32_t key_size = 0;
  uint32_t bucket_count = 0;
  uint64_t bucket_off = 0;
};

/// x86-64 extensions that code may rely on; bits of ProgramImage::cpu_features.
inline constexpr uint32_t kCpuBmi2 = 1u << 0;
inline constexpr uint32_t kCpuRdpid = 1u << 1;

/// What this machine has, by CPUID.
[[nodiscard]] uint32_t cpu_features_host();

struct CompileOptions {
  const HelperSet* helpers = nullptr;  // as in ValidateOptions
  // Geometry by map id, for inlined lookups. Null: every lookup is a call.
  MapGeometry (*geometry)(void* user, uint32_t map_id) = nullptr;
  void* user = nullptr;
  uint32_t cpu_features = cpu_features_host();  // what the code may use
  bool is_budgeted = false;    // the entry gets a Budget (budget.h) as third argument, and obeys it
  bool inline_helpers = true;  // false: every helper is a call (tests)
  bool tail_calls = false;     // helper 12 is bpf_tail_call (tail_call.h), not the embedder's
};

/// Validates and compiles. Fails with EINVAL and the validator's reason, or ENOMEM/E2BIG.
[[nodiscard]] Result<ProgramImage> compile(std::span<const uint64_t> slots,
                                           const CompileOptions& options = {});

/// What a GOT slot holds in this process: the address of a helper, map or map value. 0: unknown.
struct Resolver {
  uint64_t (*resolve)(void* user, const GotSlot& slot) = nullptr;
  void* user = nullptr;
  uint64_t operator()(const GotSlot& slot) const { return resolve ? resolve(user, slot) : 0; }
};

/// A helper as programs call it: r1-r5 in, r0 out.
using HelperFn = uint64_t (*)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);

}  // namespace bpftime
