// SPDX-License-Identifier: MIT
// Programs for the verifier's oracle: like those that people write (bounded indexes, null checks,
// records, loops, functions, callbacks), and a little wrong now and then. Maps: vm_verify_host.h.
#pragma once

#include <random>
#include <vector>

#include "vm/isa.h"

namespace vmtest {

class ProbeProgram {
 public:
  /// `mistakes`: of 100 places where a rule applies, how many break it.
  explicit ProbeProgram(uint64_t seed, uint32_t mistakes) : random_(seed), mistakes_(mistakes) {}

  std::vector<uint64_t> make() {
    has_callback_ = chance(4);
    has_function_ = chance(3);
    body(true);
    std::vector<uint32_t> functions;
    if (has_function_) {
      patch_calls(calls_);
      body(false);
    }
    if (has_callback_) {
      patch_calls(callbacks_);
      callback();
    }
    return std::move(slots_);
  }

 private:
  enum Kind : uint8_t {
    kUnset,
    kNumber,
    kSmall,
    kCtx,
    kStack,
    kValue,
    kMaybe,
    kRecord,
    kMaybeRecord
  };
  struct Reg {
    Kind kind = kUnset;
    int32_t off = 0;     // kStack: below r10; kValue, kRecord: from the beginning
    uint32_t bytes = 0;  // kSmall: below that; kValue, kRecord: size
  };

  uint32_t below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }
  bool chance(uint32_t n) { return below(n) == 0; }
  bool errs() { return below(100) < mistakes_; }

  uint32_t put(uint32_t opcode, uint32_t dst, uint32_t src, int32_t off, int64_t imm) {
    bpftime::isa::Insn insn{static_cast<uint8_t>(opcode), static_cast<uint8_t>(dst),
                            static_cast<uint8_t>(src), static_cast<int16_t>(off),
                            static_cast<int32_t>(imm)};
    slots_.push_back(bpftime::isa::encode(insn));
    return static_cast<uint32_t>(slots_.size()) - 1;
  }
  void lddw(uint32_t dst, uint32_t src, uint32_t low, uint32_t high) {
    put(0x18, dst, src, 0, static_cast<int32_t>(low));
    put(0, 0, 0, 0, static_cast<int32_t>(high));
  }
  void land(uint32_t branch) {  // the branch at `branch` leads here
    const auto off = static_cast<int16_t>(slots_.size() - branch - 1);
    slots_[branch] =
        (slots_[branch] & ~0xffff0000ull) | static_cast<uint64_t>(static_cast<uint16_t>(off)) << 16;
  }
  void patch_calls(const std::vector<uint32_t>& places) {
    for (const uint32_t place : places) {
      const auto target = static_cast<int32_t>(slots_.size() - place - 1);
      slots_[place] =
          (slots_[place] & 0xffffffff) | static_cast<uint64_t>(static_cast<uint32_t>(target)) << 32;
    }
  }

  int32_t odd_number() {
    static const int32_t kOdd[] = {0,  1,  -1, 2,   7,  8,         15,        16,  31,
                                   32, 63, 64, 255, -8, INT32_MAX, INT32_MIN, 4096};
    return chance(3) ? static_cast<int32_t>(random_()) : kOdd[below(std::size(kOdd))];
  }
  /// A register of that kind, or 10: there is none.
  uint32_t find(Kind kind) {
    const uint32_t from = below(10);
    for (uint32_t i = 0; i < 10; ++i) {
      if (regs_[(from + i) % 10].kind == kind) return (from + i) % 10;
    }
    return 10;
  }
  uint32_t any_number() {
    const uint32_t r = chance(2) ? find(kSmall) : find(kNumber);
    if (r < 10) return r;
    const uint32_t fresh = below(10);
    put(0xb7, fresh, 0, 0, odd_number());
    regs_[fresh] = {kNumber, 0, 0};
    return fresh;
  }
  uint32_t target() { return below(10); }
  void clobber() {
    for (uint32_t r = 1; r <= 5; ++r) regs_[r] = {};
  }

