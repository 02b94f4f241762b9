// SPDX-License-Identifier: MIT
#include "interp.h"

#include <linux/bpf.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "flow.h"
#include "tail_call.h"

namespace bpftime {
namespace {

using namespace isa;

// Operations of the predecoded form. ALU and jumps exist in four kinds: 64 or 32 bits wide, with an
// immediate (K) or a register (X).
// clang-format off
#define BPFTIME_ALU_LIST(V) \
  V(Add) V(Sub) V(Mul) V(Div) V(Sdiv) V(Or) V(And) V(Lsh) V(Rsh) V(Mod) V(Smod) V(Xor) V(Mov) \
  V(Arsh)
#define BPFTIME_JMP_LIST(V) \
  V(Jeq) V(Jgt) V(Jge) V(Jset) V(Jne) V(Jsgt) V(Jsge) V(Jlt) V(Jle) V(Jslt) V(Jsle)
#define BPFTIME_OTHER_LIST(V) \
  V(Neg64) V(Neg32) V(Movsx8) V(Movsx16) V(Movsx32) V(Movsx8w) V(Movsx16w) V(Zext16) V(Zext32) \
  V(Nop) V(Swap16) V(Swap32) V(Swap64) V(Goto) V(CallHelper) V(CallLocal) V(TailCall) V(Exit) \
  V(LdxB) V(LdxH) V(LdxW) V(LdxDw) V(LdsxB) V(LdsxH) V(LdsxW) V(StB) V(StH) V(StW) V(StDw) \
  V(StxB) V(StxH) V(StxW) V(StxDw) V(Atomic64) V(Atomic32) V(LoadAcq) V(StoreRel)
// clang-format on

enum Code : uint8_t {
#define V(name) kDo##name##64K, kDo##name##64X, kDo##name##32K, kDo##name##32X,
  BPFTIME_ALU_LIST(V) BPFTIME_JMP_LIST(V)
#undef V
#define V(name) kDo##name,
      BPFTIME_OTHER_LIST(V)
#undef V
};

uint8_t variant(const Insn& insn, bool is_wide) {
  return static_cast<uint8_t>((is_wide ? 0 : 2) + (insn.src_is_reg() ? 1 : 0));
}

uint8_t alu_code(const Insn& insn) {
  // By the high half of the opcode; the others have forms of their own.
  constexpr uint8_t kBases[] = {kDoAdd64K, kDoSub64K, kDoMul64K,  kDoDiv64K, kDoOr64K,
                                kDoAnd64K, kDoLsh64K, kDoRsh64K,  kDoNop,    kDoMod64K,
                                kDoXor64K, kDoMov64K, kDoArsh64K, kDoNop};
  const bool wide = insn.cls() == kAlu64;
  const bool is_signed = insn.off == 1;
  if (insn.op() == kNeg) return wide ? kDoNeg64 : kDoNeg32;
  if (insn.op() == kEnd) {
    if (insn.opcode == kOpLe) {
      return insn.imm == 16 ? kDoZext16 : insn.imm == 32 ? kDoZext32 : kDoNop;
    }
    return insn.imm == 16 ? kDoSwap16 : insn.imm == 32 ? kDoSwap32 : kDoSwap64;
  }
  if (insn.op() == kMov && insn.off == 8) return wide ? kDoMovsx8 : kDoMovsx8w;
  if (insn.op() == kMov && insn.off == 16) return wide ? kDoMovsx16 : kDoMovsx16w;
  if (insn.op() == kMov && insn.off == 32) return kDoMovsx32;
  uint8_t base = kBases[insn.op() >> 4];
  if (insn.op() == kDiv && is_signed) base = kDoSdiv64K;
  if (insn.op() == kMod && is_signed) base = kDoSmod64K;
  return static_cast<uint8_t>(base + variant(insn, wide));
}

uint8_t jump_code(const Insn& insn) {
  constexpr uint8_t kBases[] = {kDoGoto,   kDoJeq64K,  kDoJgt64K,  kDoJge64K, kDoJset64K,
                                kDoJne64K, kDoJsgt64K, kDoJsge64K, kDoExit,   kDoExit,
                                kDoJlt64K, kDoJle64K,  kDoJslt64K, kDoJsle64K};
  if (insn.is_exit()) return kDoExit;
  if (insn.is_goto()) return kDoGoto;
  return static_cast<uint8_t>(kBases[insn.op() >> 4] + variant(insn, insn.cls() == kJmp));
}

uint8_t memory_code(const Insn& insn) {
  const int size = insn.size() == kB ? 0 : insn.size() == kH ? 1 : insn.size() == kW ? 2 : 3;
  if (insn.is_atomic()) {
    if (insn.imm == kAtomicLoadAcq) return kDoLoadAcq;
    if (insn.imm == kAtomicStoreRel) return kDoStoreRel;
    return insn.size() == kDw ? kDoAtomic64 : kDoAtomic32;
  }
  const uint8_t base = insn.cls() == kLdx  ? (insn.mode() == kModeMemsx ? kDoLdsxB : kDoLdxB)
                       : insn.cls() == kSt ? kDoStB
                                           : kDoStxB;
  return static_cast<uint8_t>(base + size);
}

template <typename T>
T load(uint64_t addr) {
  T value;
  std::memcpy(&value, reinterpret_cast<const void*>(addr), sizeof value);
  return value;
}

template <typename T>
void store(uint64_t addr, T value) {
  std::memcpy(reinterpret_cast<void*>(addr), &value, sizeof value);
}

template <typename T>
T divide(T a, T b) {
  return b == 0 ? 0 : a / b;
}
template <typename T>
T modulo(T a, T b) {
  return b == 0 ? a : a % b;
}
// INT_MIN / -1 has no quotient in the type: RFC 9669 section 4.1 makes it INT_MIN, remainder 0.
template <typename T>
T divide_signed(T a, T b) {
  using U = std::make_unsigned_t<T>;
  if (b == 0) return 0;
  return b == -1 ? static_cast<T>(U{0} - static_cast<U>(a)) : a / b;
}
template <typename T>
T modulo_signed(T a, T b) {
  if (b == 0) return a;
  return b == -1 ? 0 : a % b;
}

/// Performs the atomic operation `op` on *addr; returns the former value.
template <typename T>
T atomic(int32_t op, uint64_t addr, T operand, T expected) {
  T* place = reinterpret_cast<T*>(addr);
  constexpr int kOrder = __ATOMIC_SEQ_CST;
  switch (op & ~kAtomicFetch) {
    case kAdd:
      return __atomic_fetch_add(place, operand, kOrder);
    case kOr:
      return __atomic_fetch_or(place, operand, kOrder);
    case kAnd:
      return __atomic_fetch_and(place, operand, kOrder);
    case kXor:
      return __atomic_fetch_xor(place, operand, kOrder);
    case kAtomicXchg & ~kAtomicFetch:
      return __atomic_exchange_n(place, operand, kOrder);
    default:
      __atomic_compare_exchange_n(place, &expected, operand, false, kOrder, kOrder);
      return expected;
  }
}

template <typename T>
void run_atomic(const Program::Op& op, uint64_t* regs) {
  const auto kind = static_cast<int32_t>(op.target);
  const uint64_t addr = regs[op.dst] + static_cast<int64_t>(op.off);
  const T old = atomic<T>(kind, addr, static_cast<T>(regs[op.src]), static_cast<T>(regs[0]));
  if (kind == kAtomicCmpxchg) {
    regs[0] = old;
  } else if ((kind & kAtomicFetch) != 0) {
    regs[op.src] = old;
  }
}

uint64_t load_acquire(uint64_t addr, uint64_t size) {
  switch (size) {
    case 1:
      return __atomic_load_n(reinterpret_cast<uint8_t*>(addr), __ATOMIC_ACQUIRE);
    case 2:
      return __atomic_load_n(reinterpret_cast<uint16_t*>(addr), __ATOMIC_ACQUIRE);
    case 4:
      return __atomic_load_n(reinterpret_cast<uint32_t*>(addr), __ATOMIC_ACQUIRE);
    default:
      return __atomic_load_n(reinterpret_cast<uint64_t*>(addr), __ATOMIC_ACQUIRE);
  }
}

void store_release(uint64_t addr, uint64_t value, uint64_t size) {
  switch (size) {
    case 1:
      return __atomic_store_n(reinterpret_cast<uint8_t*>(addr), value, __ATOMIC_RELEASE);
    case 2:
      return __atomic_store_n(reinterpret_cast<uint16_t*>(addr), value, __ATOMIC_RELEASE);
    case 4:
      return __atomic_store_n(reinterpret_cast<uint32_t*>(addr), value, __ATOMIC_RELEASE);
    default:
      return __atomic_store_n(reinterpret_cast<uint64_t*>(addr), value, __ATOMIC_RELEASE);
  }
}

/// The caller's part of a local call.
struct Frame {
  uint32_t return_op;
  uint64_t saved[4];  // r6-r9
};

using Op = Program::Op;

// Helpers take callbacks as plain function addresses. An interpreted callback gets one from a
// fixed set; it finds its program through the thread that runs it.
thread_local const Program* current_program = nullptr;
thread_local Checks* current_checks = nullptr;
thread_local uint32_t tail_calls_made = 0;  // of the run of current_program

/// What a tail call goes on with, counted; null: nothing, or not any more.
const Program* next_program(const uint64_t* regs) {
  const auto* programs = reinterpret_cast<const vm_map*>(regs[2]);
  const uint64_t found = tail_entry(programs, static_cast<uint32_t>(regs[3]));
  if (found == 0 || tail_calls_made >= kTailCallsMax) return nullptr;
  ++tail_calls_made;
  return current_program = reinterpret_cast<const Program*>(found);
}

/// Lets a checked run touch its own stack while it lasts. What a helper that calls back has on its
/// stack, the key of an element for one, lies between those of the two runs and may be touched,
/// too.
class StackOfRun {
 public:
  StackOfRun(Checks* checks, const void* stack, uint64_t bytes) : checks_(checks) {
    if (checks == nullptr) return;
    outer_ = checks->stack;
    const auto begin = reinterpret_cast<uint64_t>(stack);
    checks->stack = {begin, outer_.end != 0 ? outer_.end : begin + bytes};
  }
  ~StackOfRun() {
    if (checks_ != nullptr) checks_->stack = outer_;
  }
  StackOfRun(const StackOfRun&) = delete;
  StackOfRun& operator=(const StackOfRun&) = delete;

