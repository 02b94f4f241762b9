// SPDX-License-Identifier: MIT
// The verifier's numbers against brute force: eight-bit words with every member tried, then random
// walks of 64-bit registers beside their concrete values. Argument: steps of the walk (1000000).
#include <cstdlib>
#include <random>
#include <vector>

#include "tap.h"
#include "vm/verify/scalar.h"

namespace {

using namespace bpftime;
using namespace bpftime::verify;
using Byte = Domain<uint8_t>;

struct Member {
  Byte domain;
  std::vector<uint8_t> values;
};

Member member(const Byte& domain) {
  Member m{domain, {}};
  for (int v = 0; v < 256; ++v) {
    if (domain.contains(static_cast<uint8_t>(v))) m.values.push_back(static_cast<uint8_t>(v));
  }
  return m;
}

template <typename U>
U div0(U a, U b) {
  return b == 0 ? U{0} : static_cast<U>(a / b);
}
template <typename U>
U mod0(U a, U b) {
  return b == 0 ? a : static_cast<U>(a % b);
}
template <typename U>
U sdiv0(U a, U b) {
  using S = std::make_signed_t<U>;
  if (b == 0) return 0;
  if (static_cast<S>(b) == -1) return static_cast<U>(U{0} - a);
  return static_cast<U>(static_cast<S>(a) / static_cast<S>(b));
}
template <typename U>
U smod0(U a, U b) {
  using S = std::make_signed_t<U>;
  if (b == 0) return a;
  if (static_cast<S>(b) == -1) return 0;
  return static_cast<U>(static_cast<S>(a) % static_cast<S>(b));
}

struct Op {
  const char* name;
  Byte (*abstract)(const Byte&, const Byte&);
  uint8_t (*concrete)(uint8_t, uint8_t);
};

// clang-format off
#define U8(expr) [](uint8_t a, uint8_t b) -> uint8_t { (void)b; return static_cast<uint8_t>(expr); }
const Op kOps[] = {
    {"add", add<uint8_t>, U8(a + b)},
    {"sub", sub<uint8_t>, U8(a - b)},
    {"mul", mul<uint8_t>, U8(a * b)},
    {"and", bit_and<uint8_t>, U8(a & b)},
    {"or", bit_or<uint8_t>, U8(a | b)},
    {"xor", bit_xor<uint8_t>, U8(a ^ b)},
    {"shift left", shift_left<uint8_t>, U8(a << (b & 7))},
    {"shift right", shift_right<uint8_t>, U8(a >> (b & 7))},
    {"shift signed", shift_signed<uint8_t>, U8(static_cast<int8_t>(a) >> (b & 7))},
    {"divide", divide<uint8_t>, div0<uint8_t>},
    {"modulo", modulo<uint8_t>, mod0<uint8_t>},
    {"divide signed", divide_signed<uint8_t>, sdiv0<uint8_t>},
    {"modulo signed", modulo_signed<uint8_t>, smod0<uint8_t>},
    {"sign extend 3", [](const Byte& a, const Byte&) { return sign_extended(a, 3); },
     U8(static_cast<int8_t>(a << 5) >> 5)},
    {"intersect", [](const Byte& a, const Byte& b) { Byte c = a; return c.intersect(b) ? c : a; },
     nullptr},
    {"join", [](const Byte& a, const Byte& b) { return a.join(b); }, nullptr},
};
#undef U8
// clang-format on

bool holds(Compare compare, uint8_t a, uint8_t b) {
  const auto sa = static_cast<int8_t>(a);
  const auto sb = static_cast<int8_t>(b);
  const bool results[] = {
      a == b,   a != b,       a<b, a <= b, a> b, a >= b, sa<sb, sa <= sb, sa> sb,
      sa >= sb, (a & b) != 0, (a & b) == 0};
  return results[static_cast<int>(compare)];
}

/// Every combination of known and unknown for the given bits; the others are zero.
std::vector<Member> all_bits(const std::vector<int>& places) {
  std::vector<Member> out{member(Byte::constant(0))};
  for (const int place : places) {
    const auto bit = static_cast<uint8_t>(1u << place);
    std::vector<Member> next;
    for (const Member& m : out) {
      const uint8_t value = m.domain.value;
      const uint8_t unknown = m.domain.unknown;
      next.push_back(m);
      next.push_back(member(Byte::bits(static_cast<uint8_t>(value | bit), unknown)));
      next.push_back(member(Byte::bits(value, static_cast<uint8_t>(unknown | bit))));
    }
    out = std::move(next);
  }
  return out;
}

std::vector<Member> corners() {
  std::vector<Member> out;
  const int ends[] = {0, 1, 7, 8, 127, 128, 129, 200, 255};
  for (const int lo : ends) {
    for (const int hi : ends) {
      if (lo > hi) continue;
      out.push_back(
          member(Byte::unsigned_range(static_cast<uint8_t>(lo), static_cast<uint8_t>(hi))));
      Byte d;
      d.smin = static_cast<int8_t>(lo - 128);
      d.smax = static_cast<int8_t>(hi - 128);
      d.normalise();
      out.push_back(member(d));
    }
  }
  return out;
}

std::vector<Member> constants(int step) {
  std::vector<Member> out;
  for (int v = 0; v < 256; v += step)
    out.push_back(member(Byte::constant(static_cast<uint8_t>(v))));
  return out;
}

/// Domains as operations make them: hulls of a few numbers.
std::vector<Member> hulls(int count) {
  std::mt19937 random(7);
  std::vector<Member> out;
  for (int i = 0; i < count; ++i) {
    Byte d = Byte::constant(static_cast<uint8_t>(random()));
    const unsigned extra = random() % 4;
    for (unsigned k = 0; k < extra; ++k) {
      d = d.join(Byte::constant(static_cast<uint8_t>(d.value + (random() % 2 ? random() : k))));
    }
    d.normalise();
    out.push_back(member(d));
  }
  return out;
}

void complain(const char* name, const Byte& a, const Byte& b, const Byte& c, int x, int y) {
  std::printf(
      "# %s: a bits %02x/%02x [%u,%u] b bits %02x/%02x [%u,%u] c bits %02x/%02x [%u,%u] "
      "s[%d,%d]: %d, %d\n",
      name, a.value, a.unknown, a.umin, a.umax, b.value, b.unknown, b.umin, b.umax, c.value,
      c.unknown, c.umin, c.umax, c.smin, c.smax, x, y);
}

bool check_op(const Op& op, const Member& a, const Member& b) {
  const Byte c = op.abstract(a.domain, b.domain);
  Byte again = c;
  if (!again.normalise()) return complain(op.name, a.domain, b.domain, c, -1, -1), false;
  if (op.concrete == nullptr) {
    const bool is_join = c.includes(a.domain) && c.includes(b.domain);
    for (const uint8_t x : a.values) {
      if (!c.contains(x) && (is_join || b.domain.contains(x))) return false;
    }
    return true;
  }
  for (const uint8_t x : a.values) {
    for (const uint8_t y : b.values) {
      if (c.contains(op.concrete(x, y))) continue;
      complain(op.name, a.domain, b.domain, c, x, y);
      return false;
    }
  }
  return !a.domain.is_const() || !b.domain.is_const() || c.is_const();
}

bool check_compare(Compare compare, const Member& a, const Member& b) {
  Byte left = a.domain;
  Byte right = b.domain;
  const bool possible = assume(compare, &left, &right);
  for (const uint8_t x : a.values) {
    for (const uint8_t y : b.values) {
      if (!holds(compare, x, y)) continue;
      if (possible && left.contains(x) && right.contains(y)) continue;
      complain("compare", a.domain, b.domain, left, x, static_cast<int>(compare));
      return false;
    }
  }
  return true;
}

void check_pairs(const char* what, const std::vector<Member>& as, const std::vector<Member>& bs) {
  long wrong = 0;
  for (const Op& op : kOps) {
    for (const Member& a : as) {
      for (const Member& b : bs) wrong += wrong < 5 && !check_op(op, a, b);
    }
  }
  for (int c = 0; c <= static_cast<int>(Compare::kClear); ++c) {
    for (const Member& a : as) {
      for (const Member& b : bs) {
        wrong += wrong < 5 && !check_compare(static_cast<Compare>(c), a, b);
      }
    }
  }
  tap::equal(wrong, 0, what);
}

// ---- 64-bit registers beside their values

struct Walk {
  std::mt19937_64 random{42};
  uint64_t value[4];
  Scalar known[4];

