// SPDX-License-Identifier: MIT
// A session's journal: what is written is read back; whatever else is read is refused or harmless.
#include "../../native/target/session_state.h"

#include <algorithm>
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
  state.header.version = AGENT_V6;
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
  state.notes = {{0, {'n', 'o', 't', 'e'}}, {77, {'o'}}};
  return state;
}

static void test_round_trip() {
  const Parts parts = encode(sample());
  Result<SessionState> read = decode(parts);
  if (!ok(read.ok(), "what was written is read")) return;
  ok(encode(*read) == parts, "and says the same");
  equal(read->maps[1].name.size(), 5, "names");
  equal(read->sites[0].patches[0].old_bytes[5], 0x57, "bytes");
  equal(read->changes[0].dropped[0].prog_id, 5, "changes");
  equal(read->notes[1].key, 77, "notes");
}

static bool refused(void (*spoil)(SessionState*)) {
  SessionState state = sample();
  spoil(&state);
  return !decode(encode(state)).ok();
}
// The same of parts.
static bool refused_parts(void (*spoil)(Parts*)) {
  Parts parts = encode(sample());
  spoil(&parts);
  return !decode(parts).ok();
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
  ok(refused_parts([](Parts* p) { p->erase(part_key(PartKind::kSession)); }), "no session");
  ok(refused_parts([](Parts* p) { p->erase(part_key(PartKind::kArena, 0)); }), "no arena");
  ok(refused_parts([](Parts* p) { (*p)[{99, 0}] = {}; }), "parts of no kind");
  ok(refused_parts([](Parts* p) {
       const PartKey key = part_key(PartKind::kSite, 0x555400001000);
       (*p)[part_key(PartKind::kSite, 1)] = p->at(key);
       p->erase(key);
     }),
     "a site under another's key");
}

// Each part cut short, and with other bytes in it.
static void test_noise() {
  const Parts whole = encode(sample());
  std::mt19937_64 random(1);
  int accepted = 0, unlike = 0;
  for (const auto& [key, part] : whole) {
    if (static_cast<PartKind>(key.kind) == PartKind::kNote) continue;  // any bytes
    for (size_t size = 0; size < part.size(); size++) {
      Parts parts = whole;
      parts[key].resize(size);
      if (decode(parts).ok()) accepted++;
    }
    for (int round = 0; round < 3'000; round++) {
      Parts parts = whole;
      Bytes& bytes = parts[key];
      for (uint64_t hit = 1 + random() % 4; hit > 0; hit--) {
        bytes[random() % bytes.size()] = static_cast<uint8_t>(random());
      }
      Result<SessionState> read = decode(parts);
      // What is accepted is what its bytes say, and nothing was made up.
      if (read.ok() && encode(*read) != parts) unlike++;
    }
  }
  equal(accepted, 0, "no beginning of a part is a part");
  equal(unlike, 0, "damaged states are refused, or read as they are");
}

static Parts parts_of(const Journal& journal) {
  Result<Parts> read = Journal::read_parts(journal.source());
  return read.ok() ? *read : Parts{{{99, 99}, {}}};
}

