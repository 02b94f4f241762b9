// SPDX-License-Identifier: MIT
// The oracle of the verifier: an interpreter in a world of its own, where every byte of memory has
// an owner, and which holds a program to everything that was promised of it: each access inside of
// live memory that may be touched so and was written before it is read, each register inside of
// what the verifier claims, records given back once, an end. Shares no code with the verifier but
// the decoder and the claims it is given.
#pragma once

#include <linux/bpf.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "vm/flow.h"
#include "vm/verify/claims.h"
#include "vm_verify_host.h"

namespace vmtest {

using bpftime::Flow;
using bpftime::isa::Insn;
namespace isa = bpftime::isa;
namespace verify = bpftime::verify;

class Checked {
 public:
  static constexpr uint32_t kContextBytes = 168;
  static constexpr uint64_t kStepsMax = 3000000;

  Checked(const Flow& flow, const verify::Claims* claims, uint64_t seed)
      : flow_(flow), claims_(claims), random_(seed) {}

  /// Runs the program once; "" or what it did that it must not.
  std::string run() {
    regions_.clear();
    maps_.clear();
    violation_.clear();
    steps_ = 0;
    held_ = 0;
    make_maps();
    const uint32_t ctx = add_region(Region::kCtx, kContextBytes, 0);
    for (uint32_t i = 0; i < kContextBytes; i += 8) {
      const uint64_t value = number();
      std::memcpy(regions_[ctx].bytes.data() + i, &value, 8);
    }
    regions_[ctx].fill();
    uint64_t args[5] = {base_of(ctx), 0, 0, 0, 0};
    call(0, args, 0);
    if (violation_.empty() && held_ != 0) fail(0, "ends with a record in hand");
    return violation_;
  }
  [[nodiscard]] uint64_t steps() const { return steps_; }

 private:
  struct Region {
    enum Kind : uint8_t { kCtx, kStack, kValue, kRecord, kKey, kMap } kind = kCtx;
    uint32_t map = 0;
    bool is_alive = true;
    bool is_writable = true;
    std::vector<uint8_t> bytes;
    std::vector<uint8_t> is_set;
    void fill() { is_set.assign(bytes.size(), 1); }
  };
  struct Entry {
    std::vector<uint8_t> key;
    uint32_t region;
  };
  static constexpr uint64_t kSpace = uint64_t{0x5000} << 32;
  static constexpr uint64_t kMiddle = uint64_t{1} << 31;

  // Regions lie far apart, so that whatever is added to an address within reason stays with it.
  static uint64_t base_of(uint32_t region) { return kSpace + (uint64_t{region} << 32) + kMiddle; }
  [[nodiscard]] int64_t region_at(uint64_t address) const {
    const uint64_t index = (address - kSpace) >> 32;
    return address >= kSpace && index < regions_.size() ? static_cast<int64_t>(index) : -1;
  }
  uint32_t add_region(Region::Kind kind, uint32_t bytes, uint32_t map) {
    Region region;
    region.kind = kind;
    region.map = map;
    region.bytes.assign(bytes, 0);
    region.is_set.assign(bytes, 0);
    regions_.push_back(std::move(region));
    return static_cast<uint32_t>(regions_.size()) - 1;
  }

  uint64_t number() {
    static const uint64_t kOdd[] = {0,
                                    1,
                                    2,
                                    7,
                                    8,
                                    15,
                                    16,
                                    31,
                                    63,
                                    64,
                                    127,
                                    255,
                                    256,
                                    0x7fffffff,
                                    0x80000000,
                                    0xffffffff,
                                    0x100000000,
                                    INT64_MAX,
                                    0x8000000000000000u,
                                    ~uint64_t{0},
                                    ~uint64_t{0} - 7};
    switch (random_() % 4) {
      case 0:
        return random_();
      case 1:
        return random_() >> (random_() % 64);
      default:
        return kOdd[random_() % std::size(kOdd)];
    }
  }

  uint32_t add_value(uint32_t map) {
    const uint32_t region = add_region(Region::kValue, kShapes[map].value_bytes, map);
    for (uint8_t& byte : regions_[region].bytes) byte = static_cast<uint8_t>(number());
    regions_[region].fill();
    return region;
  }

