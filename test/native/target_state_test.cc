// SPDX-License-Identifier: MIT
// A session's journal: what is written is read back; whatever else is read is refused or harmless.
#include "../../native/target/session_state.h"

#include <cstring>
#include <random>

#include "../../native/target/journal.h"
#include "tap.h"

using namespace bpftime;
using namespace bpftime::target;
using tap::equal;
using tap::ok;

static SessionState sample() {
  SessionState state;
  state.pid = 42;
  state.start_time = 4711;
  state.agent = 0x7f0000000000;
  state.header.magic = AGENT_MAGIC;
  state.header.version = AGENT_V5;
  state.header.data_off = 0x5000;
  state.header.data_bytes = 0x3000;
  state.agent_bytes = 0x8000;
  state.journal_page = 0x7f0000100000;
  state.next_site_id = 9;
  state.log_id = 1;
  state.maps = {{1, 0x7f0000200000, 0x42000, 27, 0, 0, 0x40000, 0, "log"},
                {2, 0x7f0000300000, 0x1000, 2, 4, 8, 4, 0, "slots"}};
  state.images = {{5, 0x7f0000400000, 0x2000, 3}};
  state.arenas = {{0x555500000000, 0x100000, 0x400, 0x555500100000, 0x20000}};
  SiteState site;
  site.id = 8;
  site.addr = 0x555400001000;
  site.function = site.addr;
  site.function_size = 64;
  PatchState patch;
  patch.site = site.addr;
  patch.window = 6;
  patch.count = 2;
  patch.at_entry = patch.is_entry = patch.on = true;
  patch.old_bytes = {0x55, 0x48, 0x89, 0xe5, 0x41, 0x57};
  patch.head = 0x555500000080;
  patch.copy = 0x5555000000a0;
  patch.body = 0x555500000200;
  patch.body_bytes = 128;
  patch.lane = 1;
  patch.lanes = {{patch.copy, 16, {}}, {patch.body, 128, {0x555500000180}}};
  site.patches = {patch};
  HookState hook;
  hook.hook_id = 1;
  hook.prog_id = 5;
  hook.slot = 0x555500000180;
  hook.stat = 3;
  site.hooks = {hook};
  state.sites = {site};
  ChangeState change;
  change.addr = site.addr;
  change.removes = true;
  change.dropped = {hook};
  change.steps = {StepState{}};
  state.changes = {change};
  state.notes = {'n', 'o', 't', 'e'};
  return state;
}

static void test_round_trip() {
  const std::vector<uint8_t> bytes = encode(sample());
  Result<SessionState> read = decode(bytes);
  if (!ok(read.ok(), "what was written is read")) return;
  ok(encode(*read) == bytes, "and says the same");
  equal(read->maps[1].name.size(), 5, "names");
  equal(read->sites[0].patches[0].old_bytes[5], 0x57, "bytes");
  equal(read->changes[0].dropped[0].prog_id, 5, "changes");
}

static bool refused(void (*spoil)(SessionState*)) {
  SessionState state = sample();
  spoil(&state);
  return !decode(encode(state)).ok();
}

