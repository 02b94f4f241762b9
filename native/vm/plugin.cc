// SPDX-License-Identifier: MIT
// vm-plugin: what the public bpf_conformance runner executes for each of its cases. The program
// comes as hex bytes in one line on stdin (or --program HEX), memory as hex bytes in the first
// plain argument (r1, and r2 its size); with --elf the bytes are an object file. Prints r0 in hex;
// a refusal is a sentence on stderr and status 1. Other options that the runner has are ignored.
#include <unistd.h>

#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "elf_text.h"
#include "image_file.h"
#include "interp.h"
#include "loaded_image.h"

namespace {

using namespace bpftime;

constexpr size_t kInputBytesMax = 64u << 20;
constexpr uint64_t kCheckedInsnsMax = 100000000;
constexpr size_t kPadBytes = 8;  // behind the memory: cases without any still get an address

enum class Engine { kJit, kInterp, kChecked, kAot };

struct Options {
  Engine engine = Engine::kJit;
  std::string program;  // hex; empty: stdin
  std::string memory;   // hex
  bool is_elf = false;
};

// The suite's one helper gives its first argument back.
uint64_t identity(uint64_t r1, uint64_t, uint64_t, uint64_t, uint64_t) { return r1; }

uint64_t resolve(void*, const GotSlot& slot) {
  const bool known = slot.kind == GotKind::kHelper && slot.index == 5;
  return known ? reinterpret_cast<uint64_t>(&identity) : 0;
}

int refuse(const std::string& why) {
  std::fprintf(stderr, "vm-plugin: %s\n", why.c_str());
  return 1;
}

/// False: something else than digits in pairs, and white space between them.
bool parse_hex(const std::string& text, std::vector<uint8_t>* bytes) {
  int high = -1;
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    if (std::isspace(u) != 0 && high < 0) continue;
    if (std::isxdigit(u) == 0) return false;
    const int digit = std::isdigit(u) != 0 ? c - '0' : std::tolower(u) - 'a' + 10;
    if (high >= 0) bytes->push_back(static_cast<uint8_t>(high * 16 + digit));
    high = high >= 0 ? -1 : digit;
  }
  return high < 0;
}

/// 0, or what to exit with.
int parse_options(int argc, char** argv, Options* options) {
  bool has_memory = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if ((word == "--program" || word == "--engine") && i + 1 == argc) {
      return refuse(word + ": a value is missing");
    }
    if (word == "--program") {
      options->program = argv[++i];
    } else if (word == "--elf") {
      options->is_elf = true;
    } else if (word == "--engine") {
      const std::string name = argv[++i];
      const std::map<std::string, Engine> engines = {{"jit", Engine::kJit},
                                                     {"interp", Engine::kInterp},
                                                     {"checked", Engine::kChecked},
                                                     {"aot", Engine::kAot}};
      const auto found = engines.find(name);
      if (found == engines.end()) {
        return refuse("--engine " + name + ": no such engine (jit, interp, checked, aot)");
      }
      options->engine = found->second;
    } else if (word.rfind("--", 0) != 0 && !has_memory) {
      options->memory = word;
      has_memory = true;
    }
  }
  return 0;
}

std::string read_stdin() {
  std::string text;
  char chunk[65536];
  ssize_t got = 0;
  while (text.size() < kInputBytesMax && (got = read(STDIN_FILENO, chunk, sizeof chunk)) > 0) {
    text.append(chunk, static_cast<size_t>(got));
  }
  return text;
}

/// What is left of a program after it was written into a file and read again.
Result<ProgramImage> through_file(ProgramImage image) {
  ImageFile file;
  file.programs.push_back({"main", "main", 0, std::move(image)});
  Result<ImageFile> again = read_image_file(write_image_file(file), nullptr);
  if (!again.ok()) return again.error();
  return std::move(again->programs.front().image);
}

int run(const Options& options, std::span<const uint64_t> slots, std::vector<uint8_t> memory) {
  const Resolver resolver{resolve, nullptr};
  const size_t bytes = memory.size();
  memory.resize(bytes + kPadBytes);
  uint64_t result = 0;
  if (options.engine == Engine::kJit || options.engine == Engine::kAot) {
    CompileOptions compile_options;
    compile_options.inline_helpers = false;  // 5 is the suite's helper, not the kernel's
    Result<ProgramImage> image = compile(slots, compile_options);
    if (image.ok() && options.engine == Engine::kAot) image = through_file(std::move(*image));
    if (!image.ok()) return refuse(image.error().reason);
    const Result<LoadedImage> loaded = LoadedImage::map(image.value(), resolver);
    if (!loaded.ok()) return refuse(loaded.error().reason);
    result = loaded.value().run(memory.data(), bytes);
  } else {
    const Result<Program> program = Program::link(slots, resolver);
    if (!program.ok()) return refuse(program.error().reason);
    Checks checks;
    const auto begin = reinterpret_cast<uint64_t>(memory.data());
    checks.ranges.push_back({begin, begin + bytes});
    checks.insns_left = kCheckedInsnsMax;
    const bool is_checked = options.engine == Engine::kChecked;
    result = interp_run(program.value(), memory.data(), bytes, is_checked ? &checks : nullptr);
    if (checks.reason != nullptr) {
      return refuse("instruction " + std::to_string(checks.insn_index) + " " + checks.reason);
    }
  }
  std::printf("%llx\n", static_cast<unsigned long long>(result));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  const int status = parse_options(argc, argv, &options);
  if (status != 0) return status;
  std::vector<uint8_t> memory;
  if (!parse_hex(options.memory, &memory)) return refuse("the memory is not hex bytes");
  const std::string text = options.program.empty() ? read_stdin() : options.program;
  std::vector<uint8_t> bytes;
  if (text.rfind("\177ELF", 0) == 0) {  // the file as it is
    bytes.assign(text.begin(), text.end());
  } else if (!parse_hex(text, &bytes)) {
    return refuse("the program is not hex bytes");
  }
  std::vector<uint64_t> slots;
  if (options.is_elf) {
    std::string why;
    slots = text_of_elf(
        bytes, "", [](const std::string&) { return -1; }, why);
    if (slots.empty()) return refuse("the object cannot be used: " + why);
  } else {
    if (bytes.empty() || bytes.size() % 8 != 0) return refuse("instructions have 8 bytes each");
    slots.resize(bytes.size() / 8);
    std::memcpy(slots.data(), bytes.data(), bytes.size());
  }
  return run(options, slots, std::move(memory));
}
