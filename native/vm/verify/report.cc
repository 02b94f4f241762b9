// SPDX-License-Identifier: MIT
// Sentences: what is wrong, why, what to write instead, and the path that led there.
#include <linux/bpf.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>

#include "explorer.h"

namespace bpftime::verify {

using namespace isa;

namespace {

constexpr size_t kBranchesShown = 12;
constexpr size_t kPathSteps = 100000;  // of the trail that are looked at

std::string range_text(const Domain<uint64_t>& d) {
  if (d.is_const()) return text("%lld", static_cast<long long>(d.smin));
  if (d.is_any()) return "anything";
  if (d.smin >= 0) {
    return text("%llu..%llu", static_cast<unsigned long long>(d.umin),
                static_cast<unsigned long long>(d.umax));
  }
  return text("%lld..%lld", static_cast<long long>(d.smin), static_cast<long long>(d.smax));
}

}  // namespace

std::string text(const char* format, ...) {
  char buf[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(buf, sizeof buf, format, args);
  va_end(args);
  return buf;
}

const char* map_type_name(uint32_t type) {
  static constexpr struct {
    uint32_t type;
    const char* name;
  } kNames[] = {
      {BPF_MAP_TYPE_HASH, "a hash"},
      {BPF_MAP_TYPE_LRU_HASH, "a hash"},
      {BPF_MAP_TYPE_PERCPU_HASH, "a per-CPU hash"},
      {BPF_MAP_TYPE_LRU_PERCPU_HASH, "a per-CPU hash"},
      {BPF_MAP_TYPE_ARRAY, "an array"},
      {BPF_MAP_TYPE_PERCPU_ARRAY, "a per-CPU array"},
      {BPF_MAP_TYPE_PROG_ARRAY, "a program array"},
      {BPF_MAP_TYPE_RINGBUF, "a ring buffer"},
      {BPF_MAP_TYPE_PERF_EVENT_ARRAY, "a perf event array"},
      {BPF_MAP_TYPE_CGROUP_ARRAY, "a cgroup array"},
      {BPF_MAP_TYPE_STACK_TRACE, "a stack trace map"},
      {BPF_MAP_TYPE_LPM_TRIE, "an LPM trie"},
      {BPF_MAP_TYPE_ARRAY_OF_MAPS, "an array of maps"},
      {BPF_MAP_TYPE_HASH_OF_MAPS, "a hash of maps"},
      {BPF_MAP_TYPE_QUEUE, "a queue"},
      {BPF_MAP_TYPE_STACK, "a stack"},
      {BPF_MAP_TYPE_BLOOM_FILTER, "a bloom filter"},
      {BPF_MAP_TYPE_TASK_STORAGE, "task storage"},
  };
  for (const auto& row : kNames) {
    if (row.type == type) return row.name;
  }
  return "of another type";
}

MapShape Explorer::map_shape(uint32_t id) const {
  return options_.maps.shape != nullptr ? options_.maps.shape(options_.maps.user, id) : MapShape{};
}

std::string Explorer::memory_name(const Reg& reg) const {
  switch (reg.kind) {
    case Kind::kMapValue:
      return text("a value of map %s", map_shape(reg.map).name);
    case Kind::kRecord:
      return reg.ref != 0 ? text("a record of ring buffer %s", map_shape(reg.map).name)
                          : "memory that the caller passed";
    case Kind::kKey:
      return "a key of the map";
    default:
      return name_of(reg);
  }
}

std::string Explorer::name_of(const Reg& reg) const {
  switch (reg.kind) {
    case Kind::kUnset:
      return "not set";
    case Kind::kGone:
      return "a record that was given back";
    case Kind::kNumber:
      return reg.num.is_const() ? text("the number %s", range_text(reg.num.wide).c_str())
                                : "a number";
    case Kind::kCtx:
      return "the context";
    case Kind::kStack:
      return "the address of stack memory";
    case Kind::kMap:
      if (reg.maybe_null) return text("what was found in %s", map_shape(reg.map).name);
      return text("map %s", map_shape(reg.map).name);
    case Kind::kMapValue:
      if (reg.maybe_null) {
        const MapShape shape = map_shape(reg.map);
        const bool is_task = shape.type == BPF_MAP_TYPE_TASK_STORAGE;
        return text("what bpf_%s found in map %s", is_task ? "task_storage_get" : "map_lookup_elem",
                    shape.name);
      }
      return memory_name(reg);
    case Kind::kRecord:
      if (reg.maybe_null && reg.ref != 0) {
        return text("what bpf_ringbuf_reserve gave of %s", map_shape(reg.map).name);
      }
      return memory_name(reg);
    case Kind::kKey:
      return "a key of the map";
    case Kind::kFunction:
      return "a function";
    case Kind::kPacket:
      return "packet data";
    case Kind::kPacketEnd:
      return "the end of the packet";
    case Kind::kTask:
      return "the thread that runs";
  }
  return "";
}

std::string Explorer::who_reads(const Use& use) const {
  const char* verb = use.writes ? "writes" : "reads";
  return use.who != nullptr ? text("bpf_%s %s", use.who, verb) : verb;
}

bool Explorer::need_set(uint8_t regno) {
  const Reg& reg = now_.reg(regno);
  if (reg.is_set()) return true;
  if (reg.kind == Kind::kGone) {
    return refuse(EACCES, text("r%u points into a record that was submitted or discarded: it is "
                               "somebody else's now (read it before)",
                               regno));
  }
  if (regno >= 1 && regno <= 5) {
    return refuse(EACCES, text("r%u is used and was not set: a function that takes fewer "
                               "arguments, or a call before, left nothing in it",
                               regno));
  }
  return refuse(EACCES, text("r%u is used and was not set%s", regno,
                             regno == 0 ? " (return a value on every path)"
                                        : " (give the variable a value on every path)"));
}

bool Explorer::refuse(int errnum, std::string reason) {
  outcome_.errnum = errnum;
  outcome_.insn_index = now_.slot;
  outcome_.reason = std::move(reason);
  outcome_.where = shared_->source.where(now_.slot);
  outcome_.path = path_text();
  return false;
}

std::string Explorer::registers_text() const {
  std::string line;
  for (uint32_t r = 0; r < kFrameReg; ++r) {
    const Reg& reg = now_.frames.back().regs[r];
    if (!reg.is_set()) continue;
    line += text("%sr%u = ", line.empty() ? "" : ", ", r);
    if (reg.is_number()) {
      line += range_text(reg.num.wide);
      continue;
    }
    line += name_of(reg);
    if (!reg.num.is_const() || reg.num.const_value() != 0)
      line += " at " + range_text(reg.num.wide);
    if (reg.maybe_null) line += " or null";
  }
  return line;
}

std::string Explorer::path_text() const {
  std::vector<const Trail*> branches;
  uint32_t at = now_.trail;
  while (at != kNone && branches.size() < kBranchesShown) {
    branches.push_back(&trail_[at]);
    at = trail_[at].parent;
  }
  size_t before = 0;
  for (; at != kNone && before < kPathSteps; at = trail_[at].parent) ++before;
  std::string lines;
  const auto line_of = [&](uint32_t slot) {
    const uint64_t raw = encode(flow_.insns[slot]);
    const bool has_next = slot + 1 < flow_.insns.size();
    const uint64_t next = has_next ? encode(flow_.insns[slot + 1]) : 0;
    return text("%u: %s", slot, disasm(raw, next, slot).c_str());
  };
  if (before > 0) lines += text("... after %zu branches\n", before);
  for (size_t i = branches.size(); i-- > 0;) {
    const Trail& branch = *branches[i];
    const std::string where = shared_->source.where(branch.slot);
    lines += line_of(branch.slot) + (branch.taken ? " (taken)" : " (not taken)");
    if (!where.empty()) lines += " at " + where;
    lines += '\n';
  }
  for (uint32_t f = 1; f < now_.frames.size(); ++f) {
    const Frame& frame = now_.frames[f];
    const std::string name = shared_->source.function_name(flow_.subprogs[frame.subprog].start);
    lines += text("in function %s called at %u\n", name.c_str(), frame.call_slot);
  }
  lines += line_of(now_.slot) + '\n';
  const std::string registers = registers_text();
  if (!registers.empty()) lines += "with " + registers + '\n';
  return lines;
}

}  // namespace bpftime::verify
