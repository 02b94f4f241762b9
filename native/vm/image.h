// SPDX-License-Identifier: MIT
// ProgramImage: machine code of one verified program, and what a process must supply to run it.
//
// Layout in any process: `text` at some page-aligned base, GOT at base + got_off() (the first page
// after the text). Text is position independent and never written after compilation: it reaches
// everything else by rip-relative loads from the GOT, so one physical copy serves all processes.
// Each GOT slot is 8 bytes. Calling convention: u64 fn(void* ctx), System V; general registers
// only.
#pragma once

#include <cstdint>
#include <vector>

namespace bpftime {

enum class GotKind : uint8_t {
  kHelper,    // index = BPF_FUNC_* id: address of the helper in this process
  kMap,       // index = map id: address of this process' struct vm_map
  kMapValue,  // index = map id: address of the first value of that (array) map, plus offset
  kBudget,    // bpftime_budget_refill() (budget.h)
};

struct GotSlot {
  GotKind kind;
  uint32_t index;
  uint64_t offset;
};

struct ProgramImage {
  std::vector<uint8_t> text;
  std::vector<GotSlot> got;
  uint32_t entry_off = 0;      // of the main program inside text
  uint32_t tail_off = 0;       // where a tail call enters it
  bool tail_calls = false;     // it goes on with other programs: what they use, it uses
  bool tail_nests = false;     // it does so from within a function, so that stack is left behind
  uint32_t insn_count = 0;     // bytecode instructions (8-byte slots)
  uint32_t ctx_read_mask = 0;  // bit i: the program (or a helper it calls) may read pt_regs word i
  bool escapes_ctx = false;    // ctx is passed to a helper or subprogram: assume all is read
  uint32_t cpu_features = 0;   // kCpu* bits (vm.h) that the code relies on

  [[nodiscard]] uint64_t got_off() const { return (text.size() + 4095) & ~uint64_t{4095}; }
};

}  // namespace bpftime
