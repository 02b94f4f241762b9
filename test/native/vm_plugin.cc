// SPDX-License-Identifier: MIT
// Plugin for conformance runners: program as hex bytes in one line on stdin (or --program HEX),
// memory as hex bytes in the first plain argument; prints r0 in hex. A refusal goes to stderr and
// ends with status 1. --interpreter: interpret instead of compiling. Helper 5 returns r1.
#include <cstdio>
#include <cstring>
#include <iostream>

#include "vm/interp.h"
#include "vm/loaded_image.h"
#include "vm_case.h"

namespace {

using namespace bpftime;

uint64_t identity(uint64_t r1, uint64_t, uint64_t, uint64_t, uint64_t) { return r1; }

uint64_t resolve(void*, const GotSlot& slot) {
  const bool known = slot.kind == GotKind::kHelper && slot.index == 5;
  return known ? reinterpret_cast<uint64_t>(&identity) : 0;
}

int refuse(const Failure& failure) {
  std::fprintf(stderr, "refused: %s\n", failure.reason);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  std::string program_text;
  std::string memory_text;
  bool interpret = false;
  bool has_program = false;
  bool has_memory = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--interpreter") == 0) {
      interpret = true;
    } else if (std::strcmp(argv[i], "--program") == 0 && i + 1 < argc) {
      program_text = argv[++i];
      has_program = true;
    } else if (argv[i][0] != '-' && !has_memory) {
      memory_text = argv[i];
      has_memory = true;
    }
  }
  if (!has_program) std::getline(std::cin, program_text);
  const std::vector<uint8_t> bytes = vmtest::parse_hex(program_text);
  std::vector<uint8_t> memory = vmtest::parse_hex(memory_text);
  const size_t memory_bytes = memory.size();
  memory.resize(memory_bytes + 8);
  if (bytes.size() % 8 != 0) return refuse({EINVAL, "program is not a multiple of 8 bytes"});
  std::vector<uint64_t> slots(bytes.size() / 8);
  if (!bytes.empty()) std::memcpy(slots.data(), bytes.data(), bytes.size());

  const Resolver resolver{resolve, nullptr};
  uint64_t result = 0;
  if (interpret) {
    const Result<Program> program = Program::link(slots, resolver);
    if (!program.ok()) return refuse(program.error());
    result = interp_run(program.value(), memory.data(), memory_bytes);
  } else {
    CompileOptions options;
    options.inline_helpers = false;
    const Result<ProgramImage> image = compile(slots, options);
    if (!image.ok()) return refuse(image.error());
    const Result<LoadedImage> loaded = LoadedImage::map(image.value(), resolver);
    if (!loaded.ok()) return refuse(loaded.error());
    result = loaded.value().run(memory.data(), memory_bytes);
  }
  std::printf("%llx\n", static_cast<unsigned long long>(result));
  return 0;
}
