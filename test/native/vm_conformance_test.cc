// SPDX-License-Identifier: MIT
// Runs every golden case of test/golden/vm through the interpreter and through the compiler in each
// of its configurations. Arguments: names of files, to run only those.
#include <algorithm>
#include <filesystem>

#include "tap.h"
#include "vm/asm.h"
#include "vm/interp.h"
#include "vm/isa.h"
#include "vm/loaded_image.h"
#include "vm_case.h"
#include "vm_host.h"

namespace {

using namespace bpftime;
using namespace vmtest;

struct Engine {
  const char* name;
  bool is_interpreter;
  uint32_t cpu_features;
  bool inlines;
};

struct Outcome {
  bool ok = false;
  std::string why;
  uint64_t result = 0;
  std::vector<uint8_t> mem;
};

Outcome run(const Engine& engine, const std::vector<uint64_t>& slots, const Case& item) {
  reset_world();
  Outcome outcome;
  outcome.mem = item.mem;
  outcome.mem.resize(std::max<size_t>(item.mem.size(), 8));  // so that r1 is an address
  const Resolver resolver{resolve, nullptr};
  const HelperSet helpers = helper_set();
  if (engine.is_interpreter) {
    const Result<Program> program = Program::link(slots, resolver);
    if (!program.ok()) return {false, program.error().reason, 0, {}};
    outcome.result = interp_run(program.value(), outcome.mem.data(), item.mem.size());
  } else {
    CompileOptions options;
    options.helpers = &helpers;
    options.geometry = engine.inlines ? geometry_of : nullptr;
    options.inline_helpers = engine.inlines;
    options.cpu_features = engine.cpu_features;
    const Result<ProgramImage> image = compile(slots, options);
    if (!image.ok()) return {false, image.error().reason, 0, {}};
    const Result<LoadedImage> loaded = LoadedImage::map(image.value(), resolver);
    if (!loaded.ok()) return {false, loaded.error().reason, 0, {}};
    outcome.result = loaded.value().run(outcome.mem.data(), item.mem.size());
  }
  outcome.ok = true;
  outcome.mem.resize(item.mem.size());
  return outcome;
}

std::string label(const Case& item, const char* what) {
  return item.file + ": " + item.name + (*what != '\0' ? std::string(", ") + what : "");
}

/// What the disassembler prints, the assembler turns into the same slots.
void check_round_trip(const Case& item, const std::vector<uint64_t>& slots) {
  std::string text;
  for (uint32_t i = 0; i < slots.size(); ++i) {
    const uint64_t next = i + 1 < slots.size() ? slots[i + 1] : 0;
    text += isa::disasm(slots[i], next, i) + "\n";
    if (isa::decode(slots[i]).is_lddw()) ++i;
  }
  const Assembly again = assemble(text);
  if (again && again.slots == slots) return;
  tap::ok(false, label(item, "disassembly assembles again").c_str());
  std::printf("# line %u: %s\n", again.error_line, again.error.c_str());
}

void check_refusal(const Case& item, const std::vector<uint64_t>& slots) {
  const HelperSet helpers = helper_set();
  ValidateOptions options;
  options.helpers = &helpers;
  const Verdict verdict = validate(slots, options);
  const std::string got = std::to_string(verdict.insn_index) + ": " + verdict.reason;
  const bool passed = !verdict.ok && got == item.error;
  if (tap::ok(passed, label(item, "refused").c_str())) return;
  std::printf("# got  %s\n# want %s\n", verdict.ok ? "accepted" : got.c_str(), item.error.c_str());
}

void check_case(const Case& item) {
  const Assembly assembly = assemble(item.text);
  if (!assembly) {
    tap::ok(false, label(item, "assembles").c_str());
    std::printf("# line %u: %s\n", assembly.error_line, assembly.error.c_str());
    return;
  }
  if (item.is_error) return check_refusal(item, assembly.slots);
  check_round_trip(item, assembly.slots);
  const uint32_t host = cpu_features_host();
  const Engine engines[] = {{"interpreter", true, 0, false},
                            {"jit", false, host, true},
                            {"jit without extensions", false, 0, true},
                            {"jit without inlining", false, host, false}};
  std::vector<uint8_t> mem;
  bool passed = true;
  for (const Engine& engine : engines) {
    const Outcome outcome = run(engine, assembly.slots, item);
    if (!outcome.ok || outcome.result != item.result) {
      passed = false;
      std::printf("# %s: %s got %#llx, want %#llx\n", engine.name, outcome.why.c_str(),
                  static_cast<unsigned long long>(outcome.result),
                  static_cast<unsigned long long>(item.result));
    }
    if (engine.is_interpreter) mem = outcome.mem;
    if (outcome.ok && (outcome.mem != mem || (item.has_mem_after && mem != item.mem_after))) {
      passed = false;
      std::printf("# %s: memory differs:", engine.name);
      for (const uint8_t byte : outcome.mem) std::printf(" %02x", byte);
      std::printf("\n");
    }
  }
  tap::ok(passed, label(item, "").c_str());
}

}  // namespace

int main(int argc, char** argv) {
  // Programs use per-CPU values: stay on one CPU.
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(sched_getcpu()), &one);
  sched_setaffinity(0, sizeof one, &one);
  std::vector<std::string> files;
  if (argc > 1) {
    files.assign(argv + 1, argv + argc);
  } else {
    for (const auto& entry : std::filesystem::directory_iterator(VM_GOLDEN_DIR)) {
      if (entry.path().extension() == ".data") files.push_back(entry.path().string());
    }
  }
  std::sort(files.begin(), files.end());
  for (const std::string& file : files) {
    const std::vector<Case> cases = read_cases(file);
    tap::ok(!cases.empty(), (file.substr(file.rfind('/') + 1) + " has cases").c_str());
    for (const Case& item : cases) check_case(item);
  }
  return tap::done();
}
