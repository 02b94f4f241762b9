// SPDX-License-Identifier: MIT
// Domain<U>: what is known of one unsigned machine word of type U: which bits (a bit is known where
// `unknown` has a zero), and its bounds read as unsigned and as signed number. Every operation is
// an over-approximation: if a is in A and b in B, then a op b is in A op B. The type is a parameter
// so that the test can try every value of an eight-bit word.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

namespace bpftime::verify {

/// How a branch compares its operands; each has a complement.
enum class Compare : uint8_t { kEq, kNe, kLt, kLe, kGt, kGe, kSlt, kSle, kSgt, kSge, kSet, kClear };

/// The comparison that holds when `compare` does not.
[[nodiscard]] constexpr Compare complement(Compare compare) {
  constexpr Compare kOther[] = {Compare::kNe,  Compare::kEq,  Compare::kGe,    Compare::kGt,
                                Compare::kLe,  Compare::kLt,  Compare::kSge,   Compare::kSgt,
                                Compare::kSle, Compare::kSlt, Compare::kClear, Compare::kSet};
  return kOther[static_cast<int>(compare)];
}

template <typename U>
struct Domain {
  using S = std::make_signed_t<U>;
  using Wide = std::conditional_t<sizeof(U) == 8, __int128, int64_t>;
  static constexpr int kBits = sizeof(U) * 8;
  static constexpr U kAll = static_cast<U>(~U{0});
  static constexpr U kSign = static_cast<U>(U{1} << (kBits - 1));
  static constexpr S kSignedMin = static_cast<S>(kSign);
  static constexpr S kSignedMax = static_cast<S>(kSign - 1);

  U value = 0;       // of the known bits; zero elsewhere
  U unknown = kAll;  // bits that may be either
  U umin = 0;
  U umax = kAll;
  S smin = kSignedMin;
  S smax = kSignedMax;

  static constexpr Domain any() { return {}; }
  static constexpr Domain constant(U v) {
    return {v, 0, v, v, static_cast<S>(v), static_cast<S>(v)};
  }
  static Domain unsigned_range(U lo, U hi) {
    Domain d;
    d.umin = lo;
    d.umax = hi;
    d.normalise();
    return d;
  }
  static Domain bits(U value, U unknown) {
    Domain d;
    d.value = static_cast<U>(value & ~unknown);
    d.unknown = unknown;
    d.normalise();
    return d;
  }

  [[nodiscard]] bool is_const() const { return unknown == 0; }
  [[nodiscard]] bool is_any() const { return *this == any(); }
  [[nodiscard]] bool contains(U v) const {
    const auto s = static_cast<S>(v);
    return ((v ^ value) & ~unknown & kAll) == 0 && v >= umin && v <= umax && s >= smin && s <= smax;
  }
  /// Everything that is in `other` is in this. Both are normalised.
  [[nodiscard]] bool includes(const Domain& other) const {
    if ((other.unknown & ~unknown & kAll) != 0) return false;
    if (((value ^ other.value) & ~unknown & kAll) != 0) return false;
    return umin <= other.umin && umax >= other.umax && smin <= other.smin && smax >= other.smax;
  }
  bool operator==(const Domain&) const = default;

  /// Lets bits and bounds tighten each other. False: nothing is left.
  bool normalise() {
    for (int i = 0; i < 2; ++i) {
      bounds_from_bits();
      if (!signed_from_unsigned() || !unsigned_from_signed()) return false;
      if (umin > umax || smin > smax || !bits_from_bounds()) return false;
    }
    if (unknown == 0 && !contains(value)) return false;
    return true;
  }

  /// Keeps what is in both. False: nothing is.
  bool intersect(const Domain& other) {
    if (((value ^ other.value) & ~(unknown | other.unknown) & kAll) != 0) return false;
    unknown &= other.unknown;
    value = static_cast<U>((value | other.value) & ~unknown);
    umin = std::max(umin, other.umin);
    umax = std::min(umax, other.umax);
    smin = std::max(smin, other.smin);
    smax = std::min(smax, other.smax);
    return umin <= umax && smin <= smax && normalise();
  }

  /// The smallest domain of this kind that has both inside.
  [[nodiscard]] Domain join(const Domain& other) const {
    Domain d;
    d.unknown = static_cast<U>(unknown | other.unknown | (value ^ other.value));
    d.value = static_cast<U>(value & ~d.unknown);
    d.umin = std::min(umin, other.umin);
    d.umax = std::max(umax, other.umax);
    d.smin = std::min(smin, other.smin);
    d.smax = std::max(smax, other.smax);
    return d;
  }