static void test_file() {
  Result<std::unique_ptr<Journal>> journal = Journal::create();
  if (!ok(journal.ok(), "a journal")) return;
  Journal& file = **journal;
  ok(Journal::read_owner(file.source())->alive(), "has an owner, who lives");
  ok(!Journal::read_parts(file.source()).ok(), "and says nothing yet");
  const Bytes one(100, 1), two(100'001, 2);
  ok(file.rewrite({{{1, 0}, one}}).ok() && parts_of(file) == Parts{{{1, 0}, one}}, "a state");
  ok(file.write({{{1, 7}, two}}).ok() && parts_of(file) == Parts{{{1, 0}, one}, {{1, 7}, two}},
     "one more part");
  ok(file.write({{{1, 0}, std::nullopt}, {{1, 7}, one}, {{2, 7}, Bytes{}}}).ok() &&
         parts_of(file) == Parts{{{1, 7}, one}, {{2, 7}, {}}},
     "one less, one changed, one empty");
  const uint64_t a = *file.keep(two), b = *file.keep(one);
  ok(*file.kept(a, two.size()) == two && *file.kept(b, one.size()) == one, "kept bytes");
  file.drop(a, two.size());
  equal(*file.keep(one), a, "room is used again");
  ok(*file.kept(b, one.size()) == one, "others stay");
  ok(!file.kept(8, 8).ok() && !file.kept(a, ~uint64_t{0}).ok(), "places outside are refused");
}

// The head page and the first bytes of both places, as a killed daemon may have left them.
constexpr uint64_t kPlaceBytes = (kJournalStatesBytes - 4096) / 2;
constexpr uint64_t kSeen = 128 << 10;
struct Image {
  Bytes head = Bytes(4096), places[2] = {Bytes(kSeen), Bytes(kSeen)};

  explicit Image(const Journal& journal) {
    const auto source = journal.source();
    source(0, head.data(), head.size());
    for (int i = 0; i < 2; i++) source(4096 + i * kPlaceBytes, places[i].data(), kSeen);
  }
  [[nodiscard]] Result<Parts> read() const {
    return Journal::read_parts([this](uint64_t off, void* out, size_t size) {
      const Bytes* from = &head;
      for (int i = 0; i < 2; i++) {
        const uint64_t begin = 4096 + i * kPlaceBytes;
        if (off < begin || off >= begin + kPlaceBytes) continue;
        off -= begin;
        from = &places[i];
      }
      if (off > from->size() || size > from->size() - off) return false;
      memcpy(out, from->data() + off, size);
      return true;
    });
  }
};

static Step random_step(std::mt19937_64* random) {
  Step step;
  for (uint64_t count = 1 + (*random)() % 4; count > 0; count--) {
    const PartKey key{static_cast<uint32_t>((*random)() % 3), (*random)() % 8};
    if ((*random)() % 4 == 0) {
      step[key] = std::nullopt;
    } else {
      step[key] = Bytes((*random)() % 600, static_cast<uint8_t>((*random)()));
    }
  }
  return step;
}

static Parts after(Parts parts, const Step& step) {
  for (const auto& [key, part] : step) {
    if (part) {
      parts[key] = *part;
    } else {
      parts.erase(key);
    }
  }
  return parts;
}

// A step is records, then words of the head, in that order; each may be the last that was written,
// and the last may have been written in part. Whatever it was: the state before, or the one after.
static void test_torn() {
  std::mt19937_64 random(2);
  Result<std::unique_ptr<Journal>> journal = Journal::create();
  if (!ok(journal.ok(), "a journal")) return;
  Journal& file = **journal;
  Parts now{{{7, 0}, Bytes(9)}};
  ok(file.rewrite(now).ok(), "begins");
  int unlike = 0, torn = 0, lost = 0, turns = 0;
  for (int round = 0; round < 600; round++) {
    const Step step = random_step(&random);
    const Image before(file);
    if (!file.write(step).ok()) lost++;
    const Image behind(file);
    const Parts then = after(now, step);
    if (parts_of(file) != then) lost++;
    const bool turned = before.head[12] != behind.head[12];
    turns += turned ? 1 : 0;
    const size_t place = behind.head[12];
    // Records that were written in part, or not at all, while the head is as it was.
    for (int cut = 0; cut < 8; cut++) {
      Image seen = before;
      const Bytes& fresh = behind.places[place];
      std::copy_n(fresh.begin(), random() % fresh.size(), seen.places[place].begin());
      Result<Parts> read = seen.read();
      if (!read.ok() || *read != now) torn++;
    }
    // The head's words one after the other; with the last of them it is the state after.
    Image seen = before;
    seen.places[place] = behind.places[place];
    for (const size_t word : {32u, 40u, 48u, 56u, 12u}) {
      std::copy_n(behind.head.begin() + word, word == 12 ? 4 : 8, seen.head.begin() + word);
      Result<Parts> read = seen.read();
      if (!read.ok() || (*read != now && *read != then)) torn++;
      if (word == 12 && read.ok() && *read != then) lost++;
    }
    now = then;
    if (parts_of(file) != now) unlike++;
  }
  equal(lost, 0, "every step is in the file when it was made");
  equal(torn, 0, "and before that the file says what it said");
  equal(unlike, 0, "over hundreds of steps");
  ok(turns > 3, "which changed places a few times");
}

// Bits that flipped, and a place that ends too soon: an error, never another state.
static void test_damaged() {
  std::mt19937_64 random(3);
  Result<std::unique_ptr<Journal>> journal = Journal::create();
  if (!ok(journal.ok(), "a journal")) return;
  Journal& file = **journal;
  ok(file.rewrite(encode(sample())).ok(), "a session");
  Parts truth = parts_of(file);
  for (int round = 0; round < 6; round++) {
    const Step step = random_step(&random);
    ok(file.write(step).ok(), "a step");
    truth = after(truth, step);
  }
  const Image image(file);
  const size_t place = image.head[12];
  uint64_t used = 0;
  memcpy(&used, image.head.data() + 32 + place * 16, sizeof used);
  int accepted = 0, unlike = 0;
  for (uint64_t at = 0; at < used; at++) {
    Image seen = image;
    seen.places[place][at] ^= static_cast<uint8_t>(1u << random() % 8);
    if (seen.read().ok()) accepted++;
  }
  equal(accepted, 0, "no bit of a record may flip");
  for (uint64_t at = 0; at < 64; at++) {
    Image seen = image;
    seen.head[at] ^= static_cast<uint8_t>(1u << random() % 8);
    Result<Parts> read = seen.read();
    const bool is_owner = at >= 16 && at < 32;
    const bool is_other = at >= 32 + (1 - place) * 16 && at < 48 + (1 - place) * 16;
    if (read.ok() && *read != truth) unlike++;
    if (read.ok() && !is_owner && !is_other) accepted++;
  }
  equal(unlike, 0, "no bit of the head makes another state of it");
  equal(accepted, 0, "none that counts may flip");
  for (uint64_t size = 0; size < used; size += 7) {
    Image seen = image;
    seen.places[place].resize(size);
    if (seen.read().ok()) accepted++;
    seen.places[place].resize(kSeen);
    if (seen.read().ok()) accepted++;
  }
  equal(accepted, 0, "no place that ends too soon, or in zeros, is believed");
}

int main() {
  test_round_trip();
  test_contradictions();
  test_noise();
  test_file();
  test_torn();
  test_damaged();
  return tap::done();
}