  // ---- one thing at a time

  void load_context() {
    uint32_t base = find(kCtx);
    if (base == 10) return;
    const uint32_t size = below(4);  // W H B DW
    static const uint32_t kOpcodes[] = {0x61, 0x69, 0x71, 0x79};
    static const uint32_t kBytes[] = {4, 2, 1, 8};
    const uint32_t dst = target();
    const uint32_t bytes = kBytes[size];
    const uint32_t count = errs() ? 200 : 168;
    put(kOpcodes[size], dst, base, static_cast<int32_t>(below(count / bytes) * bytes), 0);
    regs_[dst] = {kNumber, 0, 0};
    if (bytes == 1) regs_[dst] = {kSmall, 0, 256};
  }

  void move() {
    const uint32_t src = below(10);
    if (regs_[src].kind == kUnset) return;
    const uint32_t dst = target();
    const bool is_number = regs_[src].kind == kNumber || regs_[src].kind == kSmall;
    const bool wide = !is_number || !chance(3);
    put(wide ? 0xbf : 0xbc, dst, src, 0, 0);
    regs_[dst] = regs_[src];
  }

  void arithmetic() {
    static const uint32_t kOps[] = {0x00, 0x10, 0x20, 0x30, 0x40, 0x50,
                                    0x60, 0x70, 0x90, 0xa0, 0xc0, 0x80};
    const uint32_t dst = any_number();
    const uint32_t op = kOps[below(std::size(kOps))];
    const uint32_t cls = chance(2) ? 7 : 4;
    if (op == 0x80) {
      put(op | cls, dst, 0, 0, 0);
    } else if (chance(2)) {
      put(op | cls | 8, dst, any_number(), 0, 0);
    } else {
      int32_t imm = odd_number();
      if ((op == 0x30 || op == 0x90) && imm == 0) imm = 3;
      if (op == 0x60 || op == 0x70 || op == 0xc0) imm &= cls == 7 ? 63 : 31;
      put(op | cls, dst, 0, 0, imm);
    }
    regs_[dst] = {kNumber, 0, 0};
  }

  void bound() {
    const uint32_t r = any_number();
    static const uint32_t kSizes[] = {1, 2, 4, 8, 16, 32, 64};
    const uint32_t size = kSizes[below(7)];
    switch (below(4)) {
      case 0:
        put(chance(2) ? 0x57 : 0x54, r, 0, 0, static_cast<int32_t>(size - 1));
        break;
      case 1:
        put(0x97, r, 0, 0, static_cast<int32_t>(size));
        break;
      case 2:
        put(0x77, r, 0, 0, 64 - __builtin_ctz(size * 2) + 1);
        break;
      default: {  // if (r >= size) r = 0;
        const uint32_t branch = put(chance(3) ? 0xa6 : 0xa5, r, 0, 0, static_cast<int32_t>(size));
        put(0xb7, r, 0, 0, 0);
        land(branch);
        break;
      }
    }
    regs_[r] = {kSmall, 0, size};
  }

  void stack_store() {
    static const uint32_t kOpcodes[] = {0x7a, 0x62, 0x6a, 0x72};
    static const uint32_t kFromReg[] = {0x7b, 0x63, 0x6b, 0x73};
    static const int32_t kBytes[] = {8, 4, 2, 1};
    const uint32_t size = chance(2) ? 0 : below(4);
    const int32_t off =
        -static_cast<int32_t>(below(8) + 1) * 8 +
        static_cast<int32_t>(below(static_cast<uint32_t>(8 / kBytes[size]))) * kBytes[size];
    const uint32_t src = below(10);
    if (regs_[src].kind != kUnset && !chance(4)) {
      put(kFromReg[size], 10, src, off, 0);
      stored_[static_cast<uint32_t>(-off - 1) / 8] =
          kBytes[size] == 8 ? regs_[src] : Reg{kNumber, 0, 0};
    } else {
      put(kOpcodes[size], 10, 0, off, odd_number());
      stored_[static_cast<uint32_t>(-off - 1) / 8] = {kNumber, 0, 0};
    }
  }