 private:
  void bounds_from_bits() {
    umin = std::max(umin, value);
    umax = std::min(umax, static_cast<U>(value | unknown));
    // Read as signed, the least has an unknown sign bit set and all others clear.
    smin = std::max(smin, static_cast<S>(value | (unknown & kSign)));
    smax = std::min(smax, static_cast<S>(value | (unknown & static_cast<U>(~kSign))));
  }

  /// Unsigned bounds as signed numbers: one run, or two when they cross the sign.
  bool signed_from_unsigned() {
    if (umin > umax) return false;
    const auto lo = static_cast<S>(umin);
    const auto hi = static_cast<S>(umax);
    if (lo <= hi) {
      smin = std::max(smin, lo);
      smax = std::min(smax, hi);
    } else if (smin > hi) {  // only the run [umin, kSignedMax] is left
      smin = std::max(smin, lo);
    } else if (smax < lo) {  // only [kSignedMin, umax] is left
      smax = std::min(smax, hi);
    }
    return smin <= smax;
  }

  bool unsigned_from_signed() {
    const auto lo = static_cast<U>(smin);
    const auto hi = static_cast<U>(smax);
    if (lo <= hi) {
      umin = std::max(umin, lo);
      umax = std::min(umax, hi);
    } else if (umin > hi) {  // only the negative run [smin, -1] is left
      umin = std::max(umin, lo);
    } else if (umax < lo) {  // only [0, smax] is left
      umax = std::min(umax, hi);
    }
    return umin <= umax;
  }