 private:
  Checks* checks_;
  Checks::Range outer_{};
};

// Of run() below.
#define REFUSE(reason) return checks->refuse(static_cast<uint32_t>(op - ops), reason)
#define DISPATCH()                                                                    \
  do {                                                                                \
    if constexpr (kChecked) {                                                         \
      if (checks->insns_left-- == 0 && !checks->refill()) REFUSE("ran for too long"); \
    }                                                                                 \
    goto* kLabels[op->code];                                                          \
  } while (0)
// The bytes at an address may be touched.
#define CHECK(address, bytes)                                                          \
  if constexpr (kChecked) {                                                            \
    if (!checks->allows(address, bytes)) REFUSE("touches memory that is not its own"); \
  }

/// `checks` is null where kChecked is false.
template <bool kChecked>
uint64_t run(const Program& program, uint32_t entry, uint64_t* regs, Checks* checks) {
  alignas(16) uint8_t stack[kCallFramesMax * kFrameBytes];
  const StackOfRun live(checks, stack, sizeof stack);
  Frame frames[kCallFramesMax];
  uint32_t depth = 0;
  // Deeper frames lie at lower addresses, as in compiled code.
  regs[kFrameReg] = reinterpret_cast<uint64_t>(stack) + sizeof stack;
  const Op* ops = program.ops().data();
  const Op* op = ops + entry;

  static const void* const kLabels[] = {
#define V(name) &&l##name##64K, &&l##name##64X, &&l##name##32K, &&l##name##32X,
      BPFTIME_ALU_LIST(V) BPFTIME_JMP_LIST(V)
#undef V
#define V(name) &&l##name,
          BPFTIME_OTHER_LIST(V)
#undef V
  };
#define NEXT()  \
  do {          \
    ++op;       \
    DISPATCH(); \
  } while (0)
#define DST regs[op->dst]
#define SRC regs[op->src]
#define ALU(name, U, S, width, expr)     \
  l##name##width##K : {                  \
    const U a = static_cast<U>(DST);     \
    const U b = static_cast<U>(op->imm); \
    (void)a;                             \
    DST = static_cast<U>(expr);          \
    NEXT();                              \
  }                                      \
  l##name##width##X : {                  \
    const U a = static_cast<U>(DST);     \
    const U b = static_cast<U>(SRC);     \
    (void)a;                             \
    DST = static_cast<U>(expr);          \
    NEXT();                              \
  }
#define ALU_BOTH(name, expr)                                                       \
  {                                                                                \
    using U = uint64_t;                                                            \
    using S = int64_t;                                                             \
    [[maybe_unused]] constexpr U kMask = 63;                                       \
    [[maybe_unused]] const auto as_signed = [](U v) { return static_cast<S>(v); }; \
    ALU(name, U, S, 64, expr)                                                      \
  }                                                                                \
  {                                                                                \
    using U = uint32_t;                                                            \
    using S = int32_t;                                                             \
    [[maybe_unused]] constexpr U kMask = 31;                                       \
    [[maybe_unused]] const auto as_signed = [](U v) { return static_cast<S>(v); }; \
    ALU(name, U, S, 32, expr)                                                      \
  }
#define JMP(name, U, width, right, cond) \
  l##name##width : {                     \
    const U a = static_cast<U>(DST);     \
    const U b = static_cast<U>(right);   \
    if (cond) {                          \
      op = ops + op->target;             \
      DISPATCH();                        \
    }                                    \
    NEXT();                              \
  }