  void make_maps() {
    for (uint32_t map = 0; map < std::size(kShapes); ++map) add_region(Region::kMap, 0, map);
    for (const uint32_t map : {2, 5, 6}) {
      for (uint32_t key = 0; key < kShapes[map].max_entries; ++key) {
        Entry entry;
        entry.key.resize(4);
        std::memcpy(entry.key.data(), &key, 4);
        entry.region = add_value(map);
        maps_[map].push_back(entry);
      }
    }
    Region& constants = regions_[maps_[6].front().region];
    std::memcpy(constants.bytes.data(), kConstants, sizeof kConstants);
    constants.is_writable = false;
    for (int i = 0; i < 2; ++i) {  // the map that lies in map 11
      Entry entry;
      entry.key.assign(4, 0);
      entry.key[0] = static_cast<uint8_t>(i);
      entry.region = add_value(12);
      maps_[12].push_back(entry);
    }
    for (int i = 0; i < 4; ++i) {
      Entry entry;
      entry.key.assign(4, 0);
      entry.key[0] = static_cast<uint8_t>(i);
      entry.region = add_value(1);
      maps_[1].push_back(entry);
    }
  }

  void fail(uint32_t slot, const std::string& what) {
    if (violation_.empty()) violation_ = std::to_string(slot) + ": " + what;
  }

  /// Bytes at an address, or null and a violation.
  uint8_t* touch(uint32_t slot, uint64_t address, uint64_t bytes, bool reads, bool writes) {
    const int64_t index = region_at(address);
    if (index < 0) return fail(slot, "touches memory of nobody"), nullptr;
    Region& region = regions_[static_cast<size_t>(index)];
    const auto off = static_cast<int64_t>(address - base_of(static_cast<uint32_t>(index)));
    if (!region.is_alive) return fail(slot, "touches a record that is gone"), nullptr;
    if (region.kind == Region::kMap) return fail(slot, "touches the inside of a map"), nullptr;
    if (off < 0 || off + static_cast<int64_t>(bytes) > static_cast<int64_t>(region.bytes.size())) {
      return fail(slot, "touches " + std::to_string(bytes) + " bytes at " + std::to_string(off) +
                            " of " + std::to_string(region.bytes.size())),
             nullptr;
    }
    const bool is_constant = region.kind == Region::kCtx || region.kind == Region::kKey;
    if (writes && (!region.is_writable || is_constant)) {
      return fail(slot, "writes what is constant"), nullptr;
    }
    for (uint64_t i = 0; i < bytes; ++i) {
      uint8_t& is_set = region.is_set[static_cast<size_t>(off) + i];
      if (reads && is_set == 0) return fail(slot, "reads what was never written"), nullptr;
      if (writes) is_set = 1;
    }
    return region.bytes.data() + off;
  }

  void check_claims(uint32_t slot, const uint64_t* regs) {
    if (claims_ == nullptr) return;
    const verify::Claims::AtSlot& at = claims_->slots[slot];
    if (!at.is_reached) return fail(slot, "is run and was said to be dead");
    for (uint32_t r = 0; r < verify::kRegs; ++r) {
      if (at.regs[r].is == verify::Claim::kOne && !is_claimed(at.regs[r], regs[r])) {
        char text[160];
        std::snprintf(text, sizeof text, "r%u is %#llx, claimed kind %d, %lld..%lld", r,
                      static_cast<unsigned long long>(regs[r]), static_cast<int>(at.regs[r].kind),
                      static_cast<long long>(at.regs[r].num.wide.smin),
                      static_cast<long long>(at.regs[r].num.wide.smax));
        fail(slot, text);
      }
    }
  }

