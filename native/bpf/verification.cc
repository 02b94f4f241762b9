// SPDX-License-Identifier: MIT
#include "verification.h"

#include <linux/bpf.h>

#include <time.h>

#include <cstring>

#include "../vm/rt/helpers.h"

namespace bpftime {

namespace {

// The id under which the verifier hears of what lies in a map of maps, with that map's own.
constexpr uint32_t kInnerOf = 1u << 31;
constexpr uint64_t kExit = BPF_JMP | BPF_EXIT;

/// The last program of a thread that was refused. Map ids in its bytecode are never used twice.
struct Refused {
  uint32_t type = 0;
  ProgRole role = ProgRole::kProbe;
  std::vector<uint64_t> insns;
  verify::Outcome outcome;
};

const MapObject* map_of(void* user, uint32_t id) {
  for (const auto& map : static_cast<const ProgObject*>(user)->maps) {
    if (map->id == id) return map.get();
  }
  return nullptr;
}

verify::MapShape shape_of(void* user, uint32_t id) {
  verify::MapShape shape;
  const bool is_inner = (id & kInnerOf) != 0;
  const MapObject* outer = map_of(user, id & ~kInnerOf);
  const MapObject* map = is_inner && outer != nullptr ? outer->inner_like.get() : outer;
  if (map == nullptr) return shape;
  if (map->inner_like != nullptr) shape.inner = id | kInnerOf;
  shape.type = map->view.type;
  shape.key_bytes = map->view.key_size;
  shape.value_bytes = map->view.value_size;
  shape.max_entries = map->view.max_entries;
  shape.flags = map->view.map_flags;
  shape.is_constant = !is_inner && map->frozen && (map->view.map_flags & BPF_F_RDONLY_PROG) != 0;
  shape.name = outer->name.c_str();
  return shape;
}

bool constant_of(void* user, uint32_t id, uint64_t offset, uint32_t bytes, uint64_t* value) {
  const MapObject* map = map_of(user, id);
  if (map == nullptr || bytes > 8 || offset > map->view.value_size ||
      bytes > map->view.value_size - offset) {
    return false;
  }
  *value = 0;
  std::memcpy(value, map->view.base + map->view.data_off + offset, bytes);
  return true;
}

uint64_t cpu_us() {
  timespec ts;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
  return static_cast<uint64_t>(ts.tv_sec) * 1000000u + static_cast<uint64_t>(ts.tv_nsec) / 1000u;
}

thread_local VerificationRecord* current_record = nullptr;

}  // namespace

VerificationRecord::VerificationRecord(std::string program_name)
    : name(program_name.substr(0, BPF_OBJ_NAME_LEN - 1)) {
  current_record = this;
}
VerificationRecord::~VerificationRecord() { current_record = nullptr; }

const HelperSet& known_helpers() {
  static const HelperSet set = [] {
    HelperSet helpers;
#define ADD_HELPER(id, name, fn) helpers.set(id);
    RT_HELPERS(ADD_HELPER)
#undef ADD_HELPER
    helpers.set(BPF_FUNC_tail_call);  // no function: the compiler's and the interpreter's own
    return helpers;
  }();
  return set;
}

// A probe does not change what a function returns.
static const HelperSet& helpers_of_probes() {
  static const HelperSet set = HelperSet(known_helpers()).reset(BPF_FUNC_override_return);
  return set;
}

void add_log_line(std::string& log, size_t insn, const std::string& reason) {
  log += "insn " + std::to_string(insn) + ": " + reason + '\n';
}

Result<void> verify_prog(ProgObject* prog, const ProgSpec& spec, std::string& log) {
  verify::Options options;
  options.helpers = spec.role == ProgRole::kReplace ? &known_helpers() : &helpers_of_probes();
  if (spec.role == ProgRole::kReplace) options.context = &verify::replace_context();
  options.prog_type = spec.type;
  options.maps = {shape_of, constant_of, prog};
  if (spec.btf != nullptr) options.debug.btf = spec.btf->data;
  options.debug.func_info = spec.func_info;
  options.debug.line_info = spec.line_info;
  // libbpf loads what was refused once more, to get the log.
  thread_local Refused last;
  if (last.type != spec.type || last.role != spec.role || last.insns != prog->insns) {
    const uint64_t begin_us = cpu_us();
    last.outcome = verify::verify(prog->insns, options);
    if (current_record != nullptr && current_record->name == spec.name) {
      current_record->time_us = static_cast<uint32_t>(cpu_us() - begin_us);
      current_record->outcome = std::make_unique<verify::Outcome>(last.outcome);
    }
    last.type = spec.type;
    last.role = spec.role;
    last.insns = prog->insns;
  }
  const verify::Outcome& outcome = last.outcome;
  if (outcome.ok()) {
    last.insns.clear();
    // Constants decided that it is dead; should a target spoil them, this is where it ends. It may
    // also call helpers that do not exist here.
    for (size_t i = 0; i < prog->insns.size(); ++i) {
      if (outcome.reached[i] == 0) prog->insns[i] = kExit;
    }
    return {};
  }
  log += outcome.path;
  add_log_line(log, outcome.insn_index,
               outcome.reason + (outcome.where.empty() ? "" : ", at " + outcome.where));
  return fail(outcome.errnum, "the verifier refused the program");
}

}  // namespace bpftime