  void stack_load() {
    const uint32_t slot = below(8);
    if (stored_[slot].kind == kUnset && !errs()) return;
    const uint32_t dst = target();
    static const uint32_t kOpcodes[] = {0x79, 0x61, 0x71, 0x81};
    const uint32_t size = chance(3) ? 1 + below(3) : 0;
    put(kOpcodes[size], dst, 10, -static_cast<int32_t>(slot + 1) * 8, 0);
    regs_[dst] = size == 0 && stored_[slot].kind != kUnset ? stored_[slot] : Reg{kNumber, 0, 0};
  }

  void clear_stack() {
    const uint32_t from = below(6);
    for (uint32_t i = from; i < from + 3; ++i) {
      put(0x7a, 10, 0, -static_cast<int32_t>(i + 1) * 8, chance(2) ? 0 : odd_number());
      stored_[i] = {kNumber, 0, 0};
    }
  }

  void branch(uint32_t depth) {
    static const uint32_t kOps[] = {0x10, 0x20, 0x30, 0x40, 0x50, 0x60,
                                    0x70, 0xa0, 0xb0, 0xc0, 0xd0};
    const uint32_t op = kOps[below(std::size(kOps))];
    const uint32_t cls = chance(2) ? 5 : 6;
    const uint32_t left = any_number();
    const uint32_t place = chance(2) ? put(op | cls | 8, left, any_number(), 0, 0)
                                     : put(op | cls, left, 0, 0, odd_number());
    const Reg before[10] = {regs_[0], regs_[1], regs_[2], regs_[3], regs_[4],
                            regs_[5], regs_[6], regs_[7], regs_[8], regs_[9]};
    steps(1 + below(4), depth + 1);
    uint32_t other = 0;
    const bool has_else = chance(3);
    if (has_else) other = put(0x05, 0, 0, 0, 0);
    land(place);
    Reg after[10];
    for (uint32_t r = 0; r < 10; ++r) after[r] = regs_[r];
    for (uint32_t r = 0; r < 10; ++r) regs_[r] = before[r];
    if (has_else) {
      steps(1 + below(3), depth + 1);
      land(other);
    }
    for (uint32_t r = 0; r < 10; ++r) {
      const bool same = regs_[r].kind == after[r].kind && regs_[r].off == after[r].off;
      if (!same && !errs()) regs_[r] = {};
      regs_[r].bytes = std::max(regs_[r].bytes, after[r].bytes);
    }
  }

  void lookup() {
    const uint32_t kMap[] = {1, 2, 5};
    const uint32_t kValueBytes[] = {16, 64, 8};
    const uint32_t which = below(3);
    if (chance(2)) {
      put(0x62, 10, 0, -4, static_cast<int32_t>(below(6)));
    } else {
      put(0x63, 10, any_number(), -4, 0);
    }
    stored_[0] = {};
    put(0xbf, 2, 10, 0, 0);
    put(0x07, 2, 0, 0, errs() ? -2 : -4);
    lddw(1, 1, kMap[which], 0);
    put(0x85, 0, 0, 0, 1);
    clobber();
    regs_[0] = {kMaybe, 0, kValueBytes[which]};
    if (chance(3)) {
      const uint32_t copy = 6 + below(4);
      put(0xbf, copy, 0, 0, 0);
      regs_[copy] = regs_[0];
    }
    if (!errs()) {
      check_null(0);
    } else if (chance(2)) {
      regs_[0].kind = kValue;
    }
  }

