// SPDX-License-Identifier: MIT
// The verifier: proves of a program, before it runs anywhere, that it touches no memory but its
// context, its stack, map values and records of its own, that it gives helpers what they demand,
// that it gives back what it took, and that it ends. It walks every path with what is known of each
// register (kernel's way; the code is our own) and leaves a path where a state that was walked
// before already covers it. It runs in the daemon, never in a target; it keeps no global state.
//
// A refusal is one sentence "what: why (what to write instead)" and the path that led there.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "../vm.h"
#include "claims.h"
#include "context.h"
#include "contracts.h"

namespace bpftime::verify {

inline constexpr uint32_t kInsnBudget = 1000000;          // instructions walked, over all paths
inline constexpr uint64_t kCopiedBytesMax = 3ull << 30;   // of states: what bounds the time
inline constexpr uint64_t kStateBytesMax = 192ull << 20;  // of states kept at one time

/// What the verifier must know of a map.
struct MapShape {
  uint32_t type = 0;  // BPF_MAP_TYPE_*; 0: there is no such map
  uint32_t key_bytes = 0;
  uint32_t value_bytes = 0;
  uint32_t max_entries = 0;
  uint32_t flags = 0;        // BPF_F_RDONLY_PROG and BPF_F_WRONLY_PROG count
  bool is_constant = false;  // nobody can change it any more: its values may be relied on
  const char* name = "";
  uint32_t inner = 0;  // of a map of maps: the id under which shape() tells of those in it
};

struct Maps {
  MapShape (*shape)(void* user, uint32_t map_id) = nullptr;
  // Reads `bytes` (1, 2, 4, 8) at `offset` of the first value of a constant map. False: cannot.
  bool (*constant)(void* user, uint32_t map_id, uint64_t offset, uint32_t bytes,
                   uint64_t* value) = nullptr;
  void* user = nullptr;
};

/// Type information, as bpf(2) takes it; all may be empty.
struct DebugInfo {
  std::span<const uint8_t> btf;
  std::span<const uint8_t> func_info;  // struct bpf_func_info[]
  std::span<const uint8_t> line_info;  // struct bpf_line_info[]
};

/// Parts of the proof that can be left out, to see that the oracle notices: tests only.
enum Weakness : uint32_t {
  kTrustNull = 1u << 0,        // what may be null is taken for set
  kTrustBounds = 1u << 1,      // memory is taken for four bytes longer than it is
  kTrustStack = 1u << 2,       // what was not written may be read
  kForgetExact = 1u << 3,      // no number matters when states are compared
  kForgetRead = 1u << 4,       // no slot matters when states are compared
  kLearnTooMuch = 1u << 5,     // a number that was compared is taken for one less than it may be
  kForgetRecords = 1u << 6,    // records need not be given back
  kForgetLinks = 1u << 7,      // equal numbers there need not be equal here
  kTrustSpills = 1u << 8,      // what was spilled survives being overwritten
  kTrustCallbacks = 1u << 9,   // a callback runs once
  kTrustTailCalls = 1u << 10,  // a function that makes a tail call is always come back to
};

struct Options {
  const HelperSet* helpers = nullptr;  // as in ValidateOptions
  uint32_t prog_type = 0;              // BPF_PROG_TYPE_*: chooses the context
  const Context* context = nullptr;    // instead of the one that prog_type chooses
  Contracts contracts;                 // of helpers
  Maps maps;
  DebugInfo debug;
  uint32_t insn_budget = kInsnBudget;
  bool is_exact = false;     // leave a path only where every number is covered, not only those used
  uint32_t weakness = 0;     // bits of Weakness
  Claims* claims = nullptr;  // what held before each instruction; complete only with is_exact
};

struct Outcome {
  int errnum = 0;                // 0: accepted; EACCES, EINVAL, E2BIG, ENOMEM
  uint32_t insn_index = 0;       // 8-byte slot
  std::string reason;            // one sentence, lower case, no full stop
  std::string where;             // "file.c:12 `source`", empty without line information
  std::string path;              // lines: how control got there, and what the registers held
  uint32_t walked = 0;           // instructions, over all paths
  uint32_t states = 0;           // kept at the end
  std::vector<uint8_t> reached;  // per slot: some path leads there; the others are never run
  [[nodiscard]] bool ok() const { return errnum == 0; }
};

/// Validates (vm.h) and verifies. Map references carry map ids.
[[nodiscard]] Outcome verify(std::span<const uint64_t> slots, const Options& options);

}  // namespace bpftime::verify
