// SPDX-License-Identifier: MIT
#include "scalar.h"

namespace bpftime::verify {
namespace {

using namespace isa;

constexpr uint64_t kLowMask = 0xffffffffu;
constexpr uint64_t kHighMask = ~kLowMask;

/// Bits of the lower half are the same bits in both.
bool share_bits(Scalar* s) {
  const auto value = static_cast<uint32_t>(s->wide.value);
  const auto unknown = static_cast<uint32_t>(s->wide.unknown);
  if (((value ^ s->low.value) & ~(unknown | s->low.unknown)) != 0) return false;
  const uint32_t both = unknown & s->low.unknown;
  const uint32_t known = (value | s->low.value) & ~both;
  s->low.unknown = both;
  s->low.value = known;
  s->wide.unknown = (s->wide.unknown & kHighMask) | both;
  s->wide.value = (s->wide.value & kHighMask) | known;
  return true;
}

/// Smallest number that is at least `at` and has a lower half in [lo, hi]; false: none.
bool round_up(uint64_t* at, uint32_t lo, uint32_t hi) {
  const auto low = static_cast<uint32_t>(*at);
  const uint64_t high = *at & kHighMask;
  if (low < lo) *at = high | lo;
  if (low <= hi) return true;
  if (high == kHighMask) return false;
  *at = (high + kLowMask + 1) | lo;
  return true;
}

bool round_down(uint64_t* at, uint32_t lo, uint32_t hi) {
  const auto low = static_cast<uint32_t>(*at);
  const uint64_t high = *at & kHighMask;
  if (low > hi) *at = high | hi;
  if (low >= lo) return true;
  if (high == 0) return false;
  *at = (high - kLowMask - 1) | hi;
  return true;
}

bool share_bounds(Scalar* s) {
  Domain<uint64_t>& wide = s->wide;
  Domain<uint32_t>& low = s->low;
  if ((wide.umin & kHighMask) == (wide.umax & kHighMask)) {
    low.umin = std::max(low.umin, static_cast<uint32_t>(wide.umin));
    low.umax = std::min(low.umax, static_cast<uint32_t>(wide.umax));
  }
  const auto smin = static_cast<uint64_t>(wide.smin);
  const auto smax = static_cast<uint64_t>(wide.smax);
  if ((smin & kHighMask) == (smax & kHighMask)) {
    low.umin = std::max(low.umin, static_cast<uint32_t>(smin));
    low.umax = std::min(low.umax, static_cast<uint32_t>(smax));
  }
  if (wide.smin >= INT32_MIN && wide.smax <= INT32_MAX) {
    low.smin = std::max(low.smin, static_cast<int32_t>(wide.smin));
    low.smax = std::min(low.smax, static_cast<int32_t>(wide.smax));
    wide.smin = std::max(wide.smin, int64_t{low.smin});
    wide.smax = std::min(wide.smax, int64_t{low.smax});
  }
  if (low.umin > low.umax || low.smin > low.smax || wide.smin > wide.smax) return false;
  return round_up(&wide.umin, low.umin, low.umax) && round_down(&wide.umax, low.umin, low.umax);
}

template <typename U>
Domain<U> alu_in(const Insn& insn, const Domain<U>& a, const Domain<U>& b) {
  const bool is_signed = insn.off == 1;
  switch (insn.op()) {
    case kAdd:
      return add(a, b);
    case kSub:
      return sub(a, b);
    case kMul:
      return mul(a, b);
    case kDiv:
      return is_signed ? divide_signed(a, b) : divide(a, b);
    case kMod:
      return is_signed ? modulo_signed(a, b) : modulo(a, b);
    case kOr:
      return bit_or(a, b);
    case kAnd:
      return bit_and(a, b);
    case kXor:
      return bit_xor(a, b);
    case kLsh:
      return shift_left(a, b);
    case kRsh:
      return shift_right(a, b);
    case kArsh:
      return shift_signed(a, b);
    case kNeg:
      return sub(Domain<U>::constant(0), a);
    default:
      return Domain<U>::any();
  }
}

/// The lower half of the result depends on the lower halves of the operands alone.
bool is_modular(const Insn& insn) {
  switch (insn.op()) {
    case kAdd:
    case kSub:
    case kMul:
    case kOr:
    case kAnd:
    case kXor:
    case kNeg:
      return true;
    default:
      return false;
  }
}

}  // namespace

bool Scalar::normalise() {
  for (int i = 0; i < 2; ++i) {
    if (!wide.normalise() || !low.normalise()) return false;
    if (!share_bits(this) || !share_bounds(this)) return false;
  }
  return wide.normalise() && low.normalise();
}

Scalar Scalar::sized(uint32_t bytes) {
  if (bytes >= 8) return any();
  return of(Domain<uint64_t>::unsigned_range(0, (uint64_t{1} << (bytes * 8)) - 1));
}

Scalar Scalar::of(const Domain<uint64_t>& wide) {
  Scalar s{wide, {}};
  s.normalise();
  return s;
}

Scalar Scalar::zero_extended(const Domain<uint32_t>& low) {
  Scalar s{Domain<uint64_t>::unsigned_range(0, kLowMask), low};
  s.normalise();
  return s;
}

Scalar alu(const Insn& insn, const Scalar& a, const Scalar& b) {
  if (insn.cls() == kAlu) return Scalar::zero_extended(alu_in<uint32_t>(insn, a.low, b.low));
  Scalar result{alu_in<uint64_t>(insn, a.wide, b.wide), {}};
  if (is_modular(insn)) result.low = alu_in<uint32_t>(insn, a.low, b.low);
  result.normalise();
  return result;
}

Scalar move_signed(const Scalar& a, int from_bits, bool wide) {
  const Domain<uint32_t> half = from_bits < 32 ? sign_extended(a.low, from_bits) : a.low;
  if (!wide) return Scalar::zero_extended(half);
  Scalar s;
  s.low = half;
  s.wide = sign_extended(a.wide, from_bits);
  s.wide.smin = std::max(s.wide.smin, int64_t{half.smin});
  s.wide.smax = std::min(s.wide.smax, int64_t{half.smax});
  s.normalise();
  return s;
}

Scalar swap(const Insn& insn, const Scalar& a) {
  const bool swaps = insn.opcode != kOpLe;
  const Domain<uint64_t>& d = a.wide;
  if (insn.imm == 64) {
    if (!swaps) return a;
    return Scalar::of(
        Domain<uint64_t>::bits(__builtin_bswap64(d.value), __builtin_bswap64(d.unknown)));
  }
  const auto cut = [&](uint64_t v) -> uint64_t {
    if (insn.imm == 32) {
      const auto half = static_cast<uint32_t>(v);
      return swaps ? __builtin_bswap32(half) : half;
    }
    const auto half = static_cast<uint16_t>(v);
    return swaps ? __builtin_bswap16(half) : half;
  };
  return Scalar::of(Domain<uint64_t>::bits(cut(d.value), cut(d.unknown)));
}

Compare compare_of(uint8_t jmp_op) {
  switch (jmp_op) {
    case kJeq:
      return Compare::kEq;
    case kJne:
      return Compare::kNe;
    case kJgt:
      return Compare::kGt;
    case kJge:
      return Compare::kGe;
    case kJlt:
      return Compare::kLt;
    case kJle:
      return Compare::kLe;
    case kJset:
      return Compare::kSet;
    case kJsgt:
      return Compare::kSgt;
    case kJsge:
      return Compare::kSge;
    case kJslt:
      return Compare::kSlt;
    default:
      return Compare::kSle;
  }
}

bool assume(Compare compare, bool is_wide, Scalar* a, Scalar* b) {
  if (is_wide && compare == Compare::kEq && !assume(compare, &a->low, &b->low)) return false;
  const bool possible =
      is_wide ? assume(compare, &a->wide, &b->wide) : assume(compare, &a->low, &b->low);
  return possible && a->normalise() && b->normalise();
}

}  // namespace bpftime::verify