  uint64_t number() {
    static const uint64_t kOdd[] = {0,
                                    1,
                                    2,
                                    7,
                                    8,
                                    31,
                                    32,
                                    63,
                                    64,
                                    255,
                                    0x7fffffff,
                                    0x80000000,
                                    0xffffffff,
                                    0x100000000,
                                    INT64_MAX,
                                    0x8000000000000000u,
                                    ~uint64_t{0},
                                    ~uint64_t{0} - 7};
    return random() % 3 == 0 ? random() >> (random() % 64) : kOdd[random() % std::size(kOdd)];
  }
  void fresh(int r) {
    value[r] = number();
    const auto kind = random() % 4;
    known[r] = kind == 0 ? Scalar::constant(value[r]) : Scalar::any();
    if (kind != 1) return;
    const uint32_t bytes = 1u << (random() % 4);
    if (bytes < 8) value[r] &= (uint64_t{1} << (bytes * 8)) - 1;
    known[r] = Scalar::sized(bytes);
  }
};

template <typename U>
U concrete(const isa::Insn& insn, U a, U b) {
  using S = std::make_signed_t<U>;
  constexpr U kMask = sizeof(U) * 8 - 1;
  switch (insn.op()) {
    case isa::kAdd:
      return a + b;
    case isa::kSub:
      return a - b;
    case isa::kMul:
      return a * b;
    case isa::kDiv:
      return insn.off == 1 ? sdiv0(a, b) : div0(a, b);
    case isa::kMod:
      return insn.off == 1 ? smod0(a, b) : mod0(a, b);
    case isa::kOr:
      return a | b;
    case isa::kAnd:
      return a & b;
    case isa::kXor:
      return a ^ b;
    case isa::kLsh:
      return a << (b & kMask);
    case isa::kRsh:
      return a >> (b & kMask);
    case isa::kArsh:
      return static_cast<U>(static_cast<S>(a) >> (b & kMask));
    default:
      return U{0} - a;
  }
}

bool walk_alu(Walk* w, int a, int b) {
  static const uint8_t kAluOps[] = {isa::kAdd, isa::kSub, isa::kMul,  isa::kDiv,
                                    isa::kOr,  isa::kAnd, isa::kLsh,  isa::kRsh,
                                    isa::kMod, isa::kXor, isa::kArsh, isa::kNeg};
  isa::Insn insn{};
  const bool wide = w->random() % 2 != 0;
  const uint8_t op = kAluOps[w->random() % std::size(kAluOps)];
  insn.opcode = static_cast<uint8_t>(op | (wide ? isa::kAlu64 : isa::kAlu));
  if (op == isa::kDiv || op == isa::kMod) insn.off = static_cast<int16_t>(w->random() % 2);
  w->known[a] = alu(insn, w->known[a], w->known[b]);
  w->value[a] = wide ? concrete<uint64_t>(insn, w->value[a], w->value[b])
                     : concrete<uint32_t>(insn, static_cast<uint32_t>(w->value[a]),
                                          static_cast<uint32_t>(w->value[b]));
  return w->known[a].contains(w->value[a]);
}

bool walk_other(Walk* w, int a, int b) {
  if (w->random() % 2 == 0) {
    const int bits = w->random() % 3 == 0 ? 8 : w->random() % 2 == 0 ? 16 : 32;
    const bool wide = bits == 32 || w->random() % 2 == 0;
    w->known[a] = move_signed(w->known[b], bits, wide);
    const auto s = static_cast<int64_t>(w->value[b] << (64 - bits)) >> (64 - bits);
    w->value[a] = wide ? static_cast<uint64_t>(s) : static_cast<uint32_t>(s);
  } else {
    isa::Insn insn{};
    insn.opcode = w->random() % 2 == 0 ? isa::kOpBe : isa::kOpLe;
    insn.imm = w->random() % 2 == 0 ? 16 : w->random() % 2 == 0 ? 32 : 64;
    w->known[a] = swap(insn, w->known[a]);
    uint64_t v = w->value[a];
    const bool be = insn.opcode == isa::kOpBe;
    if (insn.imm == 16) v = be ? __builtin_bswap16(static_cast<uint16_t>(v)) : v & 0xffff;
    if (insn.imm == 32) v = be ? __builtin_bswap32(static_cast<uint32_t>(v)) : v & 0xffffffff;
    if (insn.imm == 64 && be) v = __builtin_bswap64(v);
    w->value[a] = v;
  }
  return w->known[a].contains(w->value[a]);
}

template <typename U>
bool holds_in(Compare compare, U a, U b) {
  using S = std::make_signed_t<U>;
  const auto sa = static_cast<S>(a);
  const auto sb = static_cast<S>(b);
  const bool results[] = {
      a == b,   a != b,       a<b, a <= b, a> b, a >= b, sa<sb, sa <= sb, sa> sb,
      sa >= sb, (a & b) != 0, (a & b) == 0};
  return results[static_cast<int>(compare)];
}

bool walk_branch(Walk* w, int a, int b) {
  if (a == b) return true;
  auto compare = static_cast<Compare>(w->random() % 12);
  const bool wide = w->random() % 2 == 0;
  const uint64_t x = w->value[a];
  const uint64_t y = w->value[b];
  const bool taken = wide ? holds_in(compare, x, y)
                          : holds_in(compare, static_cast<uint32_t>(x), static_cast<uint32_t>(y));
  if (!taken) compare = complement(compare);
  return assume(compare, wide, &w->known[a], &w->known[b]) && w->known[a].contains(x) &&
         w->known[b].contains(y);
}

void random_walk(long steps) {
  Walk w;
  for (int r = 0; r < 4; ++r) w.fresh(r);
  long wrong = 0;
  long informed = 0;
  for (long i = 0; i < steps && wrong < 5; ++i) {
    const int a = static_cast<int>(w.random() % 4);
    const int b = static_cast<int>(w.random() % 4);
    const auto kind = w.random() % 8;
    bool good = true;
    if (kind == 0) w.fresh(a);
    if (kind == 1) good = walk_other(&w, a, b);
    if (kind == 2 || kind == 3 || kind == 4) good = walk_branch(&w, a, b);
    if (kind > 4) good = walk_alu(&w, a, b);
    informed += !w.known[a].is_any();
    wrong += !good;
    if (!good) std::printf("# step %ld, kind %d\n", i, static_cast<int>(kind));
  }
  tap::equal(wrong, 0, "random walks of 64-bit registers stay inside what is known");
  tap::ok(informed > steps / 2, "and something is known");
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<Member> bits = all_bits({0, 1, 3, 6, 7});
  check_pairs("every pattern of known bits, against each other", bits, bits);
  check_pairs("every pattern of six bits, against numbers", all_bits({0, 1, 2, 4, 6, 7}),
              constants(5));
  check_pairs("every number against patterns of known bits", constants(1), all_bits({0, 1, 6, 7}));
  const std::vector<Member> bounds = corners();
  check_pairs("bounds at all corners, against each other", bounds, bounds);
  const std::vector<Member> mixed = hulls(100);
  check_pairs("bits and bounds together", mixed, mixed);
  check_pairs("bounds against bits", bounds, mixed);
  random_walk(argc > 1 ? std::atol(argv[1]) : 1000000);
  return tap::done();
}
