// SPDX-License-Identifier: MIT
// Compilation of calls: through the GOT, to functions of the program, and the few helpers that are
// inlined.
#include <linux/bpf.h>

#include "jit_x86_64.h"

namespace bpftime {

using namespace isa;
using x86::Alu;
using x86::Label;
using x86::Mem;
using x86::Shift;

namespace {

// IA32_TSC_AUX as Linux fills it: CPU in the low 12 bits, node above (arch/x86 VDSO_CPUNODE_MASK).
constexpr int32_t kTscAuxCpuMask = 0xfff;

bool is_null_check(const Insn* insn) {
  return insn != nullptr && insn->cls() == kJmp && (insn->op() == kJeq || insn->op() == kJne) &&
         !insn->src_is_reg() && insn->dst == 0 && insn->imm == 0;
}

}  // namespace

bool JitX86::is_inlined_helper(uint32_t id) const {
  return id == BPF_FUNC_get_smp_processor_id && options_.inline_helpers &&
         (options_.cpu_features & kCpuRdpid) != 0;
}

uint32_t JitX86::compile_call(uint32_t slot) {
  const InlineLookup* lookup = lookups_.at(slot);
  if (lookup != nullptr && lookup->is_hash) {
    compile_hash_lookup(*lookup);
    return 1;
  }
  if (lookup != nullptr) return compile_lookup(slot, *lookup);
  const CallTarget target = flow_.call_target(slot);
  if (is_tail_call(slot)) {
    compile_tail_call(slot);
  } else if (!target.is_helper) {
    emit_.call(function_labels_[flow_.subprog_of(target.value)]);
    leave_if_over();
  } else if (is_inlined_helper(target.value)) {
    cpu_number(x86::kRax);
  } else {
    emit_.call_got(got_slot(GotKind::kHelper, target.value, 0));
  }
  return 1;
}

void JitX86::cpu_number(Reg dst) {
  features_used_ |= kCpuRdpid;
  emit_.rdpid(dst);
  emit_.alu_imm(Alu::kAnd, dst, kTscAuxCpuMask, false);
}

/// rax = address of the value; the key is in r9 if it is not a constant and there is more than one.
void JitX86::lookup_value(const InlineLookup& lookup) {
  const MapGeometry& geometry = lookup.geometry;
  const uint32_t stride = geometry.value_stride;
  const uint64_t offset = lookup.key ? uint64_t{*lookup.key} * stride : 0;
  const uint32_t value_slot = got_slot(GotKind::kMapValue, lookup.map_id, offset);
  const bool is_indexed = !lookup.key && geometry.max_entries > 1;
  const bool is_power = (stride & (stride - 1)) == 0;
  if (is_indexed && !(is_power && stride <= 8)) {
    if (is_power) {
      emit_.shift_imm(Shift::kShl, x86::kR9, static_cast<uint8_t>(__builtin_ctz(stride)), true);
    } else {
      emit_.imul_imm(x86::kR9, x86::kR9, static_cast<int32_t>(stride), true);
    }
  }
  emit_.load_got(x86::kRax, value_slot);
  if (is_indexed) {
    const auto scale = static_cast<uint8_t>(is_power && stride <= 8 ? stride : 1);
    emit_.lea(x86::kRax, Mem{x86::kRax, 0, x86::kR9, scale}, true);
  }
  if (geometry.type != BPF_MAP_TYPE_PERCPU_ARRAY) return;
  cpu_number(x86::kR11);
  emit_.imul_imm(x86::kR11, x86::kR11, static_cast<int32_t>(geometry.elem_stride), true);
  emit_.alu(Alu::kAdd, x86::kRax, x86::kR11, true);
}

/// bpf_map_lookup_elem on an array, together with a null check of the result that follows it.
uint32_t JitX86::compile_lookup(uint32_t slot, const InlineLookup& lookup) {
  const Insn* next = follower(slot, 1);
  const bool has_check = is_null_check(next) && !options_.is_budgeted;
  const bool jumps_if_null = has_check && next->op() == kJeq;
  const uint32_t used = has_check ? 2 : 1;
  const uint32_t max_entries = lookup.geometry.max_entries;
  if (lookup.key) {
    const bool is_found = *lookup.key < max_entries;
    if (is_found) {
      lookup_value(lookup);
    } else {
      emit_.zero(x86::kRax);
    }
    const bool jumps = has_check && is_found != jumps_if_null;
    if (has_check) jump_to(slot + 1, jumps ? flow_.jump_target(slot + 1) : slot + 2);
    return used;
  }
  const Mem key = lookup.key_off ? Mem{x86::kRbp, *lookup.key_off} : Mem{x86::kRsi, 0};
  emit_.load(x86::kR9, key, 4);
  emit_.zero(x86::kRax);
  emit_.alu_imm(Alu::kCmp, x86::kR9, static_cast<int32_t>(max_entries), false);
  const Label done = emit_.new_label();
  emit_.jcc(x86::kAe, jumps_if_null ? label_of(flow_.jump_target(slot + 1)) : done);
  lookup_value(lookup);
  if (has_check && !jumps_if_null) emit_.jmp(label_of(flow_.jump_target(slot + 1)));
  emit_.bind(done);
  if (has_check) jump_to(slot + 1, slot + 2);
  return used;
}

}  // namespace bpftime
