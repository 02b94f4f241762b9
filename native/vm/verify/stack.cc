// SPDX-License-Identifier: MIT
// The stack: what each byte holds, and values that come back whole from where they were put.
#include <algorithm>

#include "explorer.h"

namespace bpftime::verify {

using namespace isa;

namespace {

constexpr int64_t kFrame = kSlots * kSlotBytes;

/// Slot that holds the byte at `off` below r10 (off < 0), and which byte of it that is.
uint32_t slot_of(int64_t off) { return static_cast<uint32_t>((-off - 1) / kSlotBytes); }
uint32_t byte_of(int64_t off) {
  return static_cast<uint32_t>(off + int64_t{kSlotBytes} * (slot_of(off) + 1));
}

Scalar truncated(const Scalar& num, uint32_t bytes) {
  if (bytes == 8) return num;
  if (bytes == 4) return Scalar::zero_extended(num.low);
  const uint64_t mask = (uint64_t{1} << (bytes * 8)) - 1;
  return Scalar::of(bit_and(num.wide, Domain<uint64_t>::constant(mask)));
}

}  // namespace

bool Explorer::stack_span(const Reg& reg, const Use& use, Span* span) {
  const Domain<uint64_t>& at = reg.num.wide;
  const __int128 lo = __int128{at.smin} + use.off;
  const __int128 hi = __int128{at.smax} + use.off + use.bytes;
  span->frame = reg.frame;
  span->is_fixed = at.is_const();
  if (lo < -kFrame || hi > 0) {
    if (at.is_const()) {
      return refuse(EACCES, text("%s %u bytes at r10%+lld, and the stack is the 512 bytes below "
                                 "r10",
                                 who_reads(use).c_str(), use.bytes, static_cast<long long>(lo)));
    }
    return refuse(EACCES, text("%s the stack at an offset that is not bounded (compare the index "
                               "with the size of the array first, or mask it: i &= SIZE - 1)",
                               who_reads(use).c_str()));
  }
  span->lo = static_cast<int64_t>(lo);
  span->hi = static_cast<int64_t>(hi);
  return true;
}

void Explorer::mark_read(uint32_t frame, uint32_t slot) {
  if (is_weak(kForgetRead)) return;
  const uint64_t bit = uint64_t{1} << slot;
  if ((now_.frames[frame].written & bit) != 0) return;
  for (uint32_t at = now_.checkpoint; at != kNone; at = checkpoints_[at]->parent) {
    Checkpoint& checkpoint = *checkpoints_[at];
    if (frame >= checkpoint.state.frames.size()) return;
    uint64_t& read = checkpoint.read.frames[frame].slots;
    if ((read & bit) != 0) return;
    read |= bit;
    if ((checkpoint.state.frames[frame].written & bit) != 0) return;
  }
}

/// What was put here whole is bytes from now on.
void Explorer::unspill(Slot& slot) {
  if (slot.spilled_bytes == 0 || is_weak(kTrustSpills)) return;
  if (slot.spill.is_const(0)) mark_exact(slot.spill.origins);  // they count as zeroes
  slot.unspill();
}

bool Explorer::load_stack(const Reg& base, const Use& use, Reg* out) {
  Span span;
  if (!stack_span(base, use, &span)) return false;
  Frame& frame = now_.frames[span.frame];
  bool is_zero = true;
  Origins zeroes;
  for (int64_t off = span.lo; off < span.hi; ++off) {
    const uint32_t index = slot_of(off);
    const Slot& slot = frame.slot(index);
    const Slot::Byte byte = slot.bytes[byte_of(off)];
    mark_read(span.frame, index);
    if (byte == Slot::kEmpty && !is_weak(kTrustStack)) {
      return refuse(EACCES, text("%s the stack at r10%+lld, which was not written yet (initialise "
                                 "the variable, padding included: = {} or __builtin_memset)",
                                 who_reads(use).c_str(), static_cast<long long>(off)));
    }
    const bool is_spilled_zero = byte == Slot::kSpilled && slot.spill.is_const(0);
    if (is_spilled_zero) zeroes.add(slot.spill.origins);
    is_zero &= byte == Slot::kZero || is_spilled_zero;
  }
  *out = Reg::number(is_zero ? Scalar::constant(0) : Scalar::sized(use.bytes));
  if (is_zero) out->origins = zeroes;
  if (!span.is_fixed || use.bytes > 8) return true;
  const Slot& slot = frame.slot(slot_of(span.lo));
  if (byte_of(span.lo) != 0 || slot.spilled_bytes < use.bytes) return true;
  if (slot.spilled_bytes == use.bytes) {
    *out = slot.spill;
  } else if (slot.spill.is_number()) {
    out->num = truncated(slot.spill.num, use.bytes);
    out->origins = slot.spill.origins;
  }
  return true;
}

void Explorer::store_fixed(const Span& span, Reg* value) {
  Frame& frame = now_.frames[span.frame];
  const auto bytes = static_cast<uint32_t>(span.hi - span.lo);
  const uint32_t first = slot_of(span.lo);
  if (byte_of(span.lo) == 0 && bytes <= 8 && (value->is_number() || bytes == 8)) {
    Slot& slot = frame.slot(first);
    unspill(slot);
    for (uint32_t i = 0; i < bytes; ++i) slot.bytes[i] = Slot::kSpilled;
    const bool is_whole =
        bytes == 8 || (value->is_number() && (value->num.wide.umax >> (bytes * 8)) == 0);
    if (is_whole || bytes == 4) give_names(value);
    slot.spill = *value;
    slot.spilled_bytes = static_cast<uint8_t>(bytes);
    if (!is_whole) {
      slot.spill.num = truncated(value->num, bytes);
      slot.spill.unlink();
      if (bytes == 4) slot.spill.low_id = value->low_id;
    }
    if (bytes == 8) frame.written |= uint64_t{1} << first;
    return;
  }
  const bool is_zero = value->is_const(0);
  if (is_zero) mark_exact(value->origins);
  for (int64_t off = span.lo; off < span.hi; ++off) {
    Slot& slot = frame.slot(slot_of(off));
    unspill(slot);
    slot.bytes[byte_of(off)] = is_zero ? Slot::kZero : Slot::kData;
  }
}

bool Explorer::store_stack(const Reg& base, const Use& use, Reg* value) {
  Span span;
  if (!stack_span(base, use, &span)) return false;
  if (value->kind == Kind::kStack && value->frame > span.frame) {
    return refuse(EINVAL,
                  "a function stores the address of its own stack in the stack of its "
                  "caller, where it outlives it (return the value instead)");
  }
  if (span.is_fixed) {
    store_fixed(span, value);
    return true;
  }
  Frame& frame = now_.frames[span.frame];
  const bool is_zero = value->is_const(0);
  if (is_zero) mark_exact(value->origins);
  for (int64_t off = span.lo; off < span.hi; ++off) {
    Slot& slot = frame.slot(slot_of(off));
    unspill(slot);
    Slot::Byte& byte = slot.bytes[byte_of(off)];  // this one is written, or it stays as it is
    if (byte == Slot::kData || (byte == Slot::kZero && !is_zero)) byte = Slot::kData;
  }
  return true;
}

/// A helper reads or writes memory on the stack.
bool Explorer::use_stack(const Reg& base, const Use& use) {
  Span span;
  if (!stack_span(base, use, &span)) return false;
  Frame& frame = now_.frames[span.frame];
  const bool fills = use.fills && span.is_fixed;
  if (!fills) {
    for (int64_t off = span.lo; off < span.hi; ++off) {
      const uint32_t index = slot_of(off);
      mark_read(span.frame, index);
      if (frame.slot(index).bytes[byte_of(off)] != Slot::kEmpty) continue;
      return refuse(EACCES,
                    text("%s %u bytes of the stack at r10%+lld, of which the byte at r10%+lld was "
                         "not written yet (initialise the variable, padding included: = {} or "
                         "__builtin_memset)",
                         who_reads(use).c_str(), use.bytes, static_cast<long long>(span.lo),
                         static_cast<long long>(off)));
    }
  }
  if (!use.writes) return true;
  for (int64_t off = span.lo; off < span.hi; ++off) {
    Slot& slot = frame.slot(slot_of(off));
    unspill(slot);
    slot.bytes[byte_of(off)] = Slot::kData;
    const bool ends_slot = byte_of(off) == kSlotBytes - 1;
    if (fills && ends_slot && off - span.lo >= int64_t{kSlotBytes} - 1) {
      frame.written |= uint64_t{1} << slot_of(off);
    }
  }
  return true;
}

}  // namespace bpftime::verify
