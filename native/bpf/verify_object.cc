// SPDX-License-Identifier: MIT
#include "verify_object.h"

#include <bpf/libbpf.h>

#include <memory>

#include "loader.h"
#include "objects.h"
#include "syscall.h"
#include "verification.h"

namespace bpftime {

namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

/// What libbpf said last, without its prefix.
std::string last_words(const std::string& log) {
  const std::vector<std::string> lines = lines_of(log);
  if (lines.empty()) return "libbpf could not load it";
  const std::string& first = lines.front();
  const std::string prefix = "libbpf: ";
  return first.starts_with(prefix) ? first.substr(prefix.size()) : first;
}

ProgramVerdict verdict_on(bpf_object* object, const std::string& name, std::string* log) {
  ProgramVerdict verdict;
  verdict.name = name;
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object) {
    const bool wanted = name == bpf_program__name(program);
    bpf_program__set_autoload(program, wanted);
    if (wanted) verdict.section = bpf_program__section_name(program);
  }
  verdict.reason = absent_map(object);
  if (!verdict.reason.empty()) {
    verdict.errnum = ENOEXEC;
    return verdict;
  }
  forget_ring_types(object);
  const LoadSession session;
  const VerificationRecord record(name);
  const int error = bpf_object__load(object);
  if (record.outcome == nullptr) {
    verdict.errnum = error != 0 ? -error : EIO;
    verdict.reason = last_words(*log);
    return verdict;
  }
  const verify::Outcome& outcome = *record.outcome;
  verdict.insn_count = static_cast<uint32_t>(outcome.reached.size());
  verdict.errnum = outcome.errnum;
  verdict.insn_index = outcome.insn_index;
  verdict.reason = outcome.reason;
  verdict.where = outcome.where;
  verdict.path = lines_of(outcome.path);
  verdict.walked = outcome.walked;
  verdict.states = outcome.states;
  verdict.time_us = record.time_us;
  return verdict;
}

}  // namespace

Result<std::vector<ProgramVerdict>> verify_object(std::span<const uint8_t> file,
                                                  const std::string& only, std::string& log) {
  const LogCapture capture(log);
  std::vector<ProgramVerdict> verdicts;
  Result<ObjectPtr> first = open_object("object", file);
  if (!first) return first.error();
  std::vector<std::string> names;
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, first->get()) {
    if (only.empty() || only == bpf_program__name(program)) {
      names.emplace_back(bpf_program__name(program));
    }
  }
  if (names.empty() && !only.empty()) return fail(ENOENT, "no program of that name in the object");
  if (names.empty()) {
    return fail(ENOEXEC, "no program in the object: give each function a SEC(\"...\")");
  }
  for (const std::string& name : names) {
    Result<ObjectPtr> object = open_object("object", file);
    if (!object) return object.error();
    log.clear();
    verdicts.push_back(verdict_on(object->get(), name, &log));
  }
  return verdicts;
}

}  // namespace bpftime