#define JMP_ALL(name, U64, U32, cond) \
  JMP(name, U64, 64K, op->imm, cond)  \
  JMP(name, U64, 64X, SRC, cond)      \
  JMP(name, U32, 32K, op->imm, cond)  \
  JMP(name, U32, 32X, SRC, cond)
#define STMT(name, statement) \
  l##name : statement;        \
  NEXT();
#define MEM(reg) (regs[op->reg] + static_cast<int64_t>(op->off))

  DISPATCH();

  ALU_BOTH(Add, a + b)
  ALU_BOTH(Sub, a - b)
  ALU_BOTH(Mul, a * b)
  ALU_BOTH(Div, divide(a, b))
  ALU_BOTH(Sdiv, divide_signed(as_signed(a), as_signed(b)))
  ALU_BOTH(Or, a | b)
  ALU_BOTH(And, a & b)
  ALU_BOTH(Lsh, a << (b & kMask))
  ALU_BOTH(Rsh, a >> (b & kMask))
  ALU_BOTH(Mod, modulo(a, b))
  ALU_BOTH(Smod, modulo_signed(as_signed(a), as_signed(b)))
  ALU_BOTH(Xor, a ^ b)
  ALU_BOTH(Mov, b)
  ALU_BOTH(Arsh, as_signed(a) >> (b & kMask))

  JMP_ALL(Jeq, uint64_t, uint32_t, a == b)
  JMP_ALL(Jgt, uint64_t, uint32_t, a > b)
  JMP_ALL(Jge, uint64_t, uint32_t, a >= b)
  JMP_ALL(Jset, uint64_t, uint32_t, (a & b) != 0)
  JMP_ALL(Jne, uint64_t, uint32_t, a != b)
  JMP_ALL(Jsgt, int64_t, int32_t, a > b)
  JMP_ALL(Jsge, int64_t, int32_t, a >= b)
  JMP_ALL(Jlt, uint64_t, uint32_t, a < b)
  JMP_ALL(Jle, uint64_t, uint32_t, a <= b)
  JMP_ALL(Jslt, int64_t, int32_t, a < b)
  JMP_ALL(Jsle, int64_t, int32_t, a <= b)

  STMT(Neg64, DST = uint64_t{0} - DST)
  STMT(Neg32, DST = static_cast<uint32_t>(0 - static_cast<uint32_t>(DST)))
  STMT(Movsx8, DST = static_cast<uint64_t>(static_cast<int8_t>(SRC)))
  STMT(Movsx16, DST = static_cast<uint64_t>(static_cast<int16_t>(SRC)))
  STMT(Movsx32, DST = static_cast<uint64_t>(static_cast<int32_t>(SRC)))
  STMT(Movsx8w, DST = static_cast<uint32_t>(static_cast<int8_t>(SRC)))
  STMT(Movsx16w, DST = static_cast<uint32_t>(static_cast<int16_t>(SRC)))
  STMT(Zext16, DST = static_cast<uint16_t>(DST))
  STMT(Zext32, DST = static_cast<uint32_t>(DST))
  STMT(Nop, (void)0)
  STMT(Swap16, DST = __builtin_bswap16(static_cast<uint16_t>(DST)))
  STMT(Swap32, DST = __builtin_bswap32(static_cast<uint32_t>(DST)))
  STMT(Swap64, DST = __builtin_bswap64(DST))

  STMT(LdxB, CHECK(MEM(src), 1) DST = load<uint8_t>(MEM(src)))
  STMT(LdxH, CHECK(MEM(src), 2) DST = load<uint16_t>(MEM(src)))
  STMT(LdxW, CHECK(MEM(src), 4) DST = load<uint32_t>(MEM(src)))
  STMT(LdxDw, CHECK(MEM(src), 8) DST = load<uint64_t>(MEM(src)))
  STMT(LdsxB, CHECK(MEM(src), 1) DST = static_cast<uint64_t>(load<int8_t>(MEM(src))))
  STMT(LdsxH, CHECK(MEM(src), 2) DST = static_cast<uint64_t>(load<int16_t>(MEM(src))))
  STMT(LdsxW, CHECK(MEM(src), 4) DST = static_cast<uint64_t>(load<int32_t>(MEM(src))))
  STMT(StB, CHECK(MEM(dst), 1) store(MEM(dst), static_cast<uint8_t>(op->imm)))
  STMT(StH, CHECK(MEM(dst), 2) store(MEM(dst), static_cast<uint16_t>(op->imm)))
  STMT(StW, CHECK(MEM(dst), 4) store(MEM(dst), static_cast<uint32_t>(op->imm)))
  STMT(StDw, CHECK(MEM(dst), 8) store(MEM(dst), op->imm))
  STMT(StxB, CHECK(MEM(dst), 1) store(MEM(dst), static_cast<uint8_t>(SRC)))
  STMT(StxH, CHECK(MEM(dst), 2) store(MEM(dst), static_cast<uint16_t>(SRC)))
  STMT(StxW, CHECK(MEM(dst), 4) store(MEM(dst), static_cast<uint32_t>(SRC)))
  STMT(StxDw, CHECK(MEM(dst), 8) store(MEM(dst), SRC))
  STMT(Atomic64, CHECK(MEM(dst), 8) run_atomic<uint64_t>(*op, regs))
  STMT(Atomic32, CHECK(MEM(dst), 4) run_atomic<uint32_t>(*op, regs))
  STMT(LoadAcq, CHECK(MEM(src), op->imm) DST = load_acquire(MEM(src), op->imm))
  STMT(StoreRel, CHECK(MEM(dst), op->imm) store_release(MEM(dst), SRC, op->imm))

