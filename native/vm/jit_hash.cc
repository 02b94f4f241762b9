// SPDX-License-Identifier: MIT
// Lookups in hash maps with keys of one word: what rt/hash.c does for the first element of a chain,
// which is the one in most cases. A longer chain, and one into which a reused element has led, is
// left to the helper, which begins again. Nothing but the hash, the geometry that the compiler
// knows and a check of the index is believed, as there.
#include <linux/bpf.h>

#include "jit_x86_64.h"
#include "rt/map.h"

namespace bpftime {

using x86::Alu;
using x86::Label;
using x86::Mem;
using x86::Shift;

namespace {

constexpr uint64_t kMultiplier = RT_HASH_MULTIPLIER;
constexpr int32_t kElemHash = offsetof(rt_elem, hash);
constexpr int32_t kElemKey = sizeof(rt_elem);
static_assert(sizeof(rt_bucket) == 16 && offsetof(rt_bucket, head) == 0);
static_assert(offsetof(rt_hash_ctl, seed) == 0);

}  // namespace

/// rax = address of the value, or 0. Clobbers what a call does, but for rsi.
void JitX86::compile_hash_lookup(const InlineLookup& lookup) {
  const MapGeometry& geometry = lookup.geometry;
  const uint32_t key_bytes = geometry.key_size;
  const Label slow = emit_.new_label();
  const Label end_of_chain = emit_.new_label();
  const Label done = emit_.new_label();
  const x86::Reg base = x86::kR11;
  const x86::Reg key = x86::kRdi;
  const x86::Reg bucket = x86::kRcx;
  const x86::Reg link = x86::kR8;
  const x86::Reg elem = x86::kR9;
  emit_.load_got(base, got_slot(GotKind::kMap, lookup.map_id, 0));
  emit_.load(base, Mem{base, offsetof(vm_map, base)}, 8);
  emit_.load(key, lookup.key_off ? Mem{x86::kRbp, *lookup.key_off} : Mem{x86::kRsi, 0}, key_bytes);
  // The hash, in eax.
  emit_.load(elem, Mem{base, 0}, 8);
  emit_.alu(Alu::kXor, elem, key, true);
  emit_.mov_imm(x86::kRax, kMultiplier);
  emit_.unary(x86::Unary::kMul, elem, true);
  emit_.alu(Alu::kXor, x86::kRax, x86::kRdx, false);
  // The first link of its chain.
  emit_.mov(bucket, x86::kRax, false);
  emit_.alu_imm(Alu::kAnd, bucket, static_cast<int32_t>(geometry.bucket_count - 1), false);
  emit_.mov(link, bucket, false);
  emit_.shift_imm(Shift::kShl, link, 4, true);
  emit_.load(link, Mem{base, static_cast<int32_t>(geometry.bucket_off), link, 1}, 4);
  emit_.lea(elem, Mem{link, -1}, false);
  emit_.alu_imm(Alu::kCmp, elem, static_cast<int32_t>(geometry.max_entries), false);
  emit_.jcc(x86::kAe, end_of_chain);
  // Its element: the one, or somebody else's.
  emit_.imul_imm(elem, elem, static_cast<int32_t>(geometry.elem_stride), true);
  emit_.lea(elem, Mem{base, static_cast<int32_t>(geometry.data_off), elem, 1}, true);
  emit_.alu_mem_reg(Alu::kCmp, Mem{elem, kElemHash}, x86::kRax, 4, false);
  emit_.jcc(x86::kNe, slow);
  emit_.alu_mem_reg(Alu::kCmp, Mem{elem, kElemKey}, key, key_bytes, false);
  emit_.jcc(x86::kNe, slow);
  emit_.lea(x86::kRax, Mem{elem, kElemKey + 8}, true);
  if (geometry.type == BPF_MAP_TYPE_PERCPU_HASH) {
    cpu_number(bucket);
    emit_.imul_imm(bucket, bucket, static_cast<int32_t>(geometry.value_stride), true);
    emit_.alu(Alu::kAdd, x86::kRax, bucket, true);
  }
  emit_.jmp(done);
  // No element, if this is how an empty chain looks, or one of this bucket ends.
  emit_.bind(end_of_chain);
  emit_.zero(x86::kRax);
  emit_.test(link, link, false);
  emit_.jcc(x86::kE, done);
  emit_.alu_imm(Alu::kOr, bucket, static_cast<int32_t>(RT_NULLS), false);
  emit_.alu(Alu::kCmp, link, bucket, false);
  emit_.jcc(x86::kNe, slow);
  emit_.bind(done);
  cold_lookups_.push_back({slow, done, lookup.map_id, lookup.key_off});
}

void JitX86::cold_lookups() {
  for (const ColdLookup& cold : cold_lookups_) {
    emit_.bind(cold.entry);
    emit_.load_got(x86::kRdi, got_slot(GotKind::kMap, cold.map_id, 0));
    if (cold.key_off) emit_.lea(x86::kRsi, Mem{x86::kRbp, *cold.key_off}, true);
    emit_.call_got(got_slot(GotKind::kHelper, BPF_FUNC_map_lookup_elem, 0));
    emit_.jmp(cold.back);
  }
  cold_lookups_.clear();
}

}  // namespace bpftime