  /// A value of a map that lies in a map.
  void nested_lookup() {
    put(0x62, 10, 0, -4, static_cast<int32_t>(below(6)));
    stored_[0] = {};
    put(0xbf, 2, 10, 0, 0);
    put(0x07, 2, 0, 0, -4);
    lddw(1, 1, 11, 0);
    put(0x85, 0, 0, 0, 1);
    if (!errs()) {
      const uint32_t place = put(0x55, 0, 0, 0, 0);
      put(0xb7, 0, 0, 0, 0);
      put(0x95, 0, 0, 0, 0);  // with a record in hand: caught by the verifier
      land(place);
    }
    if (errs()) put(0x79, 3, 0, 0, 0);  // a map is no memory
    put(0xbf, 1, 0, 0, 0);
    put(0xbf, 2, 10, 0, 0);
    put(0x07, 2, 0, 0, -4);
    put(0x85, 0, 0, 0, 1);
    clobber();
    regs_[0] = {kMaybe, 0, 8};
    if (!errs()) check_null(0);
  }

  /// A queue, or a bloom filter, which is asked for what it is given.
  void queue_operation() {
    const bool is_queue = chance(2);
    const uint32_t id = 87 + below(is_queue ? 3 : 2) * (is_queue ? 1 : 2);
    const auto at = static_cast<int32_t>(1 + below(8));
    const bool reads = id == 87 || !is_queue;
    if (reads && !errs()) put(0x7a, 10, 0, -8 * at, odd_number());
    put(0xbf, 2, 10, 0, 0);
    put(0x07, 2, 0, 0, -8 * at + (errs() ? 4 : 0));
    put(0xb7, 3, 0, 0, 0);
    lddw(1, 1, is_queue ? 8 : 9, 0);
    put(0x85, 0, 0, 0, static_cast<int32_t>(id));
    clobber();
    stored_[at - 1] = {kNumber, 0, 0};
    regs_[0] = {kNumber, 0, 0};
  }

  /// if (r == 0) r = something of that size;
  void check_null(uint32_t r) {
    const uint32_t bytes = regs_[r].bytes;
    if (regs_[r].kind == kMaybeRecord) return;
    const uint32_t place = put(0x55, r, 0, 0, 0);
    if (chance(2)) {
      put(0xb7, 0, 0, 0, 0);
      put(0x95, 0, 0, 0, 0);
      if (holding_) return land(place);  // caught by the verifier
    } else {
      lddw(r, 2, 2, 0);
    }
    land(place);
    regs_[r] = {kValue, 0, bytes};
  }

  void direct_value() {
    const uint32_t dst = target();
    const uint32_t off = below(8) * 8;
    const bool constant = chance(5);
    lddw(dst, 2, constant ? 6 : 2, constant ? off & 8 : off);
    regs_[dst] = {kValue, static_cast<int32_t>(constant ? off & 8 : off), constant ? 16u : 64u};
  }

  void index_pointer() {
    const uint32_t p = chance(2) ? find(kValue) : find(kStack);
    if (p == 10) return;
    const uint32_t n = find(kSmall);
    if (n == 10 || n == p) return bound();
    put(chance(8) ? 0x1f : 0x0f, p, n, 0, 0);
    regs_[p].bytes = regs_[p].bytes > regs_[n].bytes ? regs_[p].bytes - regs_[n].bytes : 1;
  }

  void use_memory() {
    uint32_t p = find(kValue);
    if (p == 10 || chance(4)) p = find(kRecord);
    if (p == 10) return direct_value();
    static const uint32_t kLoads[] = {0x79, 0x61, 0x69, 0x71, 0x91};
    static const uint32_t kStores[] = {0x7b, 0x63, 0x6b, 0x73};
    static const uint32_t kBytes[] = {8, 4, 2, 1, 1};
    const uint32_t size = below(5);
    const Reg& reg = regs_[p];
    const auto room =
        static_cast<int32_t>(reg.bytes) - reg.off - static_cast<int32_t>(kBytes[size]);
    int32_t off = room > 0 ? static_cast<int32_t>(below(static_cast<uint32_t>(room) + 1)) : 0;
    if (errs()) off += static_cast<int32_t>(below(8));
    if (size == 4 || chance(2)) {
      const uint32_t dst = target();
      put(kLoads[size], dst, p, off, 0);
      regs_[dst] = {kNumber, 0, 0};
    } else if (size < 2 && chance(3)) {
      static const int32_t kAtomics[] = {0x00, 0x01, 0x40, 0x51, 0xa1, 0xe1, 0xf1};
      const uint32_t src = any_number();
      if (regs_[0].kind == kUnset) put(0xb7, 0, 0, 0, 1);
      put(size == 0 ? 0xdb : 0xc3, p, src, off & -8, kAtomics[below(7)]);
      if (p != 0) regs_[0] = {kNumber, 0, 0};
      regs_[src] = {kNumber, 0, 0};
    } else {
      put(kStores[size], p, any_number(), off, 0);
    }
  }

