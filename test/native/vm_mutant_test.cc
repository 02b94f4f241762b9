// SPDX-License-Identifier: MIT
// Hostile bytecode for the verifier: programs with bits flipped, random slots, and programs made to
// take long. Every answer is a verdict, within the budget; what is accepted is run in the checked
// world. Argument: number of programs (30000).
#include <time.h>

#include <cstdlib>

#include "tap.h"
#include "vm/asm.h"
#include "vm_checked.h"
#include "vm_verify_random.h"

namespace {

using namespace bpftime;
using namespace vmtest;

#ifdef __SANITIZE_ADDRESS__
constexpr double kSecondsMax = 50;
#else
constexpr double kSecondsMax = 5;  // of CPU time
#endif

double cpu_seconds() {
  timespec ts;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
  return static_cast<double>(ts.tv_sec) + static_cast<double>(ts.tv_nsec) / 1e9;
}

std::vector<uint64_t> mutant(std::mt19937_64& random) {
  std::vector<uint64_t> slots = ProbeProgram(random(), 2).make();
  const auto flips = 1 + random() % 3;
  for (uint64_t i = 0; i < flips; ++i) {
    uint64_t& slot = slots[random() % slots.size()];
    switch (random() % 4) {
      case 0:
        slot ^= uint64_t{1} << (random() % 64);
        break;
      case 1:  // a register
        slot = (slot & ~uint64_t{0xff00}) | random() % 11 << 8 | random() % 11 << 12;
        break;
      case 2:  // an immediate
        slot = (slot & 0xffffffff) | random() % 128 << 32;
        break;
      default:
        slot = slots[random() % slots.size()];
    }
  }
  return slots;
}

bool survives(const std::vector<uint64_t>& slots, uint64_t seed, int* accepted) {
  verify::Options options = verify_options();
  options.insn_budget = 20000;
  const verify::Outcome outcome = verify::verify(slots, options);
  if (!outcome.ok()) return !outcome.reason.empty();
  Flow flow;
  ValidateOptions structure;
  structure.defer_helpers = true;
  if (!build_flow(slots, structure, &flow)) return false;
  ++*accepted;
  const std::string violation = Checked(flow, nullptr, seed).run();
  if (violation.empty()) return true;
  std::printf("# %s\n%s", violation.c_str(), isa::disasm_all(slots).c_str());
  return false;
}

void check_mutants(int count) {
  std::mt19937_64 random(5);
  int accepted = 0;
  int wrong = 0;
  for (int i = 0; i < count && wrong < 3; ++i) {
    wrong += !survives(mutant(random), static_cast<uint64_t>(i), &accepted);
  }
  tap::equal(wrong, 0, "mutants are refused, or harmless");
  std::printf("# %d of %d accepted\n", accepted, count);
}

/// A program that would take the verifier long: an answer comes all the same.
void check_time(const char* name, const std::vector<uint64_t>& slots,
                const verify::DebugInfo& debug = {}) {
  const double begin = cpu_seconds();
  verify::Options options = verify_options();
  options.debug = debug;
  const verify::Outcome outcome = verify::verify(slots, options);
  const double seconds = cpu_seconds() - begin;
  std::printf("# %.2f s, %u walked, %u states: %s\n", seconds, outcome.walked, outcome.states,
              outcome.ok() ? "accepted" : outcome.reason.c_str());
  tap::ok(seconds < kSecondsMax, name);
}

std::vector<uint64_t> from_text(const std::string& text) {
  const Assembly assembly = assemble(text);
  if (!assembly) std::printf("# line %u: %s\n", assembly.error_line, assembly.error.c_str());
  return assembly.slots;
}

/// `count` branches on bits of what was read; each path leaves another number on the stack.
std::string many_paths(int count) {
  std::string text = "r6 = r1\n";
  for (int i = 0; i < 64; ++i) text += "*(u64 *)(r10 - " + std::to_string(8 * (i + 1)) + ") = 0\n";
  for (int i = 0; i < count; ++i) {
    const std::string off = std::to_string(8 * (i % 64 + 1));
    text += "r2 = *(u64 *)(r6 + " + std::to_string(8 * (i % 20)) + ")\n";
    text += "if r2 == " + std::to_string(i) + " goto +1\n*(u64 *)(r10 - " + off + ") = 1\n";
  }
  text += "r3 = r10\nr3 += -512\n";
  text += "r2 = *(u64 *)(r6 + 0)\nr2 &= 511\nr3 += r2\nr0 = *(u8 *)(r3 + 0)\n";
  for (int i = 0; i < 64; ++i) {
    text += "r2 = *(u64 *)(r10 - " + std::to_string(8 * (i + 1)) + ")\nif r2 == 7 goto +0\n";
  }
  return text + "r0 = 0\nexit\n";
}

std::string nested_loops(int depth) {
  std::string text = "r0 = 0\n";
  for (int i = 0; i < depth; ++i) {
    text += "*(u64 *)(r10 - " + std::to_string(8 * (i + 1)) + ") = 0\n";
    text += "l" + std::to_string(i) + ": r0 += 1\n";
  }
  for (int i = depth; i-- > 0;) {
    const std::string at = "*(u64 *)(r10 - " + std::to_string(8 * (i + 1)) + ")";
    text +=
        "r1 = " + at + "\nr1 += 1\n" + at + " = r1\nif r1 < 100 goto l" + std::to_string(i) + "\n";
  }
  return text + "exit\n";
}

std::string call_chain() {
  std::string text = "call f0\nr0 = 0\nexit\n";
  for (int i = 0; i < 6; ++i) {
    text += "f" + std::to_string(i) + ": r6 = 0\n";
    for (int k = 0; k < 12; ++k) text += "call f" + std::to_string(i + 1) + "\n";
    text += "r0 = 0\nexit\n";
  }
  return text + "f6: call 7\nif r0 > 5 goto +1\nr0 = 1\nexit\n";
}

/// `count` functions, each called once.
std::vector<uint64_t> many_functions(uint32_t count) {
  std::vector<uint64_t> slots;
  for (uint32_t i = 0; i < count; ++i) {
    const uint64_t distance = count + 2 + uint64_t{2} * i - i - 1;
    slots.push_back(0x1085 | distance << 32);
  }
  slots.insert(slots.end(), {0xb7, 0x95});
  for (uint32_t i = 0; i < count; ++i) slots.insert(slots.end(), {0xb7, 0x95});
  return slots;
}

std::vector<uint8_t> bytes_of(const std::vector<uint32_t>& words) {
  std::vector<uint8_t> bytes(words.size() * 4);
  std::memcpy(bytes.data(), words.data(), bytes.size());
  return bytes;
}

/// Types of two global functions: one that takes nothing, and one whose parameter is a typedef of
/// itself.
std::vector<uint8_t> odd_types() {
  constexpr uint32_t kTypedef = 8u << 24;
  constexpr uint32_t kFunc = 12u << 24 | 1;  // BTF_FUNC_GLOBAL
  constexpr uint32_t kProto = 13u << 24;
  const std::vector<uint32_t> types = {0, kProto,     0,        // 1: ()
                                       1, kFunc,      1,        // 2: f
                                       1, kTypedef,   3,        // 3: typedef of 3
                                       0, kProto | 1, 0, 1, 3,  // 4: (3)
                                       1, kFunc,      4};       // 5: f
  const auto type_bytes = static_cast<uint32_t>(types.size() * 4);
  std::vector<uint32_t> words = {0x1eb9f, 24, 0, type_bytes, type_bytes, 4};
  words.insert(words.end(), types.begin(), types.end());
  words.push_back(0x00006600);  // "", "f", ""
  return bytes_of(words);
}

void check_types() {
  constexpr uint32_t kFunctions = 200000;
  const std::vector<uint8_t> btf = odd_types();
  for (const uint32_t type : {2u, 5u}) {
    std::vector<uint32_t> functions;
    for (uint32_t i = kFunctions; i-- > 0;) {
      functions.push_back(kFunctions + 2 + 2 * i);
      functions.push_back(type);
    }
    const std::vector<uint8_t> func_info = bytes_of(functions);
    verify::DebugInfo debug;
    debug.btf = btf;
    debug.func_info = func_info;
    check_time(type == 2 ? "functions without end, each with its type"
                         : "and with a type that is made of itself",
               many_functions(kFunctions), debug);
  }
}

void check_long() {
  check_time("a million instructions in a row", [] {
    std::vector<uint64_t> slots(1048574, 0xb7);
    slots.push_back(0xb7);
    slots.push_back(0x95);
    return slots;
  }());
  check_time("a million branches", [] {
    std::vector<uint64_t> slots{0x6179};  // r1 = *(u64 *)(r6 + 0): refused at once
    slots[0] = 0x0000000000001279;        // r2 = *(u64 *)(r1 + 0)
    slots.insert(slots.end(), 1048570, 0x0000000100000215 | 0);
    slots.push_back(0xb7);
    slots.push_back(0x95);
    return slots;
  }());
  check_time("paths that differ in what is read later", from_text(many_paths(400)));
  check_time("nested loops", from_text(nested_loops(6)));
  check_time("calls of calls of calls", from_text(call_chain()));
  check_time("a loop that counts for ever",
             from_text("r1 = 0\nagain: r1 += 1\nif r1 != 0 goto again\nr0 = 0\nexit\n"));
  check_time("a callback that calls back",
             from_text("r1 = 8000000\nr2 = func(f) ll\nr3 = 0\nr4 = 0\ncall 181\nr0 = 0\nexit\n"
                       "f: r1 = 8000000\nr2 = func(g) ll\nr3 = 0\nr4 = 0\ncall 181\nr0 = 0\nexit\n"
                       "g: r1 = 8000000\nr2 = func(h) ll\nr3 = 0\nr4 = 0\ncall 181\nr0 = 0\nexit\n"
                       "h: r0 = 0\nexit\n"));
}

}  // namespace

int main(int argc, char** argv) {
  check_mutants(argc > 1 ? std::atoi(argv[1]) : 30000);
  check_long();
  check_types();
  return tap::done();
}