lGoto:
  op = ops + op->target;
  DISPATCH();
lCallHelper:
  regs[0] = reinterpret_cast<HelperFn>(op->imm)(regs[1], regs[2], regs[3], regs[4], regs[5]);
  if constexpr (kChecked) {
    if (checks->reason != nullptr) return 0;  // in a function that the helper called
  }
  NEXT();
lCallLocal : {
  Frame& frame = frames[depth++];
  frame.return_op = static_cast<uint32_t>(op - ops) + 1;
  for (int i = 0; i < 4; ++i) frame.saved[i] = regs[6 + i];
  regs[kFrameReg] -= kFrameBytes;
  op = ops + op->target;
  DISPATCH();
}
lTailCall : {
  const Program* const outer = current_program;
  const Program* const next = next_program(regs);
  if (next == nullptr) {
    regs[0] = static_cast<uint64_t>(int64_t{-ENOENT});
    NEXT();
  }
  if (depth == 0) {
    regs[kFrameReg] = reinterpret_cast<uint64_t>(stack) + sizeof stack;
    op = ops = next->ops().data();
    DISPATCH();
  }
  // In place of the function, whose caller goes on afterwards.
  uint64_t fresh[kFrameReg + 1] = {0, regs[1]};
  regs[0] = run<kChecked>(*next, 0, fresh, checks);
  current_program = outer;
  if constexpr (kChecked) {
    if (checks->reason != nullptr) return 0;
  }
}
lExit:
  if (depth == 0) return regs[0];
  {
    const Frame& frame = frames[--depth];
    for (int i = 0; i < 4; ++i) regs[6 + i] = frame.saved[i];
    regs[kFrameReg] += kFrameBytes;
    op = ops + frame.return_op;
  }
  DISPATCH();