  bool is_claimed(const verify::Claim& claim, uint64_t value) const {
    using verify::Kind;
    if (claim.kind == Kind::kNumber) return claim.num.contains(value);
    if (claim.kind == Kind::kFunction) return true;
    if (value == 0) return claim.maybe_null;
    // Offsets beyond the distance of regions cannot be told; the verifier may know of such.
    constexpr int64_t kFar = 1 << 30;
    if (claim.num.wide.smin < -kFar || claim.num.wide.smax > kFar) return true;
    const int64_t index = region_at(value);
    if (index < 0) return false;
    const Region& region = regions_[static_cast<size_t>(index)];
    uint64_t off = value - base_of(static_cast<uint32_t>(index));
    if (claim.kind == Kind::kStack) off -= region.bytes.size();
    if (!claim.num.contains(off)) return false;
    switch (claim.kind) {
      case Kind::kCtx:
        return region.kind == Region::kCtx;
      case Kind::kStack:
        return region.kind == Region::kStack;
      case Kind::kMap:
        return region.kind == Region::kMap && region.map == claim.map;
      case Kind::kMapValue:
        return region.kind == Region::kValue && region.map == claim.map &&
               region.bytes.size() == claim.bytes;
      case Kind::kRecord:
        return region.kind == Region::kRecord && region.is_alive;
      case Kind::kKey:
        return region.kind == Region::kKey;
      default:
        return true;
    }
  }

  // ---- instructions

  template <typename U>
  static U alu(const Insn& insn, U a, U b) {
    using S = std::make_signed_t<U>;
    constexpr U kMask = sizeof(U) * 8 - 1;
    const auto sa = static_cast<S>(a);
    const auto sb = static_cast<S>(b);
    switch (insn.op()) {
      case isa::kAdd:
        return a + b;
      case isa::kSub:
        return a - b;
      case isa::kMul:
        return a * b;
      case isa::kDiv:
        if (b == 0) return 0;
        if (insn.off == 0) return a / b;
        return sb == -1 ? U{0} - a : static_cast<U>(sa / sb);
      case isa::kMod:
        if (b == 0) return a;
        if (insn.off == 0) return a % b;
        return sb == -1 ? U{0} : static_cast<U>(sa % sb);
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
        return static_cast<U>(sa >> (b & kMask));
      case isa::kNeg:
        return U{0} - a;
      case isa::kMov:
        if (insn.off == 8) return static_cast<U>(static_cast<S>(static_cast<int8_t>(b)));
        if (insn.off == 16) return static_cast<U>(static_cast<S>(static_cast<int16_t>(b)));
        if (insn.off == 32) return static_cast<U>(static_cast<int32_t>(b));
        return b;
      default:
        return a;
    }
  }

  static uint64_t swap(const Insn& insn, uint64_t a) {
    const bool le = insn.opcode == isa::kOpLe;
    if (insn.imm == 16) {
      return le ? static_cast<uint16_t>(a) : __builtin_bswap16(static_cast<uint16_t>(a));
    }
    if (insn.imm == 32) {
      return le ? static_cast<uint32_t>(a) : __builtin_bswap32(static_cast<uint32_t>(a));
    }
    return le ? a : __builtin_bswap64(a);
  }

  template <typename U>
  static bool compare(uint8_t op, U a, U b) {
    using S = std::make_signed_t<U>;
    const auto sa = static_cast<S>(a);
    const auto sb = static_cast<S>(b);
    switch (op) {
      case isa::kJeq:
        return a == b;
      case isa::kJne:
        return a != b;
      case isa::kJgt:
        return a > b;
      case isa::kJge:
        return a >= b;
      case isa::kJlt:
        return a < b;
      case isa::kJle:
        return a <= b;
      case isa::kJset:
        return (a & b) != 0;
      case isa::kJsgt:
        return sa > sb;
      case isa::kJsge:
        return sa >= sb;
      case isa::kJslt:
        return sa < sb;
      default:
        return sa <= sb;
    }
  }

  void step_alu(const Insn& insn, uint64_t* regs) {
    uint64_t& dst = regs[insn.dst];
    if (insn.op() == isa::kEnd) {
      dst = swap(insn, dst);
      return;
    }
    const uint64_t b =
        insn.src_is_reg() ? regs[insn.src] : static_cast<uint64_t>(int64_t{insn.imm});
    dst = insn.cls() == isa::kAlu64
              ? alu<uint64_t>(insn, dst, b)
              : alu<uint32_t>(insn, static_cast<uint32_t>(dst), static_cast<uint32_t>(b));
  }

