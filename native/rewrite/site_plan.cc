// SPDX-License-Identifier: MIT
#include "site_plan.h"

#include <Zydis/Zydis.h>

#include <algorithm>
#include <cstring>

#include "emit.h"
#include "padding.h"

namespace bpftime::rewrite {

namespace {

constexpr uint32_t kShortBytes = 2;  // eb rel8
constexpr uint8_t kEndbr64[4] = {0xf3, 0x0f, 0x1e, 0xfa};

// Grows the window instruction by instruction until a jump fits.
Result<SitePlan> grow_window(const FunctionView& function, SitePlan plan) {
  const uint32_t begin = static_cast<uint32_t>(plan.site - function.addr);
  uint32_t off = begin;
  bool ended = false;
  while (off - begin < kJumpBytes) {
    const Insn* insn = function.at(off);
    if (insn == nullptr) {
      if (off >= function.size && ended) {
        if (off - begin + padding_behind(function) >= kJumpBytes) break;
        return fail(EOPNOTSUPP, "the function is shorter than a jump and no padding follows it");
      }
      if (off < function.size && ended) {
        return fail(EOPNOTSUPP, "other code follows the exit in the first five bytes");
      }
      return fail(EOPNOTSUPP, "the bytes cannot be decoded");
    }
    if (ended) return fail(EOPNOTSUPP, "other code follows the exit in the first five bytes");
    if (insn->is_trap) return fail(EBUSY, "a breakpoint is set there by somebody else");
    plan.count += 1;
    off += insn->len;
    ended = insn->ends_flow;
  }
  plan.window = std::max(off - begin, kJumpBytes);
  plan.falls_through = !ended;
  return plan;
}

// Can control come to an instruction inside (begin, end) other than by the one before it?
Result<void> check_inside(const FunctionView& function, uint64_t begin, uint64_t end) {
  if (function.decoded_end < function.size) {
    return fail(EOPNOTSUPP, "part of the function cannot be decoded, so a branch may be hidden");
  }
  const auto it =
      std::upper_bound(function.branch_targets.begin(), function.branch_targets.end(), begin);
  if (it != function.branch_targets.end() && *it < end) {
    return fail(EOPNOTSUPP, "a branch of the function goes into the first bytes");
  }
  if (function.has_unknown_jump) {
    return fail(EOPNOTSUPP, "a jump table of the function could not be read");
  }
  return {};
}

struct OneInsn {
  ZydisDecodedInstruction insn;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};

// The copy's address of a branch target: inside the window it moves along.
uint64_t moved_target(uint64_t target, const SitePlan& plan, uint64_t dest,
                      const std::vector<PcPair>& map, bool* later) {
  *later = false;
  if (target < plan.site || target >= plan.site + plan.window) return target;
  // A loop that lies wholly inside the window stays inside the copy.
  const uint32_t old_off = static_cast<uint32_t>(target - plan.site);
  for (const PcPair& pair : map) {
    if (pair.old_off == old_off) return dest + pair.new_off;
  }
  *later = true;
  return target;
}

// Pushes the original return address from where put_return_addr() will leave it. The call over one
// byte is for the processor, which counts calls and returns to predict where returns lead: without
// it not only this one but those of all callers are mispredicted (eight of them: 49 ns, not 9).
// Neither a register nor a flag changes.
uint32_t emit_push_return(CodeBuffer* out) {
  out->put({0xe8, 0x01, 0x00, 0x00, 0x00, 0xcc});  // call over the trap
  out->put({0x48, 0x8d, 0x64, 0x24, 0x08});        // lea rsp, [rsp + 8]
  out->put({0xff, 0x35});                          // push qword [rip + ...]
  return out->put_rel32_later();
}
void put_return_addr(CodeBuffer* out, uint32_t at, uint64_t return_addr) {
  out->bind(at, out->here());
  out->put_u64(return_addr);
}

void emit_call_as_push_jump(CodeBuffer* out, uint64_t return_addr, uint64_t target) {
  const uint32_t at = emit_push_return(out);
  out->jmp(target);
  put_return_addr(out, at, return_addr);
}

// A copied indirect call would leave the copy's address on the stack, which no unwinder knows:
// push the original return address and jump through the same operand.
Result<void> emit_indirect_call(CodeBuffer* out, const OneInsn& one, const uint8_t* bytes,
                                uint64_t addr, uint64_t window_end) {
  const uint64_t return_addr = addr + one.insn.length;
  if (return_addr != window_end) {
    return fail(EOPNOTSUPP, "an indirect call in the first bytes returns into them");
  }
  const ZydisDecodedOperand& op = one.operands[0];
  const bool memory = op.type == ZYDIS_OPERAND_TYPE_MEMORY;
  if ((memory && (op.mem.base == ZYDIS_REGISTER_RSP || op.mem.index == ZYDIS_REGISTER_RSP)) ||
      (!memory && op.reg.value == ZYDIS_REGISTER_RSP) || one.insn.opcode != 0xff) {
    return fail(EOPNOTSUPP, "an indirect call through the stack pointer cannot be moved");
  }
  const uint32_t at = emit_push_return(out);
  const uint32_t modrm_at = one.insn.raw.modrm.offset;
  const uint8_t modrm = static_cast<uint8_t>((bytes[modrm_at] & ~0x38) | (4 << 3));  // ff /2 -> /4
  out->put_bytes(bytes, modrm_at);
  out->put({modrm});
  if (memory && op.mem.base == ZYDIS_REGISTER_RIP) {
    out->put_rel32(return_addr + static_cast<uint64_t>(op.mem.disp.value));
  } else {
    out->put_bytes(bytes + modrm_at + 1, one.insn.length - modrm_at - 1u);
  }
  put_return_addr(out, at, return_addr);
  return {};
}

// loop/loope/loopne/jrcxz have no rel32 form: branch over a jump.
void emit_short_only(CodeBuffer* out, const uint8_t* bytes, uint32_t len, uint64_t target) {
  out->put_bytes(bytes, len - 1);
  out->put({0x02});        // taken: to the long jump
  out->put({0xeb, 0x05});  // not taken: over it
  out->jmp(target);
}

bool is_short_only(ZydisMnemonic mnemonic) {
  return mnemonic == ZYDIS_MNEMONIC_LOOP || mnemonic == ZYDIS_MNEMONIC_LOOPE ||
         mnemonic == ZYDIS_MNEMONIC_LOOPNE || mnemonic == ZYDIS_MNEMONIC_JRCXZ ||
         mnemonic == ZYDIS_MNEMONIC_JECXZ;
}

void emit_branch(CodeBuffer* out, const OneInsn& one, const uint8_t* bytes, uint64_t target) {
  const ZydisMnemonic mnemonic = one.insn.mnemonic;
  if (is_short_only(mnemonic)) {
    emit_short_only(out, bytes, one.insn.length, target);
  } else if (mnemonic == ZYDIS_MNEMONIC_JMP) {
    out->jmp(target);
  } else {
    out->put({0x0f, 0x80 | (one.insn.opcode & 0x0f)});
    out->put_rel32(target);
  }
}

bool emit_rip_relative(CodeBuffer* out, const OneInsn& one, const uint8_t* bytes, uint64_t addr) {
  const auto& disp = one.insn.raw.disp;
  if (disp.size != 32) return false;
  const uint64_t target = addr + one.insn.length + static_cast<uint64_t>(disp.value);
  out->put_bytes(bytes, disp.offset);
  const uint32_t tail = one.insn.length - disp.offset - 4u;
  out->put_rel32(target, tail);
  out->put_bytes(bytes + disp.offset + 4, tail);
  return true;
}

bool uses_rip(const OneInsn& one) { return (one.insn.attributes & ZYDIS_ATTRIB_IS_RELATIVE) != 0; }

bool decode_at(const FunctionView& function, uint32_t off, OneInsn* one) {
  static const ZydisDecoder decoder = [] {
    ZydisDecoder d;
    ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    return d;
  }();
  return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, function.bytes.data() + off,
                                             function.bytes.size() - off, &one->insn,
                                             one->operands));
}

