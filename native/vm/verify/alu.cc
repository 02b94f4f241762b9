// SPDX-License-Identifier: MIT
// Arithmetic: on numbers, and the little that may be done with pointers.
#include <linux/bpf.h>

#include "explorer.h"

namespace bpftime::verify {

using namespace isa;

namespace {

const char* operator_name(const Insn& insn) {
  switch (insn.op()) {
    case kAdd:
      return "+";
    case kSub:
      return "-";
    case kMul:
      return "*";
    case kDiv:
      return "/";
    case kOr:
      return "|";
    case kAnd:
      return "&";
    case kLsh:
      return "<<";
    case kRsh:
    case kArsh:
      return ">>";
    case kMod:
      return "%";
    case kXor:
      return "^";
    case kNeg:
      return "-";
    default:
      return "byte swap";
  }
}

Scalar immediate(const Insn& insn) {
  return Scalar::constant(insn.cls() == kAlu64 ? static_cast<uint64_t>(int64_t{insn.imm})
                                               : uint64_t{static_cast<uint32_t>(insn.imm)});
}

}  // namespace

/// A number that is about to be copied: what is learnt of one is then known of the other.
void Explorer::give_names(Reg* reg) {
  if (!reg->is_number() || reg->num.is_const()) return;
  if (reg->id == 0) reg->id = next_id();
  if (reg->low_id == 0) reg->low_id = next_id();
}

bool Explorer::step_move(const Insn& insn) {
  Reg& dst = now_.reg(insn.dst);
  if (!insn.src_is_reg()) {
    dst = Reg::number(immediate(insn));
    return true;
  }
  if (!need_set(insn.src)) return false;
  Reg& src = now_.reg(insn.src);
  const bool wide = insn.cls() == kAlu64;
  if (!src.is_number()) {
    if (wide && insn.off == 0) {
      dst = src;
      return true;
    }
    if (insn.off != 0) {
      return refuse(EACCES, text("r%u is %s: sign-extending it makes no sense (copy it whole)",
                                 insn.src, name_of(src).c_str()));
    }
    dst = Reg::number(Scalar::sized(4));  // half an address is a number
    return true;
  }
  if (insn.off != 0) {
    Reg result = Reg::number(move_signed(src.num, insn.off, wide));
    result.origins = src.origins;
    dst = result;
    return true;
  }
  give_names(&src);
  if (wide || src.num.wide.umax <= UINT32_MAX) {
    dst = src;
    return true;
  }
  Reg result = Reg::number(Scalar::zero_extended(src.num.low));
  result.origins = src.origins;
  result.low_id = src.low_id;
  dst = result;
  return true;
}

bool Explorer::step_alu(const Insn& insn) {
  if (insn.op() == kMov) return step_move(insn);
  if (!need_set(insn.dst)) return false;
  const bool is_unary = insn.op() == kNeg || insn.op() == kEnd;
  const bool has_src = insn.src_is_reg() && !is_unary;
  if (has_src && !need_set(insn.src)) return false;
  const Reg a = now_.reg(insn.dst);
  const Reg b = has_src ? now_.reg(insn.src) : Reg::number(immediate(insn));
  Reg& dst = now_.reg(insn.dst);
  if (!a.is_number() || !b.is_number()) return pointer_arithmetic(insn, a, b);
  const bool is_same = has_src && insn.src == insn.dst;
  if (is_same && (insn.op() == kXor || insn.op() == kSub)) {
    dst = Reg::number(Scalar::constant(0));
    return true;
  }
  dst = Reg::number(insn.op() == kEnd ? swap(insn, a.num) : alu(insn, a.num, b.num));
  dst.origins = a.origins;
  dst.origins.add(b.origins);
  // Compilers without 32-bit registers extend a number by shifting it up and down.
  if (insn.cls() == kAlu64 && b.is_const(32) && !has_src) {
    if (insn.op() == kLsh) dst.high_id = a.low_id;
    if (insn.op() == kRsh || insn.op() == kArsh) dst.low_id = a.high_id;
  }
  return true;
}

bool Explorer::pointer_arithmetic(const Insn& insn, const Reg& a, const Reg& b) {
  const Reg& pointer = a.is_number() ? b : a;
  const uint8_t regno = a.is_number() ? insn.src : insn.dst;
  const bool wide = insn.cls() == kAlu64;
  const std::string name = name_of(pointer);
  if (insn.op() == kSub && !a.is_number() && !b.is_number()) {
    now_.reg(insn.dst) = Reg::number(wide ? Scalar::any() : Scalar::sized(4));  // a distance
    return true;
  }
  if (insn.op() != kAdd && insn.op() != kSub) {
    return refuse(EACCES, text("r%u is %s: `%s` on an address gives nothing that may be used (only "
                               "add and subtract numbers)",
                               regno, name.c_str(), operator_name(insn)));
  }
  if (!wide) {
    return refuse(EACCES, text("r%u is %s: 32-bit arithmetic would cut the address in half (use "
                               "64-bit arithmetic)",
                               regno, name.c_str()));
  }
  if (insn.op() == kAdd && !a.is_number() && !b.is_number()) {
    return refuse(EACCES, text("two addresses are added, r%u and r%u: the sum points nowhere",
                               insn.dst, insn.src));
  }
  if (insn.op() == kSub && a.is_number()) {
    return refuse(EACCES, text("r%u, %s, is subtracted from a number: the result points nowhere",
                               insn.src, name.c_str()));
  }
  return add_to_pointer(insn, pointer, a.is_number() ? a : b);
}

bool Explorer::add_to_pointer(const Insn& insn, const Reg& pointer, const Reg& number) {
  if (pointer.maybe_null) {
    return refuse(EACCES, text("%s may be null, and a number is added to it: that would hide the "
                               "null (test it first: if (!p) return 0;)",
                               name_of(pointer).c_str()));
  }
  switch (pointer.kind) {
    case Kind::kMap:
    case Kind::kFunction:
    case Kind::kPacketEnd:
    case Kind::kTask:
      return refuse(EACCES, text("arithmetic on %s: it is not memory that could be indexed",
                                 name_of(pointer).c_str()));
    default:
      break;
  }
  mark_exact(number.origins);
  Reg result = pointer;
  Insn op{};
  op.opcode = static_cast<uint8_t>(kAlu64 | insn.op());
  result.num = alu(op, pointer.num, number.num);
  now_.reg(insn.dst) = result;
  return true;
}

bool Explorer::step_lddw(const Insn& insn, const Insn& second) {
  Reg& dst = now_.reg(insn.dst);
  const auto low = static_cast<uint32_t>(insn.imm);
  switch (insn.src) {
    case 0:
      dst = Reg::number(Scalar::constant(lddw_imm(insn, second)));
      return true;
    case kPseudoFunc:
      dst = Reg::pointer(Kind::kFunction);
      dst.map = now_.slot + 1 + low;
      return true;
    case kPseudoMapFd:
    case kPseudoMapValue:
      break;
    default:
      return refuse(EINVAL, "a 64-bit immediate of this kind is not supported");
  }
  const MapShape shape = map_shape(low);
  if (shape.type == 0) return refuse(EINVAL, text("there is no map of id %u", low));
  dst = Reg::pointer(insn.src == kPseudoMapFd ? Kind::kMap : Kind::kMapValue);
  dst.map = low;
  if (insn.src == kPseudoMapFd) return true;
  if (shape.type != BPF_MAP_TYPE_ARRAY || static_cast<uint32_t>(second.imm) >= shape.value_bytes) {
    return refuse(EINVAL, text("the address of byte %u of a value of map %s, which is %s of values "
                               "of %u bytes",
                               static_cast<uint32_t>(second.imm), shape.name,
                               map_type_name(shape.type), shape.value_bytes));
  }
  dst.bytes = shape.value_bytes;
  dst.num = Scalar::constant(static_cast<uint32_t>(second.imm));
  return true;
}

}  // namespace bpftime::verify
