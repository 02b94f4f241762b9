// SPDX-License-Identifier: MIT
// Loads, stores and atomic operations, and the bounds of every kind of memory but the stack.
#include <linux/bpf.h>

#include "explorer.h"

namespace bpftime::verify {

using namespace isa;

bool Explorer::check_base(const Reg& reg, const Explorer::Use& use) {
  if (!need_set(use.regno)) return false;
  if (reg.is_number()) {
    if (reg.is_const(0)) {
      return refuse(EACCES, text("%s through r%u, which is null here (test the pointer first: if "
                                 "(!p) return 0;)",
                                 who_reads(use).c_str(), use.regno));
    }
    return refuse(EACCES, text("%s through r%u, which is a number and not a pointer to memory of "
                               "the program (read memory of the process with "
                               "bpf_probe_read_user)",
                               who_reads(use).c_str(), use.regno));
  }
  if (reg.maybe_null && !is_weak(kTrustNull)) {
    return refuse(EACCES, text("%s through r%u, %s, which may be null (test it first: if (!p) "
                               "return 0;)",
                               who_reads(use).c_str(), use.regno, name_of(reg).c_str()));
  }
  return true;
}

bool Explorer::check_inside(const Reg& reg, const Use& use, int64_t region_bytes,
                            const std::string& what) {
  const Domain<uint64_t>& at = reg.num.wide;
  const __int128 first = __int128{at.smin} + use.off;
  const __int128 end = __int128{at.smax} + use.off + use.bytes;
  if (is_weak(kTrustBounds)) region_bytes += 4;
  if (first >= 0 && end <= region_bytes) return true;
  if (at.is_const()) {
    const auto off = static_cast<long long>(first);
    return refuse(EACCES, text("%s %u bytes at offset %lld of %s, which has %lld bytes",
                               who_reads(use).c_str(), use.bytes, off, what.c_str(),
                               static_cast<long long>(region_bytes)));
  }
  const long long lo = static_cast<long long>(at.smin) + use.off;
  if (first < 0) {
    return refuse(EACCES,
                  text("%s %s at an offset that may be negative: r%u points %s%lld bytes from its "
                       "beginning (make the index unsigned, or mask it: i &= SIZE - 1)",
                       who_reads(use).c_str(), what.c_str(), use.regno,
                       at.smin == INT64_MIN ? "anywhere, even " : "at least ",
                       at.smin == INT64_MIN ? static_cast<long long>(at.smin) : lo));
  }
  return refuse(
      EACCES,
      text("%s %u bytes at an offset of %s that is not bounded: up to %llu, and it has "
           "%lld bytes (compare the index with the size first, or mask it: i &= SIZE - "
           "1)",
           who_reads(use).c_str(), use.bytes, what.c_str(),
           static_cast<unsigned long long>(at.smax) + static_cast<unsigned long long>(use.off),
           static_cast<long long>(region_bytes)));
}

bool Explorer::check_context(const Reg& reg, const Use& use, const ContextField** found) {
  const Context& context = shared_->context;
  if (!reg.num.is_const()) {
    return refuse(EACCES,
                  "the context is read at an offset that varies: it is read at fixed offsets only "
                  "(name the member, or use bpf_probe_read_kernel)");
  }
  const int64_t off = static_cast<int64_t>(reg.num.const_value()) + use.off;
  for (const ContextField& field : context.fields) {
    if (off < field.off || off + use.bytes > int64_t{field.off} + field.bytes) continue;
    if (use.writes && field.access != ContextField::kReadWrite) {
      return refuse(EACCES,
                    text("%s %s at offset %lld: programs may only read it", who_reads(use).c_str(),
                         context.name, static_cast<long long>(off)));
    }
    if (field.holds != ContextField::kNumber && (use.bytes != field.bytes || off != field.off)) {
      return refuse(EACCES, "a part of a packet's bounds is read (read the whole member)");
    }
    if (off % use.bytes != 0) {
      return refuse(EACCES, text("%s %u bytes at offset %lld of %s, which is not a multiple of %u",
                                 who_reads(use).c_str(), use.bytes, static_cast<long long>(off),
                                 context.name, use.bytes));
    }
    *found = &field;
    return true;
  }
  uint32_t end = 0;
  for (const ContextField& field : context.fields) end = std::max(end, field.off + field.bytes);
  return refuse(EACCES, text("%s %u bytes at offset %lld of %s, of which programs may touch %u",
                             who_reads(use).c_str(), use.bytes, static_cast<long long>(off),
                             context.name, end));
}

/// Memory that is neither stack nor context.
bool Explorer::check_region(const Reg& reg, const Use& use) {
  switch (reg.kind) {
    case Kind::kMapValue: {
      const MapShape shape = map_shape(reg.map);
      if (use.writes && (shape.flags & BPF_F_RDONLY_PROG) != 0) {
        return refuse(EACCES, text("%s %s, which is read-only (a constant cannot be changed: drop "
                                   "the const, or write to a copy)",
                                   who_reads(use).c_str(), memory_name(reg).c_str()));
      }
      if (use.reads && (shape.flags & BPF_F_WRONLY_PROG) != 0) {
        return refuse(EACCES, text("%s %s, which programs may only write", who_reads(use).c_str(),
                                   memory_name(reg).c_str()));
      }
      return check_inside(reg, use, reg.bytes, memory_name(reg));
    }
    case Kind::kRecord:
      return check_inside(reg, use, reg.bytes, memory_name(reg));
    case Kind::kKey:
      if (use.writes) return refuse(EACCES, "a key of a map is written: it may only be read");
      return check_inside(reg, use, reg.bytes, memory_name(reg));
    case Kind::kPacket: {
      const __int128 end = __int128{reg.num.wide.smax} + use.off + use.bytes;
      if (reg.num.wide.smin + __int128{use.off} >= 0 && end <= reg.bytes) return true;
      return refuse(EACCES, text("%s %u bytes of a packet of which %u are known to be there "
                                 "(compare first: if (data + n > data_end) return 0;)",
                                 who_reads(use).c_str(), use.bytes, reg.bytes));
    }
    case Kind::kTask:
      return refuse(EACCES, text("%s a field of the thread that runs: there is no kernel's "
                                 "task_struct here (bpf_get_current_pid_tgid and "
                                 "bpf_get_current_comm say who it is)",
                                 who_reads(use).c_str()));
    default:
      return refuse(EACCES, text("%s through r%u, %s, whose inside is not for programs",
                                 who_reads(use).c_str(), use.regno, name_of(reg).c_str()));
  }
}

bool Explorer::map_constant(const Reg& reg, int32_t off, uint32_t bytes, uint64_t* value) const {
  if (reg.kind != Kind::kMapValue || !reg.num.is_const()) return false;
  const MapShape shape = map_shape(reg.map);
  const bool is_constant = shape.is_constant && (shape.flags & BPF_F_RDONLY_PROG) != 0 &&
                           shape.type == BPF_MAP_TYPE_ARRAY && shape.max_entries == 1;
  if (!is_constant || options_.maps.constant == nullptr) return false;
  const uint64_t at = reg.num.const_value() + static_cast<uint64_t>(int64_t{off});
  return options_.maps.constant(options_.maps.user, reg.map, at, bytes, value);
}

bool Explorer::load_context(const Reg& base, const Use& use, Reg* out) {
  const ContextField* field = nullptr;
  if (!check_context(base, use, &field)) return false;
  if (field->holds == ContextField::kData) {
    *out = Reg::pointer(Kind::kPacket);
  } else if (field->holds == ContextField::kDataEnd) {
    *out = Reg::pointer(Kind::kPacketEnd);
  } else {
    *out = Reg::number(Scalar::sized(use.bytes));
  }
  return true;
}

bool Explorer::load_into(uint8_t dst, uint8_t base_regno, int32_t off, uint32_t bytes, bool sign) {
  const Reg base = now_.reg(base_regno);
  Use use;
  use.regno = base_regno;
  use.off = off;
  use.bytes = bytes;
  use.reads = true;
  if (!check_base(base, use)) return false;
  Reg result = Reg::number(Scalar::sized(bytes));
  uint64_t constant = 0;
  if (base.kind == Kind::kStack) {
    if (!load_stack(base, use, &result)) return false;
  } else if (base.kind == Kind::kCtx) {
    if (!load_context(base, use, &result)) return false;
  } else {
    if (!check_region(base, use)) return false;
    if (map_constant(base, off, bytes, &constant)) result.num = Scalar::constant(constant);
  }
  if (sign) {
    if (!result.is_number()) result = Reg::number(Scalar::any());
    result.num = move_signed(result.num, static_cast<int>(bytes * 8), true);
    result.unlink();
  }
  now_.reg(dst) = result;
  return true;
}

bool Explorer::step_load(const Insn& insn) {
  return load_into(insn.dst, insn.src, insn.off, insn.size_bytes(), insn.mode() == kModeMemsx);
}

bool Explorer::step_store(const Insn& insn) {
  const bool from_reg = insn.cls() == kStx;
  if (from_reg && !need_set(insn.src)) return false;
  const Reg base = now_.reg(insn.dst);
  Use use;
  use.regno = insn.dst;
  use.off = insn.off;
  use.bytes = insn.size_bytes();
  use.writes = true;
  if (!check_base(base, use)) return false;
  if (base.kind == Kind::kStack) {
    Reg immediate = Reg::number(Scalar::constant(static_cast<uint64_t>(int64_t{insn.imm})));
    return store_stack(base, use, from_reg ? &now_.reg(insn.src) : &immediate);
  }
  if (base.kind == Kind::kCtx) {
    const ContextField* field = nullptr;
    return check_context(base, use, &field);
  }
  return check_region(base, use);
}

bool Explorer::step_atomic(const Insn& insn) {
  const uint32_t bytes = insn.size_bytes();
  const bool is_load = insn.imm == kAtomicLoadAcq;
  const bool is_store = insn.imm == kAtomicStoreRel;
  const uint8_t base_regno = is_load ? insn.src : insn.dst;
  if (!is_load && !need_set(insn.src)) return false;
  if (insn.imm == kAtomicCmpxchg && !need_set(0)) return false;
  const Reg base = now_.reg(base_regno);
  Use use;
  use.regno = base_regno;
  use.off = insn.off;
  use.bytes = bytes;
  use.reads = !is_store;
  use.writes = !is_load;
  if (!check_base(base, use)) return false;
  // Across a cache line it would stop the whole machine, or kill the process (split lock
  // detection).
  const uint64_t low =
      (base.num.wide.value + static_cast<uint64_t>(int64_t{insn.off})) & (bytes - 1);
  if (low != 0 || (base.num.wide.unknown & (bytes - 1)) != 0) {
    return refuse(EACCES, text("an atomic operation on %u bytes at an address that may not be a "
                               "multiple of %u (align the member)",
                               bytes, bytes));
  }
  if (base.kind == Kind::kCtx || base.kind == Kind::kPacket) {
    return refuse(EACCES, text("an atomic operation on %s (copy it to the stack first)",
                               name_of(base).c_str()));
  }
  if (is_load) return load_into(insn.dst, insn.src, insn.off, bytes, false);
  if (base.kind == Kind::kStack) {
    Reg any = Reg::number(Scalar::sized(bytes));
    Reg before;
    if (!is_store && !load_stack(base, use, &before)) return false;
    if (!store_stack(base, use, is_store ? &now_.reg(insn.src) : &any)) return false;
  } else if (!check_region(base, use)) {
    return false;
  }
  if (is_store) return true;
  if (insn.imm == kAtomicCmpxchg) {
    now_.reg(0) = Reg::number(Scalar::sized(bytes));
  } else if ((insn.imm & kAtomicFetch) != 0) {
    now_.reg(insn.src) = Reg::number(Scalar::sized(bytes));
  }
  return true;
}

}  // namespace bpftime::verify