Result<void> emit_one(const FunctionView& function, const SitePlan& plan, const Insn& insn,
                      uint64_t dest, const std::vector<PcPair>& map, CodeBuffer* out) {
  OneInsn one;
  if (!decode_at(function, insn.off, &one)) return fail(EOPNOTSUPP, "the bytes cannot be decoded");
  const uint8_t* bytes = function.bytes.data() + insn.off;
  const uint64_t addr = function.addr + insn.off;
  if (one.insn.mnemonic == ZYDIS_MNEMONIC_XBEGIN) {
    return fail(EOPNOTSUPP, "xbegin cannot be moved");
  }
  if (insn.branch_target != 0) {
    bool later = false;
    const uint64_t target = moved_target(insn.branch_target, plan, dest, map, &later);
    if (later) return fail(EOPNOTSUPP, "a branch inside the first bytes goes forward within them");
    if (insn.is_call) {
      emit_call_as_push_jump(out, addr + insn.len, target);
    } else {
      emit_branch(out, one, bytes, target);
    }
  } else if (insn.is_call) {
    return emit_indirect_call(out, one, bytes, addr, plan.site + plan.window);
  } else if (uses_rip(one)) {
    if (!emit_rip_relative(out, one, bytes, addr)) {
      return fail(EOPNOTSUPP, "a 16-bit relative operand cannot be moved");
    }
  } else {
    out->put_bytes(bytes, insn.len);
  }
  return {};
}

}  // namespace