  void make_stack_pointer() {
    const uint32_t dst = 6 + below(4);
    const int32_t off = -static_cast<int32_t>(1 + below(8)) * 8;
    put(0xbf, dst, 10, 0, 0);
    put(0x07, dst, 0, 0, off);
    regs_[dst] = {kStack, off, static_cast<uint32_t>(-off)};
  }

  void use_stack_pointer() {
    const uint32_t p = find(kStack);
    if (p == 10) return make_stack_pointer();
    const uint32_t dst = target();
    if (chance(2)) {
      put(chance(2) ? 0x79 : 0x71, dst, p, 0, 0);
      regs_[dst] = {kNumber, 0, 0};
    } else {
      put(chance(2) ? 0x7b : 0x73, p, any_number(), 0, 0);
    }
  }

  void probe_read() {
    put(0xb7, 3, 0, 0, 4096);
    const uint32_t small = find(kSmall);
    const bool variable = small < 10 && chance(2);
    if (variable) put(0xbf, 2, small, 0, 0);
    uint32_t size = 8 * (1 + below(4));
    if (!variable) put(0xb7, 2, 0, 0, static_cast<int32_t>(size));
    if (chance(2)) {
      lddw(1, 2, 2, 0);
    } else {
      const uint32_t slots = variable ? 8 : size / 8;
      const uint32_t from = slots + below(9 - slots);
      put(0xbf, 1, 10, 0, 0);
      put(0x07, 1, 0, 0, -static_cast<int32_t>(from) * 8 + (errs() ? 4 : 0));
      for (uint32_t i = 0; i < slots; ++i) stored_[from - 1 - i] = {kNumber, 0, 0};
    }
    const uint32_t id = chance(2) ? 112 : chance(4) ? 16 : 114;
    put(0x85, 0, 0, 0, static_cast<int32_t>(id));
    clobber();
    regs_[0] = {kNumber, 0, 0};
  }

  void reserve() {
    if (holding_ && !errs()) return submit();
    lddw(1, 1, 3, 0);
    const uint32_t bytes = 8 * (1 + below(4));
    put(0xb7, 2, 0, 0, static_cast<int32_t>(bytes));
    put(0xb7, 3, 0, 0, 0);
    put(0x85, 0, 0, 0, 131);
    clobber();
    const uint32_t place = put(0x55, 0, 0, 0, 0);
    put(0xb7, 0, 0, 0, 0);
    put(0x95, 0, 0, 0, 0);
    land(place);
    const uint32_t keep = 6 + below(4);
    put(0xbf, keep, 0, 0, 0);
    regs_[0] = {kNumber, 0, 0};
    put(0xb7, 0, 0, 0, 0);
    regs_[keep] = {kRecord, 0, bytes};
    holding_ = true;
  }

  void submit() {
    const uint32_t r = find(kRecord);
    if (r == 10) return;
    put(0xbf, 1, r, 0, 0);
    put(0xb7, 2, 0, 0, 0);
    put(0x85, 0, 0, 0, chance(2) ? 132 : 133);
    clobber();
    regs_[0] = {};
    for (Reg& reg : regs_) {
      if (reg.kind == kRecord && !errs()) reg = {};
    }
    for (Reg& reg : stored_) {
      if (reg.kind == kRecord) reg = {};
    }
    if (!errs()) holding_ = false;
  }