#undef MEM
#undef STMT
#undef JMP_ALL
#undef JMP
#undef ALU_BOTH
#undef ALU
#undef SRC
#undef DST
#undef NEXT
#undef CHECK
#undef DISPATCH
#undef REFUSE
}

uint64_t run_from(const Program& program, uint32_t entry, uint64_t* regs, Checks* checks) {
  return checks == nullptr ? run<false>(program, entry, regs, nullptr)
                           : run<true>(program, entry, regs, checks);
}

template <uint32_t kIndex>
uint64_t callback_thunk(uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5) {
  uint64_t regs[kFrameReg + 1] = {0, r1, r2, r3, r4, r5};
  const Program* program = current_program;
  if (current_checks != nullptr && current_checks->reason != nullptr) return 1;  // it is over
  return run_from(*program, program->callback_entry(kIndex), regs, current_checks);
}

template <uint32_t... kIndices>
constexpr auto make_thunks(std::integer_sequence<uint32_t, kIndices...>) {
  return std::array<HelperFn, sizeof...(kIndices)>{&callback_thunk<kIndices>...};
}
constexpr auto kThunks =
    make_thunks(std::make_integer_sequence<uint32_t, Program::kCallbacksMax>());

/// Turns slots into ops. Op indices equal slot indices: the second half of an lddw is a nop that is
/// jumped over.
class Linker {
 public:
  Linker(const Flow& flow, const Resolver& resolver, bool tail_calls)
      : flow_(flow), resolver_(resolver), tail_calls_(tail_calls) {}

