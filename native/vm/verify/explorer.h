// SPDX-License-Identifier: MIT
// Inside of the verifier; verify() in verify.h is its face. One Explorer proves one root: the main
// program, or a global function by itself. Functions that return bool say false when they have
// refused; outcome_ then has the sentence.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "../flow.h"
#include "contracts.h"
#include "source.h"
#include "state.h"
#include "verify.h"

namespace bpftime::verify {

inline constexpr uint64_t kMemoryBytesMax = 1u << 29;  // that a helper is given at once

/// What all roots of one program share.
struct Shared {
  const Flow& flow;
  const Options& options;
  const Context& context;
  const Source& source;
  std::vector<uint16_t> live_before;  // registers that may be read from that slot on
  uint32_t walked = 0;
  uint64_t copied_bytes = 0;
  std::vector<uint8_t> reached{};       // per slot
  std::vector<uint32_t> globals_due{};  // subprograms to be proved as roots of their own
  std::vector<uint8_t> globals_seen{};  // per subprogram
  // Per slot: checkpoints of the root that is walked, newest last.
  std::vector<std::vector<uint32_t>> kept_at{};
};

class Explorer {
 public:
  explicit Explorer(Shared* shared);
  ~Explorer();
  Explorer(const Explorer&) = delete;
  Explorer& operator=(const Explorer&) = delete;
  /// Walks everything that can follow from `start`.
  Outcome explore(State start);

 private:
  using Insn = isa::Insn;
  enum class Step : uint8_t { kGo, kEnd, kRefused };

  /// How a piece of memory is used.
  struct Use {
    uint8_t regno = 0;  // the register that points there
    int64_t off = 0;    // added to where it points
    uint32_t bytes = 0;
    bool reads = false;
    bool writes = false;
    bool fills = false;         // everything is overwritten: need not be set before
    const char* who = nullptr;  // the helper, null: the instruction itself
  };

  // explore.cc: paths
  Step walk();
  Step step(const Insn& insn);
  Step leave();
  bool return_from_frame();
  void end_path();
  bool push(State state);
  void note_claims();

  // alu.cc
  bool step_alu(const Insn& insn);
  bool step_move(const Insn& insn);
  void give_names(Reg* reg);
  bool step_lddw(const Insn& insn, const Insn& second);
  bool add_to_pointer(const Insn& insn, const Reg& pointer, const Reg& number);
  bool pointer_arithmetic(const Insn& insn, const Reg& a, const Reg& b);

  // branch.cc
  Step step_branch(const Insn& insn);
  Step branch_on_numbers(const Insn& insn);
  Step branch_on_null(const Insn& insn);
  void learn(State* state, uint8_t regno, const Scalar& num, const Origins& origins);
  void resolve_null(State* state, uint32_t id, bool is_null);
  void learn_packet(State* state, const Insn& insn, bool taken);
  bool fork(State taken);
  void note_branch(State* state, bool taken);

  // memory.cc
  bool step_load(const Insn& insn);
  bool step_store(const Insn& insn);
  bool step_atomic(const Insn& insn);
  bool load_into(uint8_t dst, uint8_t base, int32_t off, uint32_t bytes, bool sign);
  bool check_region(const Reg& reg, const Use& use);
  bool check_inside(const Reg& reg, const Use& use, int64_t region_bytes, const std::string& what);
  bool check_context(const Reg& reg, const Use& use, const ContextField** field);
  bool check_base(const Reg& reg, const Use& use);
  bool map_constant(const Reg& reg, int32_t off, uint32_t bytes, uint64_t* value) const;
  bool load_context(const Reg& base, const Use& use, Reg* out);

  // stack.cc
  struct Span {
    uint32_t frame = 0;
    int64_t lo = 0;  // first byte that may be touched, below r10 (negative)
    int64_t hi = 0;  // one past the last
    bool is_fixed = false;
  };
  bool stack_span(const Reg& reg, const Use& use, Span* span);
  bool load_stack(const Reg& base, const Use& use, Reg* out);
  bool store_stack(const Reg& base, const Use& use, Reg* value);
  bool use_stack(const Reg& base, const Use& use);
  void store_fixed(const Span& span, Reg* value);
  void mark_read(uint32_t frame, uint32_t slot);
  void unspill(Slot& slot);

  // call.cc
  Step step_call(uint32_t slot);
  Step call_helper(uint32_t id);
  Step tail_call(const Contract& contract);  // tail_calls.cc
  Step call_function(uint32_t start);
  bool call_global(uint32_t subprog, const std::vector<Parameter>& parameters);
  bool check_arguments(const Contract& contract);
  bool check_argument(const Contract& contract, uint8_t regno);
  bool check_memory_argument(const Contract& contract, uint8_t regno, bool writes, bool or_null);
  [[nodiscard]] Domain<uint64_t> size_passed(const Contract& contract, uint8_t regno) const;
  bool check_size_argument(const Contract& contract, uint8_t regno);
  bool check_map_argument(const Contract& contract, uint8_t regno);
  bool check_text_argument(const Contract& contract, uint8_t regno);
  bool check_sized_by_map(const Contract& contract, uint8_t regno);
  bool check_number_out(const Contract& contract, uint8_t regno);
  void forget_record(uint32_t ref);
  bool give_result(const Contract& contract);
  static Reg value_of(const MapShape& shape, uint32_t map);
  bool finds_for_sure(const Contract& contract);
  Step call_back(const Contract& contract);
  bool enter_callback(const Contract& contract);

  // prune.cc
  bool arrive(bool* is_covered);
  bool covers(const Checkpoint& old, Mode mode);
  [[nodiscard]] bool is_newer_round(uint32_t ancestor) const;
  bool converge(bool* is_covered);
  void take_checkpoint(bool is_loop);
  void inherit(const Checkpoint& old);
  void mark_exact(const Origins& origins);
  void mark_everything();
  void widen(const State& before);

  // report.cc
  bool refuse(int errnum, std::string reason);
  [[nodiscard]] std::string path_text() const;
  [[nodiscard]] std::string name_of(const Reg& reg) const;
  [[nodiscard]] std::string memory_name(const Reg& reg) const;
  [[nodiscard]] std::string registers_text() const;
  bool need_set(uint8_t regno);
  [[nodiscard]] std::string who_reads(const Use& use) const;

  [[nodiscard]] MapShape map_shape(uint32_t id) const;
  [[nodiscard]] bool is_live(uint32_t slot, uint32_t reg) const {
    return (shared_->live_before[slot] >> reg & 1) != 0;
  }
  [[nodiscard]] bool is_weak(Weakness weakness) const {
    return (options_.weakness & weakness) != 0;
  }
  uint32_t next_id() { return ++last_id_; }

  struct Trail {
    uint32_t parent;
    uint32_t slot;
    bool taken;
  };

  Shared* shared_;
  uint32_t next_ = 0;  // slot after the current instruction
  const Flow& flow_;
  const Options& options_;
  State now_;
  std::vector<State> pending_;
  uint64_t pending_bytes_ = 0;
  uint64_t kept_bytes_ = 0;
  std::vector<std::unique_ptr<Checkpoint>> checkpoints_;
  std::vector<uint32_t> kept_slots_;  // with checkpoints: what the next root must not find
  std::vector<Trail> trail_;
  uint32_t last_id_ = 8;  // the first are those of a global function's arguments
  uint64_t compared_ = 0;
  Outcome outcome_;
};

/// "a hash", "a ring buffer", ...
[[nodiscard]] const char* map_type_name(uint32_t type);

/// printf into a string.
[[nodiscard]] std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace bpftime::verify
