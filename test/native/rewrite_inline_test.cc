// SPDX-License-Identifier: MIT
// Programs that stand in the body of a site do what they do when they are called, and leave all
// that a thread can see as they found it: entry, exit and the middle of a function, registers,
// flags and red zone; counts and samples too. Small programs by hand, then random ones.
// Arguments: number of random programs (5000), first seed (1).
#include <sched.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "abi/agent.h"
#include "rewrite/clobbers.h"
#include "rewrite/trampoline.h"
#include "tap.h"
#include "vm/asm.h"
#include "vm_host.h"
#include "vm_random.h"

namespace {

using namespace bpftime;           // NOLINT: a test
using namespace bpftime::rewrite;  // NOLINT: a test
using namespace vmtest;            // NOLINT: a test

constexpr size_t kArenaBytes = 1 << 20;
constexpr size_t kImageOff = 0, kStubOff = 0x40000, kSlotOff = 0x40100, kBodyOff = 0x41000;
constexpr size_t kStatsOff = 0x80000;
constexpr uint32_t kCpuShift = 12;
constexpr size_t kRedZoneCompared = 104;
constexpr uint64_t kFlagsKept = 0xcd5;  // carry, parity, adjust, zero, sign, direction, overflow
constexpr size_t kInlineAny = 1 << 16;

// As in struct pt_regs, then flags, then what lies below the stack pointer.
struct Machine {
  uint64_t regs[15];
  uint64_t flags;
  uint8_t red_zone[kRedZoneCompared];
  bool operator==(const Machine&) const = default;
};
static_assert(offsetof(Machine, flags) == 120 && offsetof(Machine, red_zone) == 128);

}  // namespace

// Calls `body` with all registers of `machine`, and stores them afterwards.
extern "C" void run_machine(Machine* machine, const void* body);
__asm__(R"(
.text
run_machine:
  push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15
  push %rdi; push %rsi
  lea 128(%rdi), %rsi; lea -136(%rsp), %rdi; mov $13, %ecx; cld; rep movsq
  mov 8(%rsp), %rdi
  mov 0(%rdi), %r15; mov 8(%rdi), %r14; mov 16(%rdi), %r13; mov 24(%rdi), %r12
  mov 32(%rdi), %rbp; mov 40(%rdi), %rbx; mov 48(%rdi), %r11; mov 56(%rdi), %r10
  mov 64(%rdi), %r9; mov 72(%rdi), %r8; mov 80(%rdi), %rax; mov 88(%rdi), %rcx
  mov 96(%rdi), %rdx; mov 104(%rdi), %rsi
  lea -144(%rsp), %rsp; pushq 120(%rdi); popfq; lea 144(%rsp), %rsp
  mov 112(%rdi), %rdi
  call *(%rsp)
  pushfq; cld; push %rax
  mov 24(%rsp), %rax
  mov %r15, 0(%rax); mov %r14, 8(%rax); mov %r13, 16(%rax); mov %r12, 24(%rax)
  mov %rbp, 32(%rax); mov %rbx, 40(%rax); mov %r11, 48(%rax); mov %r10, 56(%rax)
  mov %r9, 64(%rax); mov %r8, 72(%rax); mov %rcx, 88(%rax)
  mov %rdx, 96(%rax); mov %rsi, 104(%rax); mov %rdi, 112(%rax)
  pop %rcx; mov %rcx, 80(%rax)
  pop %rcx; mov %rcx, 120(%rax)
  lea 128(%rax), %rdi; lea -136(%rsp), %rsi; mov $13, %ecx; rep movsq
  pop %rsi; pop %rdi
  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx
  ret
)");