  void loop(uint32_t depth) {
    const uint32_t counter = 6 + below(4);
    if (holding_ || depth > 1) return;
    put(0xb7, counter, 0, 0, 0);
    regs_[counter] = {kSmall, 0, 16};
    const auto head = static_cast<int32_t>(slots_.size());
    const Reg before[10] = {regs_[0], regs_[1], regs_[2], regs_[3], regs_[4],
                            regs_[5], regs_[6], regs_[7], regs_[8], regs_[9]};
    steps(1 + below(4), depth + 2);
    if (regs_[counter].kind != kSmall && !errs()) put(0xb7, counter, 0, 0, 8);
    put(0x07, counter, 0, 0, 1);
    put(chance(3) ? 0xa6 : 0xa5, counter, 0, head - static_cast<int32_t>(slots_.size()) - 1,
        static_cast<int32_t>(2 + below(14)));
    for (uint32_t r = 0; r < 10; ++r) {
      if (before[r].kind != regs_[r].kind || before[r].off != regs_[r].off) regs_[r] = {};
    }
    regs_[counter] = {kNumber, 0, 0};
  }

  void call_function() {
    if (!has_function_ || !is_main_) return;
    const uint32_t n = any_number();
    put(0xbf, 1, n, 0, 0);
    make_argument(2);
    calls_.push_back(put(0x85, 0, 1, 0, 0));
    clobber();
    regs_[0] = {kNumber, 0, 0};
  }
  void make_argument(uint32_t r) {
    put(0x7a, 10, 0, -8, 1);
    put(0xbf, r, 10, 0, 0);
    put(0x07, r, 0, 0, -8);
    stored_[0] = {kNumber, 0, 0};
  }
  void call_loop() {
    if (!has_callback_ || !is_main_ || (holding_ && !errs())) return;
    put(0xb7, 1, 0, 0, static_cast<int32_t>(below(12)));
    const auto place = static_cast<uint32_t>(slots_.size());
    lddw(2, 4, 0, 0);
    callbacks_.push_back(place);
    make_argument(3);
    put(0xb7, 4, 0, 0, 0);
    put(0x85, 0, 0, 0, 181);
    clobber();
    regs_[0] = {kNumber, 0, 0};
  }

  // ---- shapes in which a verifier is easily wrong

  /// r8, in 0..63 or so it is hoped, as index.
  void index_by_r8(uint32_t off) {
    const uint32_t p = 9;
    lddw(p, 2, 2, off);
    put(0x0f, p, 8, 0, 0);
    put(0x71, 0, p, 0, 0);
    regs_[p] = regs_[8] = {};
    regs_[0] = {kNumber, 0, 0};
  }

  /// A copy is used where the other copy was compared; on one path it is no copy.
  void copy_or_not() {
    const uint32_t base = find(kCtx);
    if (base != 6) return;
    put(0x79, 7, 6, 8, 0);
    put(0x79, 8, 6, 16, 0);
    put(0x79, 0, 6, 24, 0);
    const uint32_t place = put(0x55, 0, 0, 0, 7);
    put(0xbf, 8, 7, 0, 0);
    if (!errs()) {
      const uint32_t other = put(0x05, 0, 0, 0, 0);
      land(place);
      put(0xbf, 7, 8, 0, 0);
      land(other);
    } else {
      land(place);
    }
    for (uint32_t i = 0; i < 8; ++i) put(0x7a, 10, 0, -8 * static_cast<int32_t>(i + 1), 0);
    for (Reg& reg : stored_) reg = {kNumber, 0, 0};
    put(0xb7, 0, 0, 0, 0);
    const uint32_t skip = put(0x25, 7, 0, 0, 63);
    index_by_r8(0);
    land(skip);
    regs_[7] = {};
  }

  /// A bounded number is spilled, and a byte of it is overwritten.
  void spoiled_spill() {
    const uint32_t n = find(kSmall);
    if (n == 10) return;
    put(0x7b, 10, n, -16, 0);
    put(0x72, 10, 0, errs() ? -15 : -24, 77);
    put(0x79, 8, 10, -16, 0);
    stored_[1] = {};
    index_by_r8(0);
  }

