// SPDX-License-Identifier: MIT
#include "syscall_sites.h"

#include <Zydis/Zydis.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <span>

#include "site_plan.h"

namespace bpftime::rewrite {

namespace {

constexpr size_t kInsnsMax = 1 << 16;
constexpr size_t kInsnBytesMax = 15;
constexpr int kRax = 0, kRcx = 1, kRdx = 2, kR11 = 11;

// What is known of one register: nothing has come here yet, one number, or anything.
struct Value {
  enum Kind : uint8_t { kNone, kNumber, kAny } kind = kNone;
  int64_t number = 0;
  bool operator==(const Value&) const = default;
};
constexpr Value kAnything{Value::kAny, 0};

using State = std::array<Value, 16>;

State anything() {
  State state;
  state.fill(kAnything);
  return state;
}

// True when `into` changed.
bool merge(const State& from, State* into) {
  bool changed = false;
  for (size_t i = 0; i < from.size(); ++i) {
    Value& value = (*into)[i];
    if (from[i].kind == Value::kNone || from[i] == value || value.kind == Value::kAny) continue;
    value = value.kind == Value::kNone ? from[i] : kAnything;
    changed = true;
  }
  return changed;
}

struct Decoded {
  ZydisDecodedInstruction insn;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};

bool decode_one(std::span<const uint8_t> bytes, Decoded* out) {
  static const ZydisDecoder decoder = [] {
    ZydisDecoder d;
    ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    return d;
  }();
  return ZYAN_SUCCESS(
      ZydisDecoderDecodeFull(&decoder, bytes.data(), bytes.size(), &out->insn, out->operands));
}

// The general register that an operand is, or a part of; -1: none.
int register_of(const ZydisDecodedOperand& op) {
  if (op.type != ZYDIS_OPERAND_TYPE_REGISTER) return -1;
  const ZydisRegister wide =
      ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, op.reg.value);
  if (ZydisRegisterGetClass(wide) != ZYDIS_REGCLASS_GPR64) return -1;
  return ZydisRegisterGetId(wide) & 15;
}

bool writes(const Decoded& d, int reg) {
  for (uint8_t i = 0; i < d.insn.operand_count; ++i) {
    const ZydisDecodedOperand& op = d.operands[i];
    if ((op.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0 && register_of(op) == reg) return true;
  }
  return false;
}

bool is_call(const Decoded& d) { return d.insn.meta.category == ZYDIS_CATEGORY_CALL; }

// The value that a whole register gets from this instruction, if that can be told.
std::optional<Value> written_value(const Decoded& d, const State& before) {
  const ZydisDecodedOperand& to = d.operands[0];
  const ZydisDecodedOperand& from = d.operands[1];
  const bool is_whole = d.insn.operand_count_visible == 2 && register_of(to) >= 0 && to.size >= 32;
  if (!is_whole) return std::nullopt;
  const bool same = register_of(from) == register_of(to) && from.size == to.size;
  if ((d.insn.mnemonic == ZYDIS_MNEMONIC_XOR || d.insn.mnemonic == ZYDIS_MNEMONIC_SUB) && same) {
    return Value{Value::kNumber, 0};
  }
  if (d.insn.mnemonic != ZYDIS_MNEMONIC_MOV) return std::nullopt;
  if (from.type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
    const int64_t number = to.size == 32 ? static_cast<uint32_t>(from.imm.value.u)
                                         : static_cast<int64_t>(from.imm.value.u);
    return Value{Value::kNumber, number};
  }
  if (register_of(from) < 0 || from.size != to.size) return std::nullopt;
  Value value = before[static_cast<size_t>(register_of(from))];
  if (to.size == 32 && value.kind == Value::kNumber) {
    value.number = static_cast<uint32_t>(value.number);
  }
  return value;
}

State after(const Decoded& d, const State& before) {
  State state = before;
  if (is_call(d)) {
    // Whoever relies on another register behind a call knows that it was left alone.
    for (const int reg : {kRax, kRdx}) state[static_cast<size_t>(reg)] = kAnything;
    return state;
  }
  if (d.insn.mnemonic == ZYDIS_MNEMONIC_SYSCALL) {
    for (const int reg : {kRax, kRcx, kR11}) state[static_cast<size_t>(reg)] = kAnything;
    return state;
  }
  for (int reg = 0; reg < 16; ++reg) {
    if (writes(d, reg)) state[static_cast<size_t>(reg)] = kAnything;
  }
  const std::optional<Value> value = written_value(d, before);
  if (value) state[static_cast<size_t>(register_of(d.operands[0]))] = *value;
  return state;
}

// Follows the code of one function from its start, with all that it jumps to.
class Follower {
 public:
  Follower(const FunctionView& function, const MemoryReader& read)
      : function_(function), read_(read) {}

  void run() {
    come(function_.addr, anything());
    follow();
    for (const auto& [addr, state] : states_) reached_.insert(addr);
    // What only an unknown jump reaches, or a jump from another function's part.
    for (const Insn& insn : function_.insns) {
      if (insn.is_padding || states_.contains(function_.addr + insn.off)) continue;
      come(function_.addr + insn.off, anything());
      follow();
    }
  }

  // What rax holds in front of an instruction.
  [[nodiscard]] Value rax_at(uint64_t addr) const {
    const auto state = states_.find(addr);
    return state == states_.end() || states_.size() > kInsnsMax ? kAnything : state->second[kRax];
  }

  [[nodiscard]] bool is_reached(uint64_t addr) const { return reached_.contains(addr); }

  // Whether a part of the function that lies elsewhere jumps there.
  [[nodiscard]] bool is_entered(uint64_t addr) const { return entered_.contains(addr); }

  bool decode(uint64_t addr, Decoded* out) const {
    std::array<uint8_t, kInsnBytesMax> bytes{};
    if (is_within(addr)) {
      const auto off = static_cast<size_t>(addr - function_.addr);
      return decode_one(std::span(function_.bytes).subspan(off), out);
    }
    size_t size = bytes.size();
    while (size > 0 && !read_(addr, bytes.data(), size)) --size;
    return size > 0 && decode_one(std::span(bytes).first(size), out);
  }

 private:
  [[nodiscard]] bool is_within(uint64_t addr) const {
    return addr >= function_.addr && addr - function_.addr < function_.bytes.size();
  }

  void come(uint64_t addr, const State& state) {
    const auto [at, is_new] = states_.try_emplace(addr);
    if (merge(state, &at->second) || is_new) todo_.push_back(addr);
  }

  void follow() {
    while (!todo_.empty() && states_.size() <= kInsnsMax) {
      const uint64_t addr = todo_.back();
      todo_.pop_back();
      Decoded d;
      if (!decode(addr, &d)) continue;
      step(addr, d, after(d, states_.at(addr)));
    }
  }

  void step(uint64_t addr, const Decoded& d, const State& state) {
    const auto category = d.insn.meta.category;
    const bool is_jump = category == ZYDIS_CATEGORY_UNCOND_BR;
    const bool is_branch = is_jump || category == ZYDIS_CATEGORY_COND_BR;
    if (is_branch && d.operands[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
      const uint64_t target =
          addr + d.insn.length + static_cast<uint64_t>(d.operands[0].imm.value.s);
      if (!is_within(addr)) entered_.insert(target);
      come(target, state);
    } else if (is_jump) {
      for (const uint64_t target : function_.branch_targets) come(target, state);
    }
    const bool ends =
        is_jump || category == ZYDIS_CATEGORY_RET || d.insn.mnemonic == ZYDIS_MNEMONIC_UD2 ||
        d.insn.mnemonic == ZYDIS_MNEMONIC_HLT || d.insn.mnemonic == ZYDIS_MNEMONIC_INT3;
    const uint64_t next = addr + d.insn.length;
    // A call that does not return may be the last instruction.
    if (!ends && next != function_.addr + function_.size) come(next, state);
  }

  const FunctionView& function_;
  const MemoryReader& read_;
  std::map<uint64_t, State> states_;
  std::set<uint64_t> reached_, entered_;
  std::vector<uint64_t> todo_;
};

bool is_target(const FunctionView& function, const Insn& insn) {
  return std::binary_search(function.branch_targets.begin(), function.branch_targets.end(),
                            function.addr + insn.off);
}

// Where the window ends that a jump at an instruction takes.
uint32_t window_end(const FunctionView& function, size_t first) {
  const uint32_t start = function.insns[first].off;
  size_t i = first;
  while (function.insns[i].off + function.insns[i].len - start < kJumpBytes) ++i;
  return function.insns[i].off + function.insns[i].len;
}

// Backwards in the straight line to the first place where a jump fits in front of the call.
void choose_front(const FunctionView& function, size_t call, const Follower& follower,
                  SyscallSite* site) {
  uint32_t set_until = 0;  // the end of the last instruction that writes rax
  for (size_t i = call; i > 0; --i) {
    if (is_target(function, function.insns[i])) return;
    if (follower.is_entered(function.addr + function.insns[i].off)) return;
    const Insn& insn = function.insns[i - 1];
    Decoded d;
    if (insn.ends_flow || insn.is_branch || insn.is_call || insn.is_trap) return;
    if (!follower.decode(function.addr + insn.off, &d) ||
        d.insn.mnemonic == ZYDIS_MNEMONIC_SYSCALL) {
      return;
    }
    const bool sets = writes(d, kRax);
    if (sets && set_until == 0) set_until = insn.off + insn.len;
    if (function.insns[call].off - insn.off < kJumpBytes) continue;
    if (site->number == kUnknownCall) {
      if (set_until > window_end(function, i - 1)) return;
      site->front = function.addr + insn.off;
      site->is_set_in_window = set_until != 0;
      return;
    }
    // A constant's own `mov` is five bytes: one instruction, in whose middle nobody stands.
    const bool is_mov = sets && insn.len == kJumpBytes;
    if (site->front == 0 || is_mov) site->front = function.addr + insn.off;
    if (set_until != 0) return;
  }
}

}  // namespace

std::vector<SyscallSite> find_syscalls(const FunctionView& function, const MemoryReader& read) {
  Follower follower(function, read);
  follower.run();
  std::vector<SyscallSite> sites;
  for (size_t i = 0; i < function.insns.size(); ++i) {
    const uint32_t off = function.insns[i].off;
    if (off + 2 > function.bytes.size() || function.bytes[off] != 0x0f ||
        function.bytes[off + 1] != 0x05) {
      continue;
    }
    SyscallSite site;
    site.addr = function.addr + off;
    const Value rax = follower.rax_at(site.addr);
    if (rax.kind == Value::kNumber) site.number = rax.number;
    site.is_reached = follower.is_reached(site.addr);
    choose_front(function, i, follower, &site);
    sites.push_back(site);
  }
  return sites;
}

}  // namespace bpftime::rewrite