namespace {

enum class Place : uint8_t { kEntry, kMiddle, kExit };
constexpr const char* kPlaces[] = {"entry", "middle", "exit"};

uint64_t next_random(uint64_t* state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state * 0x2545f4914f6cdd1dull;
}

Machine random_machine(uint64_t seed) {
  Machine machine{};
  uint64_t state = seed * 0x9e3779b97f4a7c15ull + 1;
  for (uint64_t& reg : machine.regs) reg = next_random(&state);
  machine.flags = 0x202 | (next_random(&state) & kFlagsKept & ~0x400ull);
  for (uint8_t& byte : machine.red_zone) byte = static_cast<uint8_t>(next_random(&state));
  return machine;
}

struct Outcome {
  Machine machine{};
  uint8_t values[3][512];
  hook_stats stats{};
  bool operator==(const Outcome& other) const {
    return machine == other.machine && memcmp(values, other.values, sizeof values) == 0 &&
           stats.hits == other.stats.hits && stats.samples == other.stats.samples;
  }
};

class Lab {
 public:
  bool open() {
    void* at = mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE | PROT_EXEC,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    base_ = static_cast<uint8_t*>(at);
    if (at == MAP_FAILED) return false;
    memset(base_ + kStubOff, 0xc3, 1);
    return true;
  }

  bool load(const ProgramImage& image) {
    if (image.got_off() + image.got.size() * 8 > kStubOff) return false;
    got_.clear();
    for (const GotSlot& slot : image.got) got_.push_back(resolve(nullptr, slot));
    memcpy(base_ + kImageOff, image.text.data(), image.text.size());
    memcpy(base_ + kImageOff + image.got_off(), got_.data(), got_.size() * 8);
    call_ = HookCall{};
    call_.entry_slot = addr(kSlotOff);
    call_.stats = addr(kStatsOff);
    call_.cookie = 7;
    call_.hook_id = 3;
    call_.ctx_read_mask = image.ctx_read_mask;
    call_.escapes_ctx = image.escapes_ctx;
    call_.clobbers = clobbered_words(image.text);
    call_.entry = addr(kImageOff);
    code_ = inline_code(image.text, image.got_off(), got_, kInlineAny);
    return true;
  }
  [[nodiscard]] bool is_inlined() const { return code_.has_value(); }

  // One run on a machine, the program called or in the body, its slot leading to it or to nothing.
  Outcome run(Place place, bool inlined, bool removed, uint64_t hits, uint64_t seed) {
    TrampolineSpec spec;
    spec.body = addr(kBodyOff);
    spec.copy = addr(kStubOff);
    spec.func_ip = 0x401000;
    spec.at_entry = place == Place::kEntry;
    spec.has_rdpid = (cpu_features_host() & kCpuRdpid) != 0;
    spec.stats_cpu_shift = kCpuShift;
    if (seed % 2 != 0) spec.tail = [](uint64_t) { return std::vector<uint8_t>{0xc3}; };
    HookCall call = call_;
    if (inlined) call.code = code_;
    (place == Place::kExit ? spec.on_return : spec.on_entry).push_back(call);
    ExitSpec exit;
    exit.prefix = [](uint64_t) { return std::vector<uint8_t>{}; };
    exit.ret = {0xc3};
    const Result<Trampoline> body =
        place == Place::kExit ? build_exit(spec, exit) : build_trampoline(spec);
    Outcome out;
    if (!body.ok()) return out;
    memcpy(base_ + kBodyOff, body.value().code.data(), body.value().code.size());
    const uint64_t leads_to = removed ? addr(kStubOff) : call_.entry;
    memcpy(base_ + kSlotOff, &leads_to, sizeof leads_to);
    for (int m = 0; m < 3; ++m) memset(world.maps[m].bytes, m + 1, sizeof out.values[m]);
    for (uint32_t cpu = 0; cpu < kCpuMax; ++cpu) {
      const hook_stats fresh{hits, 0, 0, 0};
      memcpy(base_ + kStatsOff + (cpu << kCpuShift), &fresh, sizeof fresh);
    }
    out.machine = random_machine(seed);
    run_machine(&out.machine, base_ + kBodyOff);
    for (int m = 0; m < 3; ++m) memcpy(out.values[m], world.maps[m].bytes, sizeof out.values[m]);
    for (uint32_t cpu = 0; cpu < kCpuMax; ++cpu) {
      hook_stats one{};
      memcpy(&one, base_ + kStatsOff + (cpu << kCpuShift), sizeof one);
      out.stats.hits += one.hits - hits;
      out.stats.samples += one.samples;
    }
    return out;
  }

