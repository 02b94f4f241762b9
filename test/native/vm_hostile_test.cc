// SPDX-License-Identifier: MIT
// Hostile bytecode: random slots, damaged programs and the largest programs go through validation,
// both back ends' preparation and the disassembler. Nothing is run; nothing may crash or hang.
// Argument: number of programs (150000).
#include <cstdlib>
#include <ctime>

#include "tap.h"
#include "vm/asm.h"
#include "vm/interp.h"
#include "vm/isa.h"
#include "vm_host.h"
#include "vm_random.h"

namespace {

using namespace bpftime;
using namespace vmtest;

uint64_t state = 88172645463325252ull;

uint64_t draw() {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state * 0x2545f4914f6cdd1dull;
}
uint32_t below(size_t bound) { return static_cast<uint32_t>((draw() >> 33) % bound); }

std::vector<uint64_t> random_slots() {
  std::vector<uint64_t> slots(1 + below(30));
  for (uint64_t& slot : slots) {
    slot = draw();
    if (below(2) == 0) slot &= 0x000000ff0007aaff;  // more often nearly legal
    if (below(8) == 0) slot = 0x95;
  }
  return slots;
}

void damage(std::vector<uint64_t>* slots) {
  const uint32_t count = 1 + below(3);
  for (uint32_t i = 0; i < count && !slots->empty(); ++i) {
    uint64_t& slot = (*slots)[below(slots->size())];
    switch (below(5)) {
      case 0:
        slot ^= uint64_t{1} << below(64);
        break;
      case 1:
        slot = (slot & ~0xffull) | (draw() & 0xff);
        break;
      case 2:
        slot = (slot & 0xffffffff0000ffffull) | (draw() & 0xff) << 16;
        break;
      case 3:
        slots->erase(slots->begin() + below(slots->size()));
        break;
      default:
        slots->insert(slots->begin() + below(slots->size()), (*slots)[below(slots->size())]);
    }
  }
}

/// True if the engines agree with the validator about what is acceptable.
bool process(const std::vector<uint64_t>& slots, uint64_t* accepted) {
  const HelperSet helpers = helper_set();
  ValidateOptions checks;
  checks.helpers = &helpers;
  const Verdict verdict = validate(slots, checks);
  (void)isa::disasm_all(slots);
  CompileOptions options;
  options.helpers = &helpers;
  options.geometry = geometry_of;
  const Result<ProgramImage> image = compile(slots, options);
  if (image.ok() != verdict.ok) return false;
  const Result<Program> program = Program::link(slots, Resolver{resolve, nullptr});
  if (program.ok() && !verdict.ok && validate(slots).ok != program.ok()) return false;
  if (verdict.ok) ++*accepted;
  return verdict.ok || (*verdict.reason != '\0' && verdict.insn_index < slots.size());
}

/// Of this thread's CPU: what others do on the machine is not counted.
double seconds(const std::vector<uint64_t>& slots, bool* ok) {
  timespec begin{};
  timespec end{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
  *ok = compile(slots).ok();
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
  return static_cast<double>(end.tv_sec - begin.tv_sec) +
         static_cast<double>(end.tv_nsec - begin.tv_nsec) / 1e9;
}

void large(const char* name, const std::vector<uint64_t>& slots, bool want_ok) {
  bool ok = false;
  const double took = seconds(slots, &ok);
  tap::ok(ok == want_ok && took < 5, name);
  std::printf("# %.3f s\n", took);
}

uint64_t slot_of(const char* text) { return assemble(text).slots.at(0); }

void check_large() {
  const uint64_t exit_slot = slot_of("exit");
  std::vector<uint64_t> slots(kInsnCountMax, slot_of("r0 += 1"));
  slots.back() = exit_slot;
  large("1048576 additions compile", slots, true);
  slots.push_back(exit_slot);
  large("1048577 instructions are refused", slots, false);
  slots.assign(kInsnCountMax, slot_of("if r0 == 5 goto +32000"));
  for (size_t i = slots.size() - 33000; i < slots.size(); ++i) slots[i] = exit_slot;
  large("a million long branches", slots, true);
  slots.assign(kInsnCountMax, slot_of("if r0 == 5 goto -20000"));
  for (size_t i = 0; i < 20001; ++i) slots[i] = slot_of("r3 = r0");
  slots.back() = exit_slot;
  large("a million backward branches", slots, true);
  slots.assign(kInsnCountMax, exit_slot);
  slots[0] = slot_of("call pc+1");
  for (size_t i = 0; i + 3 < slots.size(); i += 2) slots[i] = slot_of("call pc+524287");
  for (size_t i = slots.size() / 2; i < slots.size(); ++i) slots[i] = exit_slot;
  large("half a million functions", slots, true);
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t count = argc > 1 ? std::strtoull(argv[1], nullptr, 0) : 150000;
  reset_world();
  uint64_t wrong = 0;
  uint64_t accepted = 0;
  for (uint64_t i = 0; i < count; ++i) {
    std::vector<uint64_t> slots = i % 3 == 0 ? random_slots() : RandomProgram(i).make();
    if (i % 3 != 0) damage(&slots);
    if (process(slots, &accepted)) continue;
    if (++wrong < 3) std::printf("# program %llu\n", static_cast<unsigned long long>(i));
  }
  tap::equal(static_cast<long long>(wrong), 0, "hostile programs answered wrongly");
  tap::ok(accepted > count / 20 && accepted < count, "some are acceptable, some are not");
  std::printf("# %llu of %llu accepted\n", static_cast<unsigned long long>(accepted),
              static_cast<unsigned long long>(count));
  tap::ok(!validate({}).ok, "no instruction at all");
  check_large();
  return tap::done();
}