namespace {

// The site alone, without a window.
Result<SitePlan> plan_start(const FunctionView& function, uint64_t addr) {
  SitePlan plan;
  plan.at_entry = addr == function.addr;
  plan.site = addr;
  if (plan.at_entry && function.bytes.size() >= 4 &&
      memcmp(function.bytes.data(), kEndbr64, 4) == 0) {
    plan.site += 4;
  }
  if (plan.site < function.addr || plan.site - function.addr >= function.size) {
    return fail(EINVAL, "the address is not inside the function");
  }
  const uint32_t off = static_cast<uint32_t>(plan.site - function.addr);
  const Insn* insn = function.at(off);
  if (insn == nullptr) return fail(EINVAL, "the address is not the start of an instruction");
  plan.first = static_cast<uint32_t>(insn - function.insns.data());
  const auto& targets = function.branch_targets;
  // What cannot be seen may lead there, too.
  plan.loops_to_site = std::binary_search(targets.begin(), targets.end(), plan.site) ||
                       std::binary_search(targets.begin(), targets.end(), function.addr) ||
                       function.has_unknown_jump || function.decoded_end < function.size;
  return plan;
}

// As many whole instructions as have at least `least` and at most `most` bytes and that control
// enters at the first only; count 0 when there are none.
SitePlan small_window(const FunctionView& function, SitePlan plan, uint32_t least, uint32_t most) {
  SitePlan best = plan;
  uint32_t off = static_cast<uint32_t>(plan.site - function.addr);
  while (plan.falls_through) {
    const Insn* insn = function.at(off);
    if (insn == nullptr || insn->is_trap) break;
    plan.count += 1;
    plan.window += insn->len;
    plan.falls_through = !insn->ends_flow;
    off += insn->len;
    if (plan.window > most) break;
    if (plan.count > 1 && !check_inside(function, plan.site, plan.site + plan.window)) break;
    if (plan.window >= least) best = plan;
    if (plan.window >= least && least == kShortBytes) break;
  }
  return best;
}

// Five bytes of padding that nothing executes, within a short jump's reach; 0: none.
uint64_t find_pad(const FunctionView& function, const SitePlan& plan) {
  const auto reaches = [&](uint64_t pad) {
    const int64_t rel = static_cast<int64_t>(pad - plan.site - kShortBytes);
    return rel >= INT8_MIN && rel <= INT8_MAX &&
           (pad >= plan.site + plan.reach() || pad + kJumpBytes <= plan.site);
  };
  for (size_t i = 0; i + 1 < function.insns.size(); ++i) {
    if (!function.insns[i].ends_flow) continue;
    const uint32_t begin = function.insns[i].off + function.insns[i].len;
    uint32_t room = 0;
    for (size_t k = i + 1; k < function.insns.size() && room < kJumpBytes; ++k) {
      const Insn& insn = function.insns[k];
      const bool is_free =
          insn.is_padding && insn.off == begin + room &&
          !std::binary_search(function.branch_targets.begin(), function.branch_targets.end(),
                              function.addr + insn.off);
      if (!is_free) break;
      room += insn.len;
    }
    if (room >= kJumpBytes && reaches(function.addr + begin)) return function.addr + begin;
  }
  const bool ends = !function.insns.empty() && function.insns.back().ends_flow &&
                    function.decoded_end == function.size;
  const uint64_t behind = function.addr + function.size;
  return ends && padding_behind(function) >= kJumpBytes && reaches(behind) ? behind : 0;
}

}  // namespace

