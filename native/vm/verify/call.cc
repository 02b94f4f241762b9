// SPDX-License-Identifier: MIT
// Calls: helpers by their contract, functions of the program, functions that helpers call back.
#include <linux/bpf.h>

#include <algorithm>

#include "explorer.h"

namespace bpftime::verify {

using namespace isa;

namespace {

constexpr uint32_t kCpuNumberMax = 4095;  // what the code for helper 8 may give at most
constexpr int64_t kErrnoMax = 4095;

}  // namespace

Explorer::Step Explorer::step_call(uint32_t slot) {
  const CallTarget target = flow_.call_target(slot);
  return target.is_helper ? call_helper(target.value) : call_function(target.value);
}

Explorer::Step Explorer::call_helper(uint32_t id) {
  const char* missing = helper_refusal(id, options_.helpers);
  if (missing != nullptr) {
    refuse(EINVAL, missing);
    return Step::kRefused;
  }
  const Contract* contract = options_.contracts(id);
  if (contract == nullptr) {
    refuse(EINVAL, text("helper %u is called, and what it demands of its arguments is not known "
                        "here (use another helper)",
                        id));
    return Step::kRefused;
  }
  if (contract->needs_frame && !shared_->context.is_frame) {
    refuse(EINVAL, text("bpf_%s is called by a program that is no probe of a function (attach it "
                        "as uprobe or uretprobe)",
                        contract->name));
    return Step::kRefused;
  }
  if (id == BPF_FUNC_tail_call) return tail_call(*contract);
  if (contract->calls != Calls::kNever) return call_back(*contract);
  if (!check_arguments(*contract) || !give_result(*contract)) return Step::kRefused;
  return Step::kGo;
}

/// An array has every index below its size: a lookup of a constant one needs no null check.
bool Explorer::finds_for_sure(const Contract& contract) {
  const MapShape shape = map_shape(now_.reg(1).map);
  const bool is_array = shape.type == BPF_MAP_TYPE_ARRAY || shape.type == BPF_MAP_TYPE_PERCPU_ARRAY;
  const Reg key_place = now_.reg(2);
  if (contract.id != BPF_FUNC_map_lookup_elem || !is_array || key_place.kind != Kind::kStack) {
    return false;
  }
  Use use;
  use.regno = 2;
  use.bytes = shape.key_bytes;
  use.reads = true;
  Reg key;
  if (shape.key_bytes != 4 || !load_stack(key_place, use, &key)) return false;
  if (!key.is_number() || !key.num.is_const() || key.num.const_value() >= shape.max_entries) {
    return false;
  }
  mark_exact(key.origins);
  return true;
}

Reg Explorer::value_of(const MapShape& shape, uint32_t map) {
  const bool is_nested = shape.inner != 0;
  Reg value = Reg::pointer(is_nested ? Kind::kMap : Kind::kMapValue);
  value.map = is_nested ? shape.inner : map;
  value.bytes = is_nested ? 0 : shape.value_bytes;
  return value;
}

bool Explorer::give_result(const Contract& contract) {
  Reg result = Reg::number(Scalar::any());
  switch (contract.gives) {
    case Gives::kNothing:
    case Gives::kNumber:
      break;
    case Gives::kCpu:
      result.num = Scalar::of(Domain<uint64_t>::unsigned_range(0, kCpuNumberMax));
      break;
    case Gives::kLength: {
      const auto* const size = std::find_if(std::begin(contract.args), std::end(contract.args),
                                            [](Arg a) { return a == Arg::kSizeOrZero; });
      const auto regno = static_cast<uint8_t>(size - std::begin(contract.args) + 1);
      mark_exact(now_.reg(regno).origins);
      Domain<uint64_t> length;
      length.smin = -kErrnoMax;
      length.smax = size_passed(contract, regno).smax;
      length.normalise();
      result.num = Scalar::of(length);
      break;
    }
    case Gives::kValueOrNull:
      result = value_of(map_shape(now_.reg(1).map), now_.reg(1).map);
      result.maybe_null = !finds_for_sure(contract);
      if (result.maybe_null) result.id = next_id();
      break;
    case Gives::kTask:
      result = Reg::pointer(Kind::kTask);
      break;
    case Gives::kRecordOrNull:
      result = Reg::pointer(Kind::kRecord);
      result.map = now_.reg(1).map;
      result.bytes = static_cast<uint32_t>(now_.reg(2).num.const_value());
      result.maybe_null = true;
      result.id = result.ref = next_id();
      now_.held.push_back({result.ref, now_.slot});
      break;
  }
  for (uint8_t r = 1; r <= 5; ++r) now_.reg(r) = Reg{};
  now_.reg(0) = result;
  return true;
}

bool Explorer::check_arguments(const Contract& contract) {
  for (uint8_t r = 1; r <= contract.arity(); ++r) {
    if (!check_argument(contract, r)) return false;
  }
  for (uint8_t r = 1; r <= contract.arity(); ++r) {
    if (contract.args[r - 1] == Arg::kRecord) forget_record(now_.reg(r).ref);
  }
  return true;
}

bool Explorer::check_argument(const Contract& contract, uint8_t regno) {
  const Arg arg = contract.args[regno - 1];
  if (arg == Arg::kMaybe) return true;
  if (!need_set(regno)) return false;
  const Reg& reg = now_.reg(regno);
  const auto want = [&](const char* what) {
    return refuse(EACCES, text("argument %u of bpf_%s is %s: it has to be %s", regno, contract.name,
                               name_of(reg).c_str(), what));
  };
  switch (arg) {
    case Arg::kCtx:
      if (reg.kind != Kind::kCtx || !reg.num.is_const() || reg.num.const_value() != 0) {
        return want("the context that the program was called with (pass ctx)");
      }
      return true;
    case Arg::kIndex:
      return reg.is_number() || want("a number");
    case Arg::kMap:
      return check_map_argument(contract, regno);
    case Arg::kTask:
      return reg.kind == Kind::kTask || want("the thread that runs (bpf_get_current_task_btf())");
    case Arg::kValueOrNull:
      if (reg.is_const(0)) {
        mark_exact(reg.origins);
        return true;
      }
      return check_sized_by_map(contract, regno);
    case Arg::kKey:
    case Arg::kValue:
    case Arg::kValueOut:
      return check_sized_by_map(contract, regno);
    case Arg::kNumberOut:
      return check_number_out(contract, regno);
    case Arg::kRead:
    case Arg::kReadOrNull:
      return check_memory_argument(contract, regno, false, arg == Arg::kReadOrNull);
    case Arg::kWrite:
    case Arg::kWriteOrNull:
      return check_memory_argument(contract, regno, true, arg == Arg::kWriteOrNull);
    case Arg::kSize:
    case Arg::kSizeOrZero:
    case Arg::kWideSizeOrZero:
      return check_size_argument(contract, regno);
    case Arg::kText:
      return check_text_argument(contract, regno);
    case Arg::kRecordBytes:
      mark_exact(reg.origins);
      if (!reg.is_number() || !reg.num.is_const()) {
        return want("a constant (use sizeof; for records of varying size, bpf_ringbuf_output)");
      }
      if (reg.num.const_value() <= kMemoryBytesMax) return true;
      return want("at most 512 MiB");
    case Arg::kRecord:
      if (reg.kind != Kind::kRecord || reg.ref == 0) return want("a record that was reserved");
      if (reg.maybe_null) return want("not null (test it first: if (!record) return 0;)");
      if (reg.num.is_const() && reg.num.const_value() == 0) return true;
      return want("the beginning of the record, as bpf_ringbuf_reserve gave it");
    case Arg::kFunction:
      return reg.kind == Kind::kFunction || want("a static function of the program");
    case Arg::kFunctionData:
      if (reg.kind == Kind::kStack || reg.is_const(0)) {
        mark_exact(reg.origins);
        return true;
      }
      return want("memory on the stack, or 0");
    default:
      return true;
  }
}

bool Explorer::check_map_argument(const Contract& contract, uint8_t regno) {
  const Reg& reg = now_.reg(regno);
  if (reg.kind != Kind::kMap) {
    return refuse(EACCES, text("argument %u of bpf_%s is %s: it has to be a map (pass &map)", regno,
                               contract.name, name_of(reg).c_str()));
  }
  if (reg.maybe_null) {
    return refuse(EACCES, text("argument %u of bpf_%s is %s, which may be null (test it first: if "
                               "(!inner) return 0;)",
                               regno, contract.name, name_of(reg).c_str()));
  }
  const MapShape shape = map_shape(reg.map);
  if (contract.changes_map && (shape.flags & BPF_F_RDONLY_PROG) != 0) {
    return refuse(EACCES, text("bpf_%s would change map %s, which programs may only read",
                               contract.name, shape.name));
  }
  if (contract.map_types == 0 || (contract.map_types >> (shape.type & 63) & 1) != 0) return true;
  return refuse(EINVAL, text("bpf_%s does not work on map %s, which is %s", contract.name,
                             shape.name, map_type_name(shape.type)));
}

bool Explorer::check_sized_by_map(const Contract& contract, uint8_t regno) {
  Arg arg = contract.args[regno - 1];
  const MapShape shape = map_shape(now_.reg(1).map);
  // A bloom filter is asked for the value that is there.
  if (arg == Arg::kValueOut && shape.type == BPF_MAP_TYPE_BLOOM_FILTER) arg = Arg::kValue;
  Use use;
  use.regno = regno;
  use.bytes = arg == Arg::kKey ? shape.key_bytes : shape.value_bytes;
  use.reads = arg != Arg::kValueOut;
  use.writes = use.fills = arg == Arg::kValueOut;
  use.who = contract.name;
  if (now_.reg(1).kind != Kind::kMap || use.bytes == 0) {
    return refuse(EINVAL,
                  text("bpf_%s is used on map %s, which has no keys", contract.name, shape.name));
  }
  const Reg reg = now_.reg(regno);
  if (!check_base(reg, use)) return false;
  return reg.kind == Kind::kStack ? use_stack(reg, use) : check_region(reg, use);
}

bool Explorer::check_number_out(const Contract& contract, uint8_t regno) {
  Use use;
  use.regno = regno;
  use.bytes = sizeof(uint64_t);
  use.writes = use.fills = true;
  use.who = contract.name;
  const Reg reg = now_.reg(regno);
  if (!check_base(reg, use)) return false;
  return reg.kind == Kind::kStack ? use_stack(reg, use) : check_region(reg, use);
}

Domain<uint64_t> Explorer::size_passed(const Contract& contract, uint8_t regno) const {
  const Scalar& num = now_.frames.back().regs[regno].num;
  if (contract.args[regno - 1] == Arg::kWideSizeOrZero) return num.wide;
  return Scalar::zero_extended(num.low).wide;
}

bool Explorer::check_size_argument(const Contract& contract, uint8_t regno) {
  const Reg& reg = now_.reg(regno);
  if (!reg.is_number()) {
    return refuse(EACCES, text("argument %u of bpf_%s is %s: it has to be a number of bytes", regno,
                               contract.name, name_of(reg).c_str()));
  }
  mark_exact(reg.origins);
  const Domain<uint64_t> size = size_passed(contract, regno);
  if (size.smin < 0 || (size.umax > INT32_MAX && reg.num.low.smin < 0)) {
    return refuse(EACCES, text("the size that bpf_%s gets in r%u may be negative (make it unsigned "
                               "and compare it with the size of the memory, or mask it: size &= "
                               "SIZE - 1)",
                               contract.name, regno));
  }
  if (size.umax > kMemoryBytesMax) {
    return refuse(EACCES, text("the size that bpf_%s gets in r%u is not bounded (compare it with "
                               "the size of the memory first: if (size > sizeof buf) size = sizeof "
                               "buf;)",
                               contract.name, regno));
  }
  if (size.umin == 0 && contract.args[regno - 1] == Arg::kSize) {
    return refuse(EACCES, text("the size that bpf_%s gets in r%u may be 0 (test it first)",
                               contract.name, regno));
  }
  return true;
}

bool Explorer::check_memory_argument(const Contract& contract, uint8_t regno, bool writes,
                                     bool or_null) {
  const auto size_regno = static_cast<uint8_t>(regno + 1);
  if (!need_set(size_regno) || !check_size_argument(contract, size_regno)) return false;
  const Reg reg = now_.reg(regno);
  const Domain<uint64_t> size = size_passed(contract, size_regno);
  if (or_null && reg.is_const(0) && size.umax == 0) {
    mark_exact(reg.origins);
    return true;
  }
  Use use;
  use.regno = regno;
  use.bytes = static_cast<uint32_t>(size.umax);
  use.reads = !writes;
  use.writes = writes;
  use.fills = writes && size.is_const();
  use.who = contract.name;
  if (!check_base(reg, use)) return false;
  if (reg.kind != Kind::kStack) return check_region(reg, use);
  return use.bytes == 0 || use_stack(reg, use);
}

bool Explorer::check_text_argument(const Contract& contract, uint8_t regno) {
  const Reg& reg = now_.reg(regno);
  const auto off = static_cast<int32_t>(reg.num.wide.smin);
  const bool is_place = reg.kind == Kind::kMapValue && !reg.maybe_null && reg.num.is_const();
  uint64_t byte = 1;
  for (int64_t i = 0; is_place && byte != 0 && off + i < int64_t{reg.bytes}; ++i) {
    if (!map_constant(reg, static_cast<int32_t>(i), 1, &byte)) break;
  }
  if (byte == 0) return true;
  return refuse(EACCES, text("argument %u of bpf_%s is %s: it has to be constant text that ends "
                             "with a zero (static const char fmt[] = \"...\";)",
                             regno, contract.name, name_of(reg).c_str()));
}

void Explorer::forget_record(uint32_t ref) {
  std::erase_if(now_.held, [ref](const Held& held) { return held.ref == ref; });
  now_.each_reg([ref](Reg& reg) {
    if (reg.ref != ref) return;
    reg = Reg{};
    reg.kind = Kind::kGone;
  });
}

Explorer::Step Explorer::call_function(uint32_t start) {
  const uint32_t subprog = flow_.subprog_of(start);
  const auto parameters = shared_->source.parameters(start);
  if (parameters) return call_global(subprog, *parameters) ? Step::kGo : Step::kRefused;
  if (now_.frames.size() >= kCallFramesMax) {
    refuse(EINVAL, "calls nest deeper than 8 frames");
    return Step::kRefused;
  }
  Frame frame;
  for (uint8_t r = 1; r <= 5; ++r) frame.regs[r] = now_.reg(r);
  frame.subprog = subprog;
  frame.call_slot = now_.slot;
  frame.regs[kFrameReg] = Reg::pointer(Kind::kStack);
  frame.regs[kFrameReg].frame = static_cast<uint8_t>(now_.frames.size());
  now_.frames.push_back(std::move(frame));
  next_ = start;
  return Step::kGo;
}

/// The function is proved by itself, for whatever its signature allows; here only the arguments
/// are.
bool Explorer::call_global(uint32_t subprog, const std::vector<Parameter>& parameters) {
  const std::string name = shared_->source.function_name(flow_.subprogs[subprog].start);
  for (uint8_t r = 1; r <= parameters.size(); ++r) {
    if (!need_set(r)) return false;
    const Reg reg = now_.reg(r);
    const Parameter& parameter = parameters[r - 1];
    if (parameter.kind == Parameter::kNumber && reg.is_number()) continue;
    if (parameter.kind == Parameter::kContext && reg.kind == Kind::kCtx && reg.num.is_const() &&
        reg.num.const_value() == 0) {
      continue;
    }
    if (parameter.kind != Parameter::kMemory) {
      return refuse(EINVAL, text("argument %u of %s is %s, and the function's signature says %s", r,
                                 name.c_str(), name_of(reg).c_str(),
                                 parameter.kind == Parameter::kNumber ? "number" : "context"));
    }
    if (reg.is_const(0)) {
      mark_exact(reg.origins);
      continue;
    }
    Use use;
    use.regno = r;
    use.bytes = parameter.bytes;
    use.reads = use.writes = true;
    if (!check_base(reg, use)) return false;
    if (!(reg.kind == Kind::kStack ? use_stack(reg, use) : check_region(reg, use))) return false;
  }
  if (shared_->globals_seen[subprog] == 0) {
    shared_->globals_seen[subprog] = 1;
    shared_->globals_due.push_back(subprog);
  }
  for (uint8_t r = 1; r <= 5; ++r) now_.reg(r) = Reg{};
  now_.reg(0) = Reg::number(Scalar::any());
  return true;
}

/// The helper calls the function any number of times, then returns: both ways are walked from here,
/// and the function's end leads back here, until nothing new comes of it.
Explorer::Step Explorer::call_back(const Contract& contract) {
  if (!now_.is_called_back) now_.frame().round_id = next_id();
  now_.is_called_back = false;
  bool is_covered = false;
  if (!converge(&is_covered)) return Step::kRefused;
  if (is_covered) return Step::kEnd;
  if (!check_arguments(contract)) return Step::kRefused;
  State other = now_;
  if (!enter_callback(contract)) return Step::kRefused;
  std::swap(now_, other);
  if (!push(std::move(other))) return Step::kRefused;
  return give_result(contract) ? Step::kGo : Step::kRefused;
}

bool Explorer::enter_callback(const Contract& contract) {
  const bool is_loop = contract.calls == Calls::kLoop;
  const Reg function = now_.reg(2);
  const Reg data = now_.reg(3);
  const Reg map = now_.reg(1);
  if (now_.frames.size() >= kCallFramesMax) {
    return refuse(EINVAL, "calls nest deeper than 8 frames");
  }
  Frame frame;
  frame.subprog = flow_.subprog_of(function.map);
  frame.call_slot = now_.slot;
  frame.entry = is_loop ? Entry::kLoopCallback : Entry::kEachCallback;
  frame.held_before = static_cast<uint32_t>(now_.held.size());
  frame.regs[kFrameReg] = Reg::pointer(Kind::kStack);
  frame.regs[kFrameReg].frame = static_cast<uint8_t>(now_.frames.size());
  if (is_loop) {
    frame.regs[1] = Reg::number(Scalar::any());
    frame.regs[2] = data;
  } else {
    const MapShape shape = map_shape(map.map);
    frame.regs[1] = map;
    frame.regs[2] = Reg::pointer(Kind::kKey);
    frame.regs[2].bytes = shape.key_bytes;
    frame.regs[3] = Reg::pointer(Kind::kMapValue);
    frame.regs[3].map = map.map;
    frame.regs[3].bytes = shape.value_bytes;
    frame.regs[4] = data;
  }
  now_.slot = function.map;
  now_.frames.push_back(std::move(frame));
  return true;
}

}  // namespace bpftime::verify