static void test_contradictions() {
  ok(refused([](SessionState* s) { s->sites[0].arena = 1; }), "an arena that is not there");
  ok(refused([](SessionState* s) { s->sites[0].patches[0].window = 4; }), "a window too small");
  ok(refused([](SessionState* s) { s->sites[0].patches[0].old_bytes.pop_back(); }), "a byte less");
  ok(refused([](SessionState* s) { s->sites[0].patches[0].head = 0x1000; }), "a head elsewhere");
  ok(refused([](SessionState* s) { s->sites[0].patches[0].body_bytes = 0xffffffff; }),
     "a long body");
  ok(refused([](SessionState* s) { s->sites[0].patches[0].lane = 2; }), "a lane of none");
  ok(refused([](SessionState* s) { s->sites[0].patches[0].lanes[1].body = 1; }),
     "a lane elsewhere");
  ok(refused([](SessionState* s) { s->sites[0].hooks[0].stat = HOOKS_PER_ARENA; }), "a counter");
  ok(refused([](SessionState* s) { s->sites[0].hooks[0].slot = 8; }), "a slot elsewhere");
  ok(refused([](SessionState* s) { s->sites[0].patches.clear(); }), "a site without an entry");
  ok(refused([](SessionState* s) { s->changes[0].addr++; }), "a change of no site");
  ok(refused([](SessionState* s) { s->changes[0].steps.clear(); }), "a change without its steps");
  ok(refused([](SessionState* s) { s->agent = ~uint64_t{4095}; }), "kernel addresses");
  ok(refused([](SessionState* s) { s->agent_bytes = 0x9000; }), "an agent of another size");
  ok(refused([](SessionState* s) { s->header.ret_stub = 0x8000; }), "a stub outside of the agent");
  ok(refused([](SessionState* s) { s->arenas[0].used = 0x100001; }), "an arena that overflows");
  ok(refused([](SessionState* s) { s->maps[0].addr++; }), "a map between pages");
}

static void test_noise() {
  const std::vector<uint8_t> whole = encode(sample());
  std::mt19937_64 random(1);
  int accepted = 0, unlike = 0;
  for (size_t size = 0; size < whole.size(); size++) {
    if (decode({whole.data(), size}).ok()) accepted++;
  }
  equal(accepted, 0, "no beginning of a state is a state");
  for (int round = 0; round < 20'000; round++) {
    std::vector<uint8_t> bytes = whole;
    for (uint64_t hit = 1 + random() % 4; hit > 0; hit--) {
      bytes[random() % bytes.size()] = static_cast<uint8_t>(random());
    }
    Result<SessionState> read = decode(bytes);
    // What is accepted is what its bytes say, and nothing was made up.
    if (read.ok() && encode(*read) != bytes) unlike++;
  }
  equal(unlike, 0, "damaged states are refused, or read as they are");
}

static void test_file() {
  Result<std::unique_ptr<Journal>> journal = Journal::create();
  if (!ok(journal.ok(), "a journal")) return;
  Journal& file = **journal;
  ok(Journal::read_owner(file.source())->alive(), "has an owner, who lives");
  const std::vector<uint8_t> one(100, 1), two(100'000, 2);
  ok(file.write_state(one).ok() && *Journal::read_state(file.source()) == one, "a state");
  ok(file.write_state(two).ok() && *Journal::read_state(file.source()) == two, "a longer one");
  ok(file.write_state(one).ok() && *Journal::read_state(file.source()) == one, "a shorter one");
  const uint64_t a = *file.keep(two), b = *file.keep(one);
  ok(*file.kept(a, two.size()) == two && *file.kept(b, one.size()) == one, "kept bytes");
  file.drop(a, two.size());
  equal(*file.keep(one), a, "room is used again");
  ok(*file.kept(b, one.size()) == one, "others stay");
  ok(!file.kept(8, 8).ok() && !file.kept(a, ~uint64_t{0}).ok(), "places outside are refused");
  const auto source = file.source();
  for (const uint64_t spoiled : {0u, 8u, 12u, 40u, 48u, 4096u + 5u}) {
    const auto damaged = [&](uint64_t off, void* out, size_t size) {
      if (!source(off, out, size)) return false;
      if (spoiled >= off && spoiled < off + size) static_cast<uint8_t*>(out)[spoiled - off] ^= 0x55;
      return true;
    };
    static_cast<void>(Journal::read_state(damaged));
  }
  const auto wrong = [&](uint64_t off, void* out, size_t size) {
    if (!source(off, out, size)) return false;
    if (size > 64) static_cast<uint8_t*>(out)[7] ^= 1;
    return true;
  };
  ok(!Journal::read_state(wrong).ok(), "a state with another checksum is refused");
}

int main() {
  test_round_trip();
  test_contradictions();
  test_noise();
  test_file();
  return tap::done();
}