  /// Bits above the highest in which the bounds differ are the same for all between them.
  bool bits_from_bounds() {
    const auto differ = static_cast<U>(umin ^ umax);
    const int low = kBits - std::countl_zero(differ);
    const U below = low == kBits ? kAll : static_cast<U>((U{1} << low) - 1);
    const auto known = static_cast<U>(~below);
    if (((value ^ umin) & known & ~unknown & kAll) != 0) return false;
    value = static_cast<U>((value | (umin & known)) & ~(unknown & below));
    unknown &= below;
    return true;
  }
};

/// Bounds [lo, hi] of a result before it is cut to the word: kept if no cut falls between them.
template <typename U>
void set_bounds_unsigned(Domain<U>* d, __int128 lo, __int128 hi) {
  if ((lo >> Domain<U>::kBits) != (hi >> Domain<U>::kBits)) return;
  d->umin = static_cast<U>(lo);
  d->umax = static_cast<U>(hi);
}
template <typename U>
void set_bounds_signed(Domain<U>* d, __int128 lo, __int128 hi) {
  using S = typename Domain<U>::S;
  constexpr __int128 kHalf = static_cast<__int128>(1) << (Domain<U>::kBits - 1);
  if (((lo + kHalf) >> Domain<U>::kBits) != ((hi + kHalf) >> Domain<U>::kBits)) return;
  d->smin = static_cast<S>(static_cast<U>(lo));
  d->smax = static_cast<S>(static_cast<U>(hi));
}

template <typename U>
[[nodiscard]] Domain<U> add(const Domain<U>& a, const Domain<U>& b) {
  Domain<U> d;
  // Carries are monotonous in the operands: a bit is known where the smallest and the largest sum
  // agree and both addends are known.
  const auto least = static_cast<U>(a.value + b.value);
  const auto most = static_cast<U>((a.value | a.unknown) + (b.value | b.unknown));
  d.unknown = static_cast<U>((least ^ most) | a.unknown | b.unknown);
  d.value = static_cast<U>(least & ~d.unknown);
  set_bounds_unsigned(&d, __int128{a.umin} + b.umin, __int128{a.umax} + b.umax);
  set_bounds_signed(&d, __int128{a.smin} + b.smin, __int128{a.smax} + b.smax);
  d.normalise();
  return d;
}

template <typename U>
[[nodiscard]] Domain<U> sub(const Domain<U>& a, const Domain<U>& b) {
  Domain<U> d;
  const auto least = static_cast<U>(a.value - (b.value | b.unknown));
  const auto most = static_cast<U>((a.value | a.unknown) - b.value);
  d.unknown = static_cast<U>((least ^ most) | a.unknown | b.unknown);
  d.value = static_cast<U>(least & ~d.unknown);
  set_bounds_unsigned(&d, __int128{a.umin} - b.umax, __int128{a.umax} - b.umin);
  set_bounds_signed(&d, __int128{a.smin} - b.smax, __int128{a.smax} - b.smin);
  d.normalise();
  return d;
}

template <typename U>
[[nodiscard]] int low_known(const Domain<U>& a) {
  return std::countr_zero(a.unknown);  // the width, if all are known
}
template <typename U>
[[nodiscard]] int low_zeros(const Domain<U>& a) {
  return std::countr_zero(static_cast<U>(a.value | a.unknown));
}

template <typename U>
[[nodiscard]] Domain<U> mul(const Domain<U>& a, const Domain<U>& b) {
  if (a.is_const() && b.is_const()) {
    return Domain<U>::constant(static_cast<U>(uint64_t{a.value} * uint64_t{b.value}));
  }
  Domain<U> d;
  // a = x + 2^k·m with x known: the lowest bits of the product depend on known bits only.
  const int known = std::min(low_known(a) + low_zeros(b), low_known(b) + low_zeros(a));
  if (known < Domain<U>::kBits) {
    const auto mask = static_cast<U>((U{1} << known) - 1);
    d.unknown = static_cast<U>(~mask);
    d.value = static_cast<U>((uint64_t{a.value} * uint64_t{b.value}) & mask);
  } else {
    d.unknown = 0;
    d.value = static_cast<U>(uint64_t{a.value} * uint64_t{b.value});
  }
  const auto most = static_cast<unsigned __int128>(a.umax) * b.umax;
  if ((most >> 127) == 0) {
    set_bounds_unsigned(&d, __int128{a.umin} * b.umin, static_cast<__int128>(most));
  }
  const __int128 corners[] = {__int128{a.smin} * b.smin, __int128{a.smin} * b.smax,
                              __int128{a.smax} * b.smin, __int128{a.smax} * b.smax};
  set_bounds_signed(&d, *std::min_element(corners, corners + 4),
                    *std::max_element(corners, corners + 4));
  d.normalise();
  return d;
}

/// All ones from the highest bit of v down.
template <typename U>
[[nodiscard]] U filled(U v) {
  const int low = Domain<U>::kBits - std::countl_zero(v);
  return low == Domain<U>::kBits ? Domain<U>::kAll : static_cast<U>((U{1} << low) - 1);
}

template <typename U>
[[nodiscard]] Domain<U> bit_and(const Domain<U>& a, const Domain<U>& b) {
  Domain<U> d;
  const auto may = static_cast<U>((a.value | a.unknown) & (b.value | b.unknown));
  d.value = static_cast<U>(a.value & b.value);
  d.unknown = static_cast<U>(may & ~d.value);
  d.umax = std::min(a.umax, b.umax);
  d.normalise();
  return d;
}

template <typename U>
[[nodiscard]] Domain<U> bit_or(const Domain<U>& a, const Domain<U>& b) {
  Domain<U> d;
  d.value = static_cast<U>(a.value | b.value);
  d.unknown = static_cast<U>((a.unknown | b.unknown) & ~d.value);
  d.umin = std::max(a.umin, b.umin);
  d.umax = filled(static_cast<U>(a.umax | b.umax));
  d.normalise();
  return d;
}

template <typename U>
[[nodiscard]] Domain<U> bit_xor(const Domain<U>& a, const Domain<U>& b) {
  Domain<U> d;
  d.unknown = static_cast<U>(a.unknown | b.unknown);
  d.value = static_cast<U>((a.value ^ b.value) & ~d.unknown);
  d.umax = filled(static_cast<U>(a.umax | b.umax));
  d.normalise();
  return d;
}

/// A shift count as the machine takes it: modulo the width.
template <typename U>
void shift_counts(const Domain<U>& b, int* least, int* most) {
  constexpr U kMask = Domain<U>::kBits - 1;
  *least = 0;
  *most = kMask;
  if (b.is_const()) *least = *most = static_cast<int>(b.value & kMask);
  if (b.umax > kMask) return;
  *least = static_cast<int>(b.umin);
  *most = static_cast<int>(b.umax);
}

template <typename U>
[[nodiscard]] Domain<U> shift_left(const Domain<U>& a, const Domain<U>& b) {
  int least = 0;
  int most = 0;
  shift_counts(b, &least, &most);
  Domain<U> d;
  if (least == most) {
    d.value = static_cast<U>(a.value << least);
    d.unknown = static_cast<U>(a.unknown << least);
  } else {
    const int zeros = std::min(low_zeros(a) + least, Domain<U>::kBits - 1);
    d.unknown = static_cast<U>(Domain<U>::kAll << zeros);
  }
  if ((static_cast<unsigned __int128>(a.umax) << most) <= Domain<U>::kAll) {
    d.umin = static_cast<U>(a.umin << least);
    d.umax = static_cast<U>(a.umax << most);
  }
  const __int128 lo = __int128{a.smin} * (__int128{1} << (a.smin < 0 ? most : least));
  const __int128 hi = __int128{a.smax} * (__int128{1} << (a.smax < 0 ? least : most));
  if (lo >= Domain<U>::kSignedMin && hi <= Domain<U>::kSignedMax) set_bounds_signed(&d, lo, hi);
  d.normalise();
  return d;
}

template <typename U>
[[nodiscard]] Domain<U> shift_right(const Domain<U>& a, const Domain<U>& b) {
  int least = 0;
  int most = 0;
  shift_counts(b, &least, &most);
  Domain<U> d;
  if (least == most) {
    d.value = static_cast<U>(a.value >> least);
    d.unknown = static_cast<U>(a.unknown >> least);
  }
  d.umin = static_cast<U>(a.umin >> most);
  d.umax = static_cast<U>(a.umax >> least);
  d.normalise();
  return d;
}

template <typename U>
[[nodiscard]] Domain<U> shift_signed(const Domain<U>& a, const Domain<U>& b) {
  using S = typename Domain<U>::S;
  int least = 0;
  int most = 0;
  shift_counts(b, &least, &most);
  Domain<U> d;
  if (least == most) {  // an unknown sign bit makes all its copies unknown
    d.unknown = static_cast<U>(static_cast<S>(a.unknown) >> least);
    d.value = static_cast<U>((static_cast<S>(a.value) >> least) & ~d.unknown);
  }
  d.smin = static_cast<S>(a.smin >> (a.smin < 0 ? least : most));
  d.smax = static_cast<S>(a.smax >> (a.smax < 0 ? most : least));
  d.normalise();
  return d;
}

/// Division by zero is 0 (RFC 9669, 4.1).
template <typename U>
[[nodiscard]] Domain<U> divide(const Domain<U>& a, const Domain<U>& b) {
  if (b.umax == 0) return Domain<U>::constant(0);
  Domain<U> d;
  d.umin = b.umin == 0 ? U{0} : static_cast<U>(a.umin / b.umax);
  d.umax = static_cast<U>(a.umax / std::max<U>(b.umin, 1));
  d.normalise();
  return d;
}

/// The remainder by zero is the dividend.
template <typename U>
[[nodiscard]] Domain<U> modulo(const Domain<U>& a, const Domain<U>& b) {
  if (b.umax == 0 || a.umax < b.umin) return a;
  if (a.is_const() && b.is_const()) {
    return Domain<U>::constant(static_cast<U>(a.value % b.value));
  }
  if (b.is_const() && std::has_single_bit(b.value)) {
    return bit_and(a, Domain<U>::constant(static_cast<U>(b.value - 1)));
  }
  Domain<U> d;
  d.umax = b.umin == 0 ? a.umax : std::min(a.umax, static_cast<U>(b.umax - 1));
  d.normalise();
  return d;
}

template <typename U>
[[nodiscard]] Domain<U> divide_signed(const Domain<U>& a, const Domain<U>& b) {
  using S = typename Domain<U>::S;
  Domain<U> d;
  if (!b.is_const()) return d;
  const auto divisor = static_cast<S>(b.value);
  if (divisor == 0) return Domain<U>::constant(0);
  if (divisor == -1) return sub(Domain<U>::constant(0), a);
  const auto one = static_cast<S>(a.smin / divisor);
  const auto other = static_cast<S>(a.smax / divisor);
  d.smin = std::min(one, other);
  d.smax = std::max(one, other);
  d.normalise();
  return d;
}

template <typename U>
[[nodiscard]] Domain<U> modulo_signed(const Domain<U>& a, const Domain<U>& b) {
  using S = typename Domain<U>::S;
  Domain<U> d;
  if (!b.is_const()) return d;
  const auto divisor = static_cast<S>(b.value);
  if (divisor == 0) return a;
  if (divisor == 1 || divisor == -1) return Domain<U>::constant(0);
  if (a.is_const()) return Domain<U>::constant(static_cast<U>(a.smin % divisor));
  // |r| < |divisor|, and r has the dividend's sign.
  const __int128 magnitude = (divisor < 0 ? -__int128{divisor} : __int128{divisor}) - 1;
  d.smin = a.smin >= 0 ? S{0} : static_cast<S>(std::max(-magnitude, __int128{a.smin}));
  d.smax = a.smax <= 0 ? S{0} : static_cast<S>(std::min(magnitude, __int128{a.smax}));
  d.normalise();
  return d;
}

/// The lowest `width` bits, read as a signed number.
template <typename U>
[[nodiscard]] Domain<U> sign_extended(const Domain<U>& a, int width) {
  using S = typename Domain<U>::S;
  const int up = Domain<U>::kBits - width;
  Domain<U> d;
  d.unknown = static_cast<U>(static_cast<S>(static_cast<U>(a.unknown << up)) >> up);
  d.value = static_cast<U>((static_cast<S>(static_cast<U>(a.value << up)) >> up) & ~d.unknown);
  const auto most = static_cast<S>(Domain<U>::kSignedMax >> up);
  const auto least = static_cast<S>(Domain<U>::kSignedMin >> up);
  const bool fits = a.smin >= least && a.smax <= most;
  d.smin = fits ? a.smin : least;
  d.smax = fits ? a.smax : most;
  d.normalise();
  return d;
}

/// Keeps of a and b what can be when `a compare b` holds. False: it never does.
template <typename U>
bool assume(Compare compare, Domain<U>* a, Domain<U>* b);

namespace detail {

template <typename U>
bool drop(Domain<U>* a, U v) {  // v is the only thing that a may not be
  using S = typename Domain<U>::S;
  if (a->is_const()) return a->value != v;
  if (a->umin == v) ++a->umin;
  if (a->umax == v) --a->umax;
  if (a->smin == static_cast<S>(v)) ++a->smin;
  if (a->smax == static_cast<S>(v)) --a->smax;
  return a->normalise();
}

template <typename T>
bool order(T* amin, T* amax, T* bmin, T* bmax, T top, T bottom, bool strict) {
  if (strict) {
    if (*bmax == bottom || *amin == top) return false;
    *amax = std::min(*amax, static_cast<T>(*bmax - 1));
    *bmin = std::max(*bmin, static_cast<T>(*amin + 1));
  } else {
    *amax = std::min(*amax, *bmax);
    *bmin = std::max(*bmin, *amin);
  }
  return *amin <= *amax && *bmin <= *bmax;
}

template <typename U>
bool less(Domain<U>* a, Domain<U>* b, bool strict) {
  if (!order<U>(&a->umin, &a->umax, &b->umin, &b->umax, Domain<U>::kAll, 0, strict)) return false;
  return a->normalise() && b->normalise();
}

template <typename U>
bool less_signed(Domain<U>* a, Domain<U>* b, bool strict) {
  using S = typename Domain<U>::S;
  constexpr S kTop = Domain<U>::kSignedMax;
  constexpr S kBottom = Domain<U>::kSignedMin;
  if (!order<S>(&a->smin, &a->smax, &b->smin, &b->smax, kTop, kBottom, strict)) return false;
  return a->normalise() && b->normalise();
}

template <typename U>
bool with_bits(Domain<U>* a, const Domain<U>& b, bool some) {
  const auto may = static_cast<U>((a->value | a->unknown) & (b.value | b.unknown));
  if (some) {
    if (may == 0) return false;
    if (!b.is_const() || !std::has_single_bit(may)) return true;
    a->unknown &= static_cast<U>(~may);
    a->value |= may;
    return a->normalise();
  }
  if ((a->value & b.value) != 0) return false;
  a->unknown &= static_cast<U>(~b.value);  // bits that b surely has, a has not
  return a->normalise();
}

}  // namespace detail

template <typename U>
bool assume(Compare compare, Domain<U>* a, Domain<U>* b) {
  switch (compare) {
    case Compare::kEq:
      if (!a->intersect(*b)) return false;
      *b = *a;
      return true;
    case Compare::kNe:
      if (b->is_const() && !detail::drop(a, b->value)) return false;
      return !a->is_const() || detail::drop(b, a->value);
    case Compare::kLt:
      return detail::less(a, b, true);
    case Compare::kLe:
      return detail::less(a, b, false);
    case Compare::kGt:
      return detail::less(b, a, true);
    case Compare::kGe:
      return detail::less(b, a, false);
    case Compare::kSlt:
      return detail::less_signed(a, b, true);
    case Compare::kSle:
      return detail::less_signed(a, b, false);
    case Compare::kSgt:
      return detail::less_signed(b, a, true);
    case Compare::kSge:
      return detail::less_signed(b, a, false);
    case Compare::kSet:
      return detail::with_bits(a, *b, true);
    case Compare::kClear:
      return detail::with_bits(a, *b, false);
  }
  return true;
}

}  // namespace bpftime::verify