Result<SitePlan> plan_site(const FunctionView& function, uint64_t addr) {
  const Result<SitePlan> plan = plan_start(function, addr);
  if (!plan) return plan;
  Result<SitePlan> grown = grow_window(function, plan.value());
  if (!grown) return grown;
  // Within one instruction nobody can arrive.
  if (grown->count > 1) {
    const Result<void> closed = check_inside(function, grown->site, grown->site + grown->window);
    if (!closed) return closed.error();
  }
  return grown;
}

Result<std::vector<SitePlan>> plan_forms(const FunctionView& function, uint64_t addr) {
  const Result<SitePlan> start = plan_start(function, addr);
  if (!start) return start.error();
  std::vector<SitePlan> forms;
  const Result<SitePlan> jump = plan_site(function, addr);
  if (jump.ok()) forms.push_back(jump.value());
  if (!jump && jump.error().errnum != EOPNOTSUPP) return jump.error();
  SitePlan brief = small_window(function, start.value(), kShortBytes, kWindowBytesMax);
  brief.pad = brief.count > 0 ? find_pad(function, brief) : 0;
  if (brief.pad != 0) {
    brief.form = SiteForm::kShort;
    forms.push_back(brief);
  }
  SitePlan punned = small_window(function, start.value(), 1, kJumpBytes - 1);
  const uint64_t last = punned.site + kJumpBytes - function.addr;
  if (punned.count > 0 && last <= function.bytes.size()) {
    punned.form = SiteForm::kPunned;
    forms.push_back(punned);
  }
  if (forms.empty()) return jump.error();
  return forms;
}

Result<SitePlan> plan_one_byte(const FunctionView& function, uint64_t addr) {
  const Result<SitePlan> start = plan_start(function, addr);
  if (!start) return start;
  SitePlan plan = start.value();
  const Insn& insn = function.insns[plan.first];
  if (insn.is_trap) return fail(EBUSY, "a breakpoint is set there by somebody else");
  plan.count = 1;
  plan.window = insn.len;
  plan.falls_through = !insn.ends_flow;
  if (plan.site + kJumpBytes - function.addr > function.bytes.size()) {
    return fail(EOPNOTSUPP, "the mapping ends within the first bytes");
  }
  plan.form = SiteForm::kOneByte;
  return plan;
}

FunctionView window_view(const FunctionView& function, const SitePlan& plan) {
  FunctionView view;
  const uint32_t begin = static_cast<uint32_t>(plan.site - function.addr);
  const size_t end = std::min<size_t>(begin + plan.window, function.bytes.size());
  view.addr = plan.site;
  view.bytes.assign(function.bytes.begin() + begin,
                    function.bytes.begin() + static_cast<int64_t>(end));
  view.size = plan.window;
  view.decoded_end = plan.window;
  for (uint32_t i = 0; i < plan.count; ++i) {
    view.insns.push_back(function.insns[plan.first + i]);
    view.insns.back().off -= begin;
  }
  return view;
}

Result<RelocatedCode> relocate(const FunctionView& function, const SitePlan& plan, uint64_t dest) {
  RelocatedCode out;
  CodeBuffer code(dest);
  for (uint32_t i = 0; i < plan.count; ++i) {
    const Insn& insn = function.insns[plan.first + i];
    const uint32_t old_off = static_cast<uint32_t>(function.addr + insn.off - plan.site);
    out.map.push_back(PcPair{old_off, code.off()});
    const Result<void> emitted = emit_one(function, plan, insn, dest, out.map, &code);
    if (!emitted) return emitted.error();
  }
  if (plan.count == 0) return out;
  // A thread in a system call at the window's end: its restart must find the copied instruction.
  const Insn& last = function.insns[plan.first + plan.count - 1];
  const uint8_t* last_bytes = function.bytes.data() + last.off;
  if (last.len == 2 && last_bytes[0] == 0x0f && last_bytes[1] == 0x05) {
    out.map.push_back(PcPair{plan.window, code.off()});
  }
  if (plan.falls_through) code.jmp(plan.site + plan.window);
  if (!code.ok()) return fail(EOPNOTSUPP, "an operand is further than 2 GiB from the trampoline");
  out.code = std::move(code.bytes());
  return out;
}

}  // namespace bpftime::rewrite