  /// What a callback counted is an index.
  void counted_index() {
    if (!has_callback_ || !is_main_ || holding_) return;
    call_loop();
    put(0x79, 8, 10, -8, 0);
    if (!errs()) put(0x57, 8, 0, 0, 7);
    index_by_r8(56);
  }

  void trap() {
    switch (below(3)) {
      case 0:
        return copy_or_not();
      case 1:
        return spoiled_spill();
      default:
        return counted_index();
    }
  }

  void steps(uint32_t count, uint32_t depth) {
    for (uint32_t i = 0; i < count && slots_.size() < 400; ++i) one(depth);
  }

  void one(uint32_t depth) {
    switch (below(26)) {
      case 0:
        return load_context();
      case 1:
        return move();
      case 2:
      case 3:
        return arithmetic();
      case 4:
      case 5:
        return bound();
      case 6:
      case 7:
        return stack_store();
      case 8:
        return stack_load();
      case 9:
        return clear_stack();
      case 10:
      case 11:
        return depth < 3 ? branch(depth) : bound();
      case 12:
        return chance(4) ? nested_lookup() : lookup();
      case 13:
        return direct_value();
      case 14:
      case 15:
        return index_pointer();
      case 16:
      case 17:
        return use_memory();
      case 18:
        return use_stack_pointer();
      case 19:
        return chance(3) ? queue_operation() : probe_read();
      case 20:
        return depth == 0 ? reserve() : use_memory();
      case 21:
        return loop(depth);
      case 22:
        return call_function();
      case 23:
        return depth == 0 ? trap() : bound();
      default:
        return call_loop();
    }
  }

  void body(bool is_main) {
    is_main_ = is_main;
    holding_ = false;
    for (Reg& reg : regs_) reg = {};
    for (Reg& reg : stored_) reg = {};
    if (is_main) {
      put(0xbf, 6, 1, 0, 0);
      regs_[6] = regs_[1] = {kCtx, 0, 0};
    } else {
      regs_[1] = {kNumber, 0, 0};
      put(0xbf, 6, 2, 0, 0);
      regs_[6] = {kNumber, 0, 0};  // a stack pointer of the caller's: loaded through at times
      put(0x79, 2, 6, 0, 0);
      regs_[2] = {kNumber, 0, 0};
      regs_[6] = {};
    }
    steps(is_main ? 8 + below(25) : 3 + below(8), 0);
    if (holding_ && !errs()) submit();
    if (chance(2) && regs_[0].kind == kNumber) {
      put(0x95, 0, 0, 0, 0);
    } else {
      put(0xb7, 0, 0, 0, odd_number());
      put(0x95, 0, 0, 0, 0);
    }
  }

  void callback() {  // r1 number, r2 eight bytes of the caller's stack
    for (Reg& reg : regs_) reg = {};
    is_main_ = false;
    put(0x79, 3, 2, 0, 0);
    if (chance(2)) put(0x07, 3, 0, 0, 1 + static_cast<int32_t>(below(3)));
    if (chance(3)) put(0x57, 3, 0, 0, 63);
    put(0x7b, 2, 3, 0, 0);
    if (chance(2)) {
      put(0x57, 1, 0, 0, 63);
      lddw(4, 2, 2, 0);
      put(0x0f, 4, chance(3) ? 3 : 1, 0, 0);
      put(0x71, 5, 4, 0, 0);
    }
    put(0xb7, 0, 0, 0, errs() ? 2 : static_cast<int32_t>(below(2)));
    put(0x95, 0, 0, 0, 0);
  }

  std::mt19937_64 random_;
  uint32_t mistakes_;
  std::vector<uint64_t> slots_;
  Reg regs_[10];
  Reg stored_[8];
  std::vector<uint32_t> calls_;
  std::vector<uint32_t> callbacks_;
  bool has_function_ = false;
  bool has_callback_ = false;
  bool is_main_ = true;
  bool holding_ = false;
};

}  // namespace vmtest