 private:
  [[nodiscard]] uint64_t addr(size_t off) const { return reinterpret_cast<uint64_t>(base_) + off; }
  uint8_t* base_ = nullptr;
  std::vector<uint64_t> got_;
  HookCall call_;
  std::optional<InlineCode> code_;
};

// What must be as before at a place.
bool is_kept(Place place, const Machine& before, const Machine& after) {
  if (memcmp(before.regs, after.regs, sizeof before.regs) != 0) return false;
  const uint64_t kept = place == Place::kEntry ? 0 : kFlagsKept;
  if ((before.flags & kept) != (after.flags & kept)) return false;
  return place != Place::kMiddle || memcmp(before.red_zone, after.red_zone, kRedZoneCompared) == 0;
}

// Flags and red zone at an entry, the red zone at an exit, are nobody's.
void forget_dead(Place place, Machine* machine) {
  if (place == Place::kEntry) machine->flags = 0;
  if (place != Place::kMiddle) memset(machine->red_zone, 0, kRedZoneCompared);
}

// Nothing but the context can tell programs the registers: those that write to it are not `kept`.
bool check(Lab* lab, uint64_t seed, bool keeps) {
  for (const Place place : {Place::kEntry, Place::kMiddle, Place::kExit}) {
    // Cold, sampled, counted; sampled and counted again.
    for (const uint32_t hits : {0u, 1u, 2u, HOOK_SAMPLE_EVERY + 1, HOOK_SAMPLE_EVERY - 1}) {
      const Machine before = random_machine(seed);
      Outcome called = lab->run(place, false, false, hits, seed);
      Outcome inlined = lab->run(place, true, false, hits, seed);
      Outcome removed = lab->run(place, true, true, hits, seed);
      const bool kept = !keeps || is_kept(place, before, inlined.machine);
      const bool kept_removed = is_kept(place, before, removed.machine);
      const bool sampled = hits % HOOK_SAMPLE_EVERY == 1;
      bool untouched = true;
      for (int m = 0; m < 3; ++m) {
        for (const uint8_t byte : removed.values[m]) untouched &= byte == m + 1;
      }
      forget_dead(place, &called.machine);
      forget_dead(place, &inlined.machine);
      if (called == inlined && kept && kept_removed && untouched && inlined.stats.hits == 1 &&
          inlined.stats.samples == (sampled ? 1 : 0)) {
        continue;
      }
      printf("# %s, hits %u: same %d, kept %d, kept without %d, untouched %d, counts %lu/%lu\n",
             kPlaces[static_cast<int>(place)], hits, called == inlined, kept, kept_removed,
             untouched, inlined.stats.hits, inlined.stats.samples);
      return false;
    }
  }
  return true;
}

ProgramImage image_of(const std::vector<uint64_t>& slots) {
  CompileOptions options;
  options.geometry = geometry_of;
  Result<ProgramImage> image = compile(slots, options);
  return image.ok() ? std::move(image.value()) : ProgramImage{};
}

constexpr const char* kLookup =
    "*(u32 *)(r10 - 4) = 2\nr2 = r10\nr2 += -4\nr1 = map(7) ll\ncall 1\nif r0 == 0 goto out\n";

struct Small {
  const char* name;
  std::string text;
  bool inlined = true;
};

const Small kSmall[] = {
    {"nothing", "r0 = 0\nexit"},
    {"atomic counter",
     std::string(kLookup) + "r1 = 1\nlock *(u64 *)(r0 + 0) += r1\nout: r0 = 0\nexit"},
    {"plain counter",
     std::string(kLookup) +
         "r1 = *(u64 *)(r0 + 0)\nr1 += 1\n*(u64 *)(r0 + 0) = r1\nout: r0 = 0\nexit"},
    {"a variable", "r1 = map_value(8, 0) ll\nr2 = 5\nlock *(u64 *)(r1 + 0) += r2\nr0 = 0\nexit"},
    {"an argument is the key",
     "r1 = *(u64 *)(r1 + 112)\nr1 &= 7\n*(u32 *)(r10 - 4) = r1\nr2 = r10\nr2 += -4\n"
     "r1 = map(7) ll\ncall 1\nif r0 == 0 goto out\nr1 = 1\nlock *(u64 *)(r0 + 8) += r1\n"
     "out: r0 = 0\nexit"},
    {"several ways out",
     "r2 = *(u64 *)(r1 + 80)\nr3 = map_value(8, 0) ll\nif r2 > 77 goto big\n*(u64 *)(r3 + 0) = 1\n"
     "r0 = 1\nexit\nbig: if r2 s< 0 goto out\n*(u64 *)(r3 + 0) = 2\nout: r0 = 0\nexit"},
    {"saved registers",
     "r6 = *(u64 *)(r1 + 96)\nr7 = *(u64 *)(r1 + 104)\nr8 = map_value(8, 0) ll\nr6 += r7\n"
     "*(u64 *)(r8 + 0) = r6\nr0 = r6\nexit"},
    {"a loop",
     "r1 = 0\nr2 = map_value(8, 0) ll\nagain: r1 += 3\nif r1 < 40 goto again\n"
     "*(u64 *)(r2 + 0) = r1\nr0 = 0\nexit"},
    {"stack pointer and instruction",
     "r2 = *(u64 *)(r1 + 152)\nr3 = *(u64 *)(r1 + 128)\n"
     "r4 = map_value(8, 0) ll\n*(u64 *)(r4 + 0) = r3\nr0 = 0\nexit"},
    {"a helper", "r1 = 1\ncall 3\nr0 = 0\nexit", false},
};

void check_small(Lab* lab) {
  for (const Small& small : kSmall) {
    const Assembly assembly = assemble(small.text);
    const ProgramImage image = image_of(assembly.slots);
    bool passed = !image.text.empty() && lab->load(image) && lab->is_inlined() == small.inlined;
    for (uint64_t seed = 1; passed && small.inlined && seed < 200; ++seed) {
      passed = check(lab, seed, true);
    }
    tap::ok(passed, small.name);
  }
}

void check_sizes() {
  const std::vector<uint64_t> got{0x7f1234567890, 0x1000};
  const std::vector<uint8_t> text{0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x8b, 0x05, 0xf5, 0x0f, 0,
                                  0,    0xf0, 0x48, 0x83, 0x00, 0x01, 0x31, 0xc0, 0xc3};
  const auto code = inline_code(text, 4096, got);
  const std::vector<uint8_t> want{0x48, 0xb8, 0x90, 0x78, 0x56, 0x34, 0x12, 0x7f,
                                  0,    0,    0xf0, 0x48, 0x83, 0x00, 0x01};
  tap::ok(code && code->bytes == want && !code->uses_stack, "a fused counter is two instructions");
  std::vector<uint8_t> far = text;
  far[7] = 0xff;
  tap::ok(!inline_code(far, 4096, got), "an address that is not in the table");
  tap::ok(!inline_code(std::span(text).first(18), 4096, got), "code that does not end");
  tap::ok(!inline_code(text, 4096, got, 18), "too long");
  const std::vector<uint8_t> into{0xeb, 0x01, 0xb8, 0, 0, 0, 0, 0xc3};
  tap::ok(!inline_code(into, 4096, got), "a jump into an instruction");
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t count = argc > 1 ? strtoull(argv[1], nullptr, 0) : 5000;
  const uint64_t first = argc > 2 ? strtoull(argv[2], nullptr, 0) : 1;
  // Values of per-CPU maps would differ from run to run else.
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  sched_setaffinity(0, sizeof one, &one);
  reset_world();
  Lab lab;
  if (!tap::ok(lab.open(), "executable memory")) return tap::done();
  check_sizes();
  check_small(&lab);
  uint64_t inlined = 0, differing = 0;
  for (uint64_t seed = first; seed < first + count && differing < 3; ++seed) {
    const ProgramImage image = image_of(RandomProgram(seed).make());
    if (image.text.empty() || !lab.load(image) || !lab.is_inlined()) continue;
    ++inlined;
    if (check(&lab, seed, false)) continue;
    ++differing;
    printf("# seed %llu\n", static_cast<unsigned long long>(seed));
  }
  printf("# %llu random programs stand in bodies\n", static_cast<unsigned long long>(inlined));
  tap::ok(inlined * 10 > count, "random programs can stand in bodies");
  tap::equal(static_cast<long long>(differing), 0, "those that differ from a call");
  return tap::done();
}
