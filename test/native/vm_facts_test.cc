// SPDX-License-Identifier: MIT
// What an image says about its program (context words read, GOT slots, CPU features), and the
// machine code of a few programs that everybody's probe begins with.
#include <string>

#include "tap.h"
#include "vm/asm.h"
#include "vm/layout.h"
#include "vm_case.h"
#include "vm_host.h"

namespace {

using namespace bpftime;
using namespace vmtest;

ProgramImage image_of(const char* text, uint32_t cpu_features = kCpuBmi2 | kCpuRdpid) {
  const Assembly assembly = assemble(text);
  CompileOptions options;
  options.geometry = geometry_of;
  options.cpu_features = cpu_features;
  Result<ProgramImage> image = compile(assembly.slots, options);
  if (!assembly || !image.ok()) {
    tap::ok(false, "compiles");
    std::printf("# %s%s\n%s\n", assembly.error.c_str(), image.error().reason, text);
    return {};
  }
  return std::move(image.value());
}

void reads(const char* name, const char* text, uint32_t mask, bool escapes) {
  const ProgramImage image = image_of(text);
  const bool passed = image.escapes_ctx == escapes && (escapes || image.ctx_read_mask == mask);
  if (tap::ok(passed, name)) return;
  std::printf("# mask %#x, escapes %d\n", image.ctx_read_mask, image.escapes_ctx);
}

void code(const char* name, const char* text, const char* hex) {
  const std::vector<uint8_t> want = parse_hex(hex);
  const ProgramImage image = image_of(text);
  if (tap::ok(image.text == want, name)) return;
  std::printf("# got");
  for (const uint8_t byte : image.text) std::printf(" %02x", byte);
  std::printf("\n");
}

void check_context() {
  reads("nothing", "r0 = 0\nexit", 0, false);
  reads("rdi is word 14", "r0 = *(u64 *)(r1 + 112)\nexit", 1u << 14, false);
  reads("half a word counts", "r0 = *(u32 *)(r1 + 116)\nexit", 1u << 14, false);
  reads("two words with one load", "r0 = *(u64 *)(r1 + 4)\nexit", 3, false);
  reads("through a copy and an offset", "r6 = r1\nr6 += 16\nr0 = *(u64 *)(r6 - 8)\nexit", 2, false);
  reads("in both branches",
        "if r2 == 0 goto other\nr0 = *(u64 *)(r1 + 0)\nexit\nother: r0 = *(u64 *)(r1 + 8)\nexit", 3,
        false);
  reads("in a loop",
        "r0 = 0\nagain: r3 = *(u64 *)(r1 + 24)\nr0 += r3\nif r0 < 100 goto again\nexit", 8, false);
  reads("unreachable loads do not count", "r0 = 0\nexit\nr0 = *(u64 *)(r1 + 0)\nexit", 0, false);
  reads("a helper without arguments does not see r1", "r6 = *(u64 *)(r1 + 0)\ncall 5\nexit", 1,
        false);
  reads("a helper of two does not see r3", "r3 = r1\nr1 = 0\nr2 = 0\ncall 1\nexit", 0, false);
  reads("passed to a helper", "call 27\nexit", 0, true);
  reads("passed to a function", "call f\nexit\nf: r0 = 0\nexit", 0, true);
  reads("stored", "*(u64 *)(r10 - 8) = r1\nr0 = 0\nexit", 0, true);
  reads("written to", "*(u64 *)(r1 + 0) = 1\nr0 = 0\nexit", 0, true);
  reads("variable offset", "r1 += r2\nr0 = *(u64 *)(r1 + 0)\nexit", 0, true);
  reads("behind the registers", "r0 = *(u64 *)(r1 + 168)\nexit", 0, true);
  reads("different offsets that meet",
        "r3 = r1\nif r2 == 0 goto join\nr3 += 8\njoin: r0 = *(u64 *)(r3 + 0)\nexit", 0, true);
}

constexpr char kArrayCounter[] =
    "*(u32 *)(r10 - 4) = 2\nr2 = r10\nr2 += -4\nr1 = map(7) ll\ncall 1\nif r0 == 0 goto out\n"
    "r1 = 1\nlock *(u64 *)(r0 + 0) += r1\nout: r0 = 0\nexit";

void check_got() {
  const ProgramImage constant = image_of(kArrayCounter);
  tap::ok(constant.got.size() == 1 && constant.got[0].kind == GotKind::kMapValue &&
              constant.got[0].index == 7 && constant.got[0].offset == 48,
          "a constant key becomes the address of its value");
  const ProgramImage shared = image_of("r1 = map(7) ll\nr2 = map(7) ll\ncall 2\ncall 2\nexit");
  tap::equal(static_cast<long long>(shared.got.size()), 2, "GOT slots are shared");
  tap::equal(static_cast<long long>(shared.got_off()), 4096, "the GOT begins on the next page");
  tap::equal(shared.cpu_features, 0, "no extension needed");
  const char* shift = "r0 = 1\nr0 <<= r2\nexit";
  tap::equal(image_of(shift).cpu_features, kCpuBmi2, "BMI2 is recorded");
  tap::equal(image_of(shift, 0).cpu_features, 0, "and not used where it is missing");
  const Assembly outside = assemble("r1 = map_value(8, 8) ll\nr0 = 0\nexit");
  CompileOptions options;
  options.geometry = geometry_of;
  const Result<ProgramImage> refused = compile(outside.slots, options);
  tap::ok(!refused.ok() && refused.error().errnum == EINVAL, "value address outside the map");
}

void check_code() {
  // endbr64; xor eax, eax; ret
  code("empty program", "r0 = 0\nexit", "f30f1efa 31c0 c3");
  // endbr64; mov rax, [rdi+0x70]; ret
  code("first argument", "r0 = *(u64 *)(r1 + 112)\nexit", "f30f1efa 488b4770 c3");
  // endbr64; mov rax, [rip+got]; lock add qword [rax], 1; xor eax, eax; ret
  code("counter in an array: no key is stored, as nothing reads it", kArrayCounter,
       "f30f1efa 488b05f50f0000 f048830001 31c0 c3");
  // endbr64; push rax; call [rip+got]; pop rcx; ret
  code("helper call", "call 2\nexit", "f30f1efa 50 ff15f50f0000 59 c3");
  // endbr64; lea rax, [rdi+rsi]; ret
  code("sum", "r0 = r1\nr0 += r2\nexit", "f30f1efa 488d0437 c3");
}

/// The segments in which the first function of `text` is written: "START-END ..." by slot.
void order(const char* name, const char* text, const char* want) {
  Flow flow;
  const Verdict verdict = build_flow(assemble(text).slots, {}, &flow);
  std::string got;
  if (verdict.ok) {
    for (const Segment& segment : layout(flow, flow.subprogs[0])) {
      got += (got.empty() ? "" : " ") + std::to_string(segment.start) + "-" +
             std::to_string(segment.end);
    }
  }
  if (!tap::ok(got == want, name)) std::printf("# got %s, want %s\n", got.c_str(), want);
}

void check_layout() {
  order("without a loop nothing moves", "if r1 == 0 goto a\nr0 = 1\nexit\na: r0 = 2\nexit", "0-5");
  order("a loop of one short block stands there twice",
        "r0 = 0\nagain: r0 += 1\nif r0 != 9 goto again\nexit", "0-1 1-3 1-3 3-4");
  order("a loop with a call does not",
        "r6 = 9\nagain: call 5\nr6 += -1\nif r6 != 0 goto again\nexit", "0-5");
  order("a loop that is entered in its middle begins there; what leaves it stands behind it",
        "r2 = 0\ngoto middle\nagain: r2 += 1\nif r2 == 9 goto out\n"
        "middle: r3 = *(u8 *)(r1 + 0)\nif r3 == r2 goto on\nr0 = 1\ngoto out\n"
        "on: if r3 != 0 goto again\nout: exit",
        "0-2 4-6 8-9 2-4 9-10 6-8");
  order("a branch over a goto stays with it",
        "r2 = 9\nagain: r2 += -1\nif r2 == 0 goto over\ngoto again\nover: exit", "0-1 1-4 1-4 4-5");
}

}  // namespace

int main() {
  reset_world();
  check_context();
  check_got();
  check_code();
  check_layout();
  return tap::done();
}
