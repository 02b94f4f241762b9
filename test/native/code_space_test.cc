// SPDX-License-Identifier: MIT
// CodeSpace against a map of bytes: nothing is handed out twice, everything comes back.
#include "target/code_space.h"

#include <vector>

#include "tap.h"

namespace {

using bpftime::target::CodeSpace;

constexpr uint64_t kBase = 0x10000;
constexpr uint64_t kBytes = 1 << 16;

struct Piece {
  uint64_t at, bytes;
};

uint64_t next_random(uint64_t* state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

// True when a random history never overlaps, keeps alignments, and ends where it began.
bool survives_random_use(uint64_t seed) {
  CodeSpace space(kBase, kBytes);
  std::vector<bool> taken(kBytes);
  std::vector<Piece> pieces;
  for (int step = 0; step < 20000; ++step) {
    if (pieces.empty() || next_random(&seed) % 2 == 0) {
      const uint64_t bytes = 1 + next_random(&seed) % 600;
      const uint64_t align = uint64_t{8} << next_random(&seed) % 3;
      const auto at = space.take(bytes, align);
      if (!at) continue;
      if (*at % align != 0 || *at < kBase || *at + bytes > kBase + kBytes) return false;
      for (uint64_t i = 0; i < bytes; ++i) {
        if (taken[*at - kBase + i]) return false;
        taken[*at - kBase + i] = true;
      }
      pieces.push_back({*at, bytes});
    } else {
      const size_t which = next_random(&seed) % pieces.size();
      const Piece piece = pieces[which];
      pieces[which] = pieces.back();
      pieces.pop_back();
      for (uint64_t i = 0; i < piece.bytes; ++i) taken[piece.at - kBase + i] = false;
      space.give_back(piece.at, piece.bytes);
    }
  }
  for (const Piece& piece : pieces) space.give_back(piece.at, piece.bytes);
  return space.free_bytes() == kBytes && space.take(kBytes, 8) == kBase;
}

}  // namespace

int main() {
  CodeSpace space(kBase, 64);
  tap::ok(space.take(24, 16) == kBase, "the lowest address first");
  tap::ok(space.take(8, 16) == kBase + 32, "aligned, behind a gap");
  tap::ok(space.take(8, 8) == kBase + 24, "the gap is used");
  tap::ok(!space.take(32, 8).has_value(), "what does not fit is refused");
  space.give_back(kBase + 24, 8);
  space.give_back(kBase, 24);
  tap::ok(space.take(32, 8) == kBase, "neighbours grow together");
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    tap::ok(survives_random_use(seed * 0x9e3779b97f4a7c15ull), "a random history");
  }
  return tap::done();
}
