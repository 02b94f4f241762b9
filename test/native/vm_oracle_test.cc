// SPDX-License-Identifier: MIT
// The verifier held to its word: generated programs that it accepts are run in a world that notices
// everything (vm_checked.h), and parts of its proof are left out to see that this is noticed.
// Arguments: number of programs (25000), first seed (1).
#include <cstdlib>

#include "tap.h"
#include "vm_checked.h"
#include "vm_verify_random.h"

namespace {

using namespace bpftime;
using namespace vmtest;

constexpr int kRuns = 3;

struct Tally {
  uint64_t accepted = 0;
  uint64_t violated = 0;
  uint64_t steps = 0;
  uint64_t at_odds =
      0;  // accepted when every number counts, refused when only those that matter do
};

std::vector<uint64_t> program_of(uint64_t seed) {
  static constexpr uint32_t kMistakes[] = {0, 1, 3, 10};
  return ProbeProgram(seed, kMistakes[seed % 4]).make();
}

void report(uint64_t seed, const std::vector<uint64_t>& slots, const std::string& what) {
  std::printf("# seed %llu: %s\n%s", static_cast<unsigned long long>(seed), what.c_str(),
              isa::disasm_all(slots).c_str());
}

/// Verifies and, if accepted, runs; "" or what went wrong.
std::string violation_of(uint64_t seed, const std::vector<uint64_t>& slots, bool is_exact,
                         uint32_t weakness, Tally* tally) {
  verify::Options options = verify_options();
  verify::Claims claims;
  options.is_exact = is_exact;
  options.weakness = weakness;
  options.claims = is_exact ? &claims : nullptr;
  options.insn_budget = 100000;
  const verify::Outcome outcome = verify::verify(slots, options);
  if (!outcome.ok()) return "";
  ++tally->accepted;
  Flow flow;
  ValidateOptions structure;
  structure.defer_helpers = true;
  if (!build_flow(slots, structure, &flow)) return "the shape of the program is wrong";
  for (int i = 0; i < kRuns; ++i) {
    Checked machine(flow, options.claims, seed * 31 + static_cast<uint64_t>(i));
    std::string violation = machine.run();
    tally->steps += machine.steps();
    if (!violation.empty()) return violation;
  }
  return "";
}

void check_soundness(uint64_t first, uint64_t count) {
  Tally used;
  Tally exact;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    const std::vector<uint64_t> slots = program_of(seed);
    for (const bool is_exact : {false, true}) {
      Tally& tally = is_exact ? exact : used;
      const std::string violation = violation_of(seed, slots, is_exact, 0, &tally);
      if (violation.empty()) continue;
      if (++tally.violated <= 3) report(seed, slots, violation + (is_exact ? " (exact)" : ""));
    }
  }
  std::printf("# %llu programs: %llu accepted, %llu with every number counting, %llu steps\n",
              static_cast<unsigned long long>(count),
              static_cast<unsigned long long>(used.accepted),
              static_cast<unsigned long long>(exact.accepted),
              static_cast<unsigned long long>(used.steps + exact.steps));
  tap::ok(used.accepted * 5 > count, "a good part of the programs is accepted");
  tap::equal(static_cast<long long>(used.violated), 0, "accepted programs keep every rule");
  tap::equal(static_cast<long long>(exact.violated), 0, "and every claim about them holds");
}

struct Mutation {
  verify::Weakness weakness;
  const char* name;
};
constexpr Mutation kMutations[] = {
    {verify::kTrustNull, "caught: null is not checked"},
    {verify::kTrustBounds, "caught: bounds are four bytes too wide"},
    {verify::kTrustStack, "caught: the stack may be read before it is written"},
    {verify::kForgetExact, "caught: numbers do not matter when states are compared"},
    {verify::kForgetRead, "caught: slots do not matter when states are compared"},
    {verify::kLearnTooMuch, "caught: a branch teaches too much"},
    {verify::kForgetRecords, "caught: records need not be given back"},
    {verify::kForgetLinks, "caught: equality does not matter when states are compared"},
    {verify::kTrustSpills, "caught: what was spilled survives being overwritten"},
    {verify::kTrustCallbacks, "caught: a callback runs once"},
};

void check_mutations(uint64_t limit) {
  for (const Mutation& mutation : kMutations) {
    bool caught = false;
    Tally tally;
    uint64_t seed = 1;
    for (; seed < limit && !caught; ++seed) {
      const std::vector<uint64_t> slots = program_of(seed);
      const bool is_exact = mutation.weakness == verify::kLearnTooMuch && seed % 2 == 0;
      caught = !violation_of(seed, slots, is_exact, mutation.weakness, &tally).empty();
    }
    tap::ok(caught, mutation.name);
    std::printf("# after %llu programs\n", static_cast<unsigned long long>(seed - 1));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t count = argc > 1 ? std::strtoull(argv[1], nullptr, 0) : 25000;
  const uint64_t first = argc > 2 ? std::strtoull(argv[2], nullptr, 0) : 1;
  check_soundness(first, count);
  if (argc <= 2) check_mutations(60000);
  return tap::done();
}