  void step_lddw(uint32_t slot, const Insn& insn, uint64_t* regs) {
    const Insn& second = flow_.insns[slot + 1];
    uint64_t& dst = regs[insn.dst];
    dst = isa::lddw_imm(insn, second);
    if (insn.src == isa::kPseudoFunc) dst = slot + 1 + static_cast<uint32_t>(insn.imm);
    if (insn.src == isa::kPseudoMapFd) dst = base_of(static_cast<uint32_t>(insn.imm));
    if (insn.src == isa::kPseudoMapValue) {
      dst = base_of(maps_[static_cast<uint32_t>(insn.imm)].front().region) +
            static_cast<uint32_t>(second.imm);
    }
  }

  void step_memory(uint32_t slot, const Insn& insn, uint64_t* regs) {
    const uint32_t bytes = insn.size_bytes();
    const auto off = static_cast<uint64_t>(int64_t{insn.off});
    if (insn.cls() == isa::kLdx) {
      const uint8_t* from = touch(slot, regs[insn.src] + off, bytes, true, false);
      if (from == nullptr) return;
      uint64_t value = 0;
      std::memcpy(&value, from, bytes);
      const int up = 64 - static_cast<int>(bytes) * 8;
      const bool sign = insn.mode() == isa::kModeMemsx;
      regs[insn.dst] =
          sign ? static_cast<uint64_t>(static_cast<int64_t>(value << up) >> up) : value;
      return;
    }
    if (insn.is_atomic()) return step_atomic(slot, insn, regs);
    uint8_t* to = touch(slot, regs[insn.dst] + off, bytes, false, true);
    if (to == nullptr) return;
    const uint64_t value =
        insn.cls() == isa::kStx ? regs[insn.src] : static_cast<uint64_t>(int64_t{insn.imm});
    std::memcpy(to, &value, bytes);
  }

  void step_atomic(uint32_t slot, const Insn& insn, uint64_t* regs) {
    const uint32_t bytes = insn.size_bytes();
    const uint64_t address = regs[insn.dst] + static_cast<uint64_t>(int64_t{insn.off});
    if (address % bytes != 0) return fail(slot, "an atomic operation that is not aligned");
    uint8_t* at = touch(slot, address, bytes, true, true);
    if (at == nullptr) return;
    uint64_t old = 0;
    std::memcpy(&old, at, bytes);
    const uint64_t mask = bytes == 8 ? ~uint64_t{0} : 0xffffffff;
    const uint64_t src = regs[insn.src] & mask;
    uint64_t value = old;
    const int32_t op = insn.imm & ~isa::kAtomicFetch;
    if (op == isa::kAdd) value = old + src;
    if (op == isa::kOr) value = old | src;
    if (op == isa::kAnd) value = old & src;
    if (op == isa::kXor) value = old ^ src;
    if (insn.imm == isa::kAtomicXchg) value = src;
    if (insn.imm == isa::kAtomicCmpxchg) {
      if (old == (regs[0] & mask)) value = src;
      regs[0] = old;
    } else if ((insn.imm & isa::kAtomicFetch) != 0) {
      regs[insn.src] = old;
    }
    std::memcpy(at, &value, bytes);
  }

  // ---- helpers: what they touch, and a result

  Entry* find(uint32_t map, const uint8_t* key) {
    for (Entry& entry : maps_[map]) {
      if (std::memcmp(entry.key.data(), key, entry.key.size()) == 0) return &entry;
    }
    return nullptr;
  }