  Result<void> link(std::pmr::vector<Op>* ops, std::pmr::vector<uint32_t>* callbacks) {
    callbacks_ = callbacks;
    ops->assign(flow_.insns.size(), Op{kDoNop, 0, 0, 0, 0, 0});
    for (uint32_t i = 0; i < flow_.insns.size(); i = flow_.next(i)) {
      if (flow_.is_reachable[i] == 0) continue;
      const Insn& insn = flow_.insns[i];
      Op& op = (*ops)[i];
      op = Op{kDoNop,   insn.dst, insn.src,
              insn.off, 0,        static_cast<uint64_t>(static_cast<int64_t>(insn.imm))};
      const Result<void> done = link_one(i, insn, &op);
      if (!done.ok()) return done;
    }
    return {};
  }

 private:
  Result<void> link_one(uint32_t slot, const Insn& insn, Op* op) {
    if (insn.is_alu()) {
      op->code = alu_code(insn);
    } else if (insn.is_call()) {
      return link_call(slot, op);
    } else if (insn.is_jmp()) {
      op->code = jump_code(insn);
      if (!insn.is_exit()) op->target = flow_.jump_target(slot);
    } else if (insn.is_lddw()) {
      return link_lddw(slot, insn, op);
    } else {
      op->code = memory_code(insn);
      op->target = static_cast<uint32_t>(insn.imm);
      if (op->code == kDoLoadAcq || op->code == kDoStoreRel) op->imm = insn.size_bytes();
    }
    return {};
  }