  uint64_t help_map(uint32_t slot, uint32_t id, const uint64_t* r) {
    const int64_t index = region_at(r[1]);
    const bool is_map = index >= 0 && regions_[static_cast<size_t>(index)].kind == Region::kMap;
    if (!is_map) return fail(slot, "a helper gets no map"), 0;
    const uint32_t map = regions_[static_cast<size_t>(index)].map;
    const uint8_t* key = touch(slot, r[2], kShapes[map].key_bytes, true, false);
    if (key == nullptr || kShapes[map].key_bytes == 0) return fail(slot, "a map without keys"), 0;
    if (kShapes[map].inner != 0) {
      if (id != 1) fail(slot, "a map of maps is written");
      return random_() % 3 == 0 ? 0 : base_of(kShapes[map].inner);
    }
    const std::vector<uint8_t> copy(key, key + kShapes[map].key_bytes);
    Entry* entry = find(map, copy.data());
    if (id == 1) return entry != nullptr ? base_of(entry->region) : 0;
    if (id == 3) {
      if (map != 1 || entry == nullptr) return static_cast<uint64_t>(-2);
      maps_[map].erase(maps_[map].begin() + (entry - maps_[map].data()));
      return 0;  // the value stays readable: others may look at it
    }
    const uint8_t* value = touch(slot, r[3], kShapes[map].value_bytes, true, false);
    if (value == nullptr) return 0;
    const std::vector<uint8_t> bytes(value, value + kShapes[map].value_bytes);
    if (entry == nullptr) {
      if (map != 1) return static_cast<uint64_t>(-7);
      const uint32_t region = add_value(map);
      maps_[map].push_back({copy, region});
      entry = &maps_[map].back();
    }
    regions_[entry->region].bytes = bytes;
    return 0;
  }

  uint64_t help_queue(uint32_t slot, uint32_t id, const uint64_t* r) {
    const int64_t index = region_at(r[1]);
    const bool is_map = index >= 0 && regions_[static_cast<size_t>(index)].kind == Region::kMap;
    const uint32_t map = is_map ? regions_[static_cast<size_t>(index)].map : 0;
    if (map != 8 && map != 9) return fail(slot, "a helper gets no queue"), 0;
    if (map == 9 && id == 88) return fail(slot, "a filter gives nothing back"), 0;
    const bool reads = id == 87 || map == 9;
    uint8_t* value = touch(slot, r[2], kShapes[map].value_bytes, reads, !reads);
    for (uint32_t i = 0; value != nullptr && !reads && i < kShapes[map].value_bytes; ++i) {
      value[i] = static_cast<uint8_t>(number());
    }
    return random_() % 2 == 0 ? 0 : static_cast<uint64_t>(-2);
  }

  uint64_t help_read(uint32_t slot, uint32_t id, const uint64_t* r) {
    const auto size = static_cast<uint32_t>(r[2]);
    if (size == 0) return 0;
    uint8_t* to = touch(slot, r[1], size, false, true);
    if (to == nullptr) return 0;
    for (uint32_t i = 0; i < size; ++i) to[i] = static_cast<uint8_t>(number());
    if (id == 112) return random_() % 4 == 0 ? static_cast<uint64_t>(-14) : 0;
    return random_() % 4 == 0 ? static_cast<uint64_t>(-14) : 1 + random_() % size;
  }

  uint64_t help_record(uint32_t slot, uint32_t id, const uint64_t* r) {
    if (id == 131) {
      if (random_() % 4 == 0) return 0;
      const uint32_t region = add_region(Region::kRecord, static_cast<uint32_t>(r[2]), 3);
      regions_[region].fill();  // a ring's memory holds something
      ++held_;
      return base_of(region);
    }
    const int64_t index = region_at(r[1]);
    if (index < 0) return fail(slot, "gives back what is no record"), 0;
    Region& region = regions_[static_cast<size_t>(index)];
    const bool is_whole = r[1] == base_of(static_cast<uint32_t>(index));
    if (region.kind != Region::kRecord || !region.is_alive || !is_whole) {
      return fail(slot, "gives back what is no record"), 0;
    }
    region.is_alive = false;
    --held_;
    return number();
  }