  Result<void> link_call(uint32_t slot, Op* op) {
    const CallTarget target = flow_.call_target(slot);
    op->code = target.is_helper ? kDoCallHelper : kDoCallLocal;
    op->target = target.value;
    if (!target.is_helper) return {};
    if (tail_calls_ && target.value == BPF_FUNC_tail_call) {
      op->code = kDoTailCall;
      return {};
    }
    op->imm = resolver_(GotSlot{GotKind::kHelper, target.value, 0});
    return op->imm != 0 ? Result<void>{} : fail(ENOENT, "no helper has this id");
  }

  Result<void> link_lddw(uint32_t slot, const Insn& insn, Op* op) {
    const Insn& second = flow_.insns[slot + 1];
    const auto index = static_cast<uint32_t>(insn.imm);
    op->code = kDoMov64K;
    switch (insn.src) {
      case kPseudoFunc:
        return link_callback(slot + 1 + index, op);
      case kPseudoMapFd:
      case kPseudoMapIdx:
        op->imm = resolver_(GotSlot{GotKind::kMap, index, 0});
        break;
      case kPseudoMapValue:
      case kPseudoMapIdxValue:
        op->imm = resolver_(GotSlot{GotKind::kMapValue, index, static_cast<uint32_t>(second.imm)});
        break;
      default:
        op->imm = lddw_imm(insn, second);
        return {};
    }
    return op->imm != 0 ? Result<void>{} : fail(ENOENT, "no map has this id");
  }

  Result<void> link_callback(uint32_t entry, Op* op) {
    uint32_t index = 0;
    while (index < callbacks_->size() && (*callbacks_)[index] != entry) ++index;
    if (index == Program::kCallbacksMax) return fail(E2BIG, "more than 16 callbacks");
    if (index == callbacks_->size()) callbacks_->push_back(entry);
    op->imm = reinterpret_cast<uint64_t>(kThunks[index]);
    return {};
  }

  const Flow& flow_;
  const Resolver& resolver_;
  bool tail_calls_;
  std::pmr::vector<uint32_t>* callbacks_ = nullptr;
};

}  // namespace

Result<Program> Program::link(std::span<const uint64_t> slots, const Resolver& resolver,
                              std::pmr::memory_resource* memory, bool tail_calls) {
  Verdict verdict = validate_insns(slots);
  if (!verdict.ok) return fail(EINVAL, verdict.reason);
  Flow flow;
  verdict = build_flow(slots, {}, &flow);
  if (!verdict.ok) return fail(EINVAL, verdict.reason);
  Program program(memory != nullptr ? memory : std::pmr::get_default_resource());
  const Result<void> linked =
      Linker(flow, resolver, tail_calls).link(&program.ops_, &program.callbacks_);
  if (!linked.ok()) return linked.error();
  return program;
}

uint64_t interp_run(const Program& program, void* ctx, uint64_t ctx_bytes, Checks* checks) {
  uint64_t regs[kFrameReg + 1] = {};
  regs[1] = reinterpret_cast<uint64_t>(ctx);
  regs[2] = ctx_bytes;
  const Program* outer = current_program;
  Checks* outer_checks = current_checks;
  const uint32_t outer_tail_calls = std::exchange(tail_calls_made, 0);
  current_program = &program;
  current_checks = checks;
  const uint64_t result = run_from(program, 0, regs, checks);
  current_program = outer;
  current_checks = outer_checks;
  tail_calls_made = outer_tail_calls;
  return result;
}

}  // namespace bpftime