  uint64_t help_loop(uint32_t slot, uint32_t id, const uint64_t* r, uint32_t depth) {
    const auto start = static_cast<uint32_t>(r[2]);
    const uint64_t rounds = id == 181 ? std::min<uint64_t>(r[1], 20) : maps_[1].size();
    const uint32_t held = held_;
    for (uint64_t i = 0; i < rounds && violation_.empty(); ++i) {
      uint64_t args[5] = {i, r[3], 0, 0, 0};
      if (id == 164) {
        if (i >= maps_[1].size()) break;
        const Entry entry = maps_[1][i];
        const uint32_t key = add_region(Region::kKey, 4, 1);
        std::memcpy(regions_[key].bytes.data(), entry.key.data(), 4);
        regions_[key].fill();
        args[0] = r[1];
        args[1] = base_of(key);
        args[2] = base_of(entry.region);
        args[3] = r[3];
      }
      const uint64_t result = call(start, args, depth + 1);
      if (held_ != held) fail(slot, "a callback kept or lost a record");
      if (result > 1) fail(slot, "a callback returned something else than 0 and 1");
      if (result != 0) return i + 1;
    }
    return rounds;
  }

  uint64_t help(uint32_t slot, uint32_t id, const uint64_t* r, uint32_t depth) {
    switch (id) {
      case 1:
      case 2:
      case 3:
        return help_map(slot, id, r);
      case 8:
        return random_() % 64;
      case 16:
        if (static_cast<uint32_t>(r[2]) == 0) fail(slot, "a size of zero");
        return help_read(slot, 112, r);
      case 112:
      case 114:
        return help_read(slot, id, r);
      case 87:
      case 88:
      case 89:
        return help_queue(slot, id, r);
      case 130:
        if (r[3] != 0) touch(slot, r[2], r[3], true, false);
        return 0;
      case 131:
      case 132:
      case 133:
        return help_record(slot, id, r);
      case 164:
      case 181:
        return help_loop(slot, id, r, depth);
      default:
        return number();
    }
  }

  /// Runs the function that begins at `start`; returns its r0.
  uint64_t call(uint32_t start, const uint64_t* args, uint32_t depth) {
    if (depth >= 8) return fail(start, "calls nest too deep"), 0;
    const uint32_t stack = add_region(Region::kStack, 512, 0);
    uint64_t regs[verify::kRegs];
    for (uint64_t& reg : regs) reg = number();  // what nobody has set holds anything
    for (int i = 0; i < 5; ++i) regs[i + 1] = args[i];
    regs[isa::kFrameReg] = base_of(stack) + 512;
    uint32_t slot = start;
    while (violation_.empty()) {
      if (++steps_ > kStepsMax) return fail(slot, "does not end"), 0;
      check_claims(slot, regs);
      const Insn& insn = flow_.insns[slot];
      uint32_t next = flow_.next(slot);
      if (insn.is_alu()) {
        step_alu(insn, regs);
      } else if (insn.is_lddw()) {
        step_lddw(slot, insn, regs);
      } else if (insn.is_exit()) {
        regions_[stack].is_alive = false;
        return regs[0];
      } else if (insn.is_call()) {
        const bpftime::CallTarget target = flow_.call_target(slot);
        regs[0] = target.is_helper ? help(slot, target.value, regs, depth)
                                   : call(target.value, regs + 1, depth + 1);
        for (int i = 1; i <= 5; ++i) regs[i] = number();
      } else if (insn.is_goto()) {
        next = flow_.jump_target(slot);
      } else if (insn.is_branch()) {
        const uint64_t b =
            insn.src_is_reg() ? regs[insn.src] : static_cast<uint64_t>(int64_t{insn.imm});
        const bool taken = insn.cls() == isa::kJmp
                               ? compare<uint64_t>(insn.op(), regs[insn.dst], b)
                               : compare<uint32_t>(insn.op(), static_cast<uint32_t>(regs[insn.dst]),
                                                   static_cast<uint32_t>(b));
        if (taken) next = flow_.jump_target(slot);
      } else {
        step_memory(slot, insn, regs);
      }
      slot = next;
    }
    return 0;
  }

  const Flow& flow_;
  const verify::Claims* claims_;
  std::mt19937_64 random_;
  std::vector<Region> regions_;
  std::map<uint32_t, std::vector<Entry>> maps_;
  std::string violation_;
  uint64_t steps_ = 0;
  uint32_t held_ = 0;
};

}  // namespace vmtest
