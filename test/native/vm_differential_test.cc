// SPDX-License-Identifier: MIT
// Random programs through interpreter and compiler: same result, same memory. Every seventh is
// compiled with a budget, every sixteenth comes out of an image file, and every fourth is run by
// the checked interpreter as well.
// Arguments: number of programs (200000), first seed (1).
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "tap.h"
#include "vm/budget.h"
#include "vm/image_file.h"
#include "vm/interp.h"
#include "vm/isa.h"
#include "vm_host.h"
#include "vm_random.h"

namespace {

using namespace bpftime;
using namespace vmtest;

constexpr size_t kArenaBytes = 1 << 20;
constexpr size_t kMapsMax = 16;  // ids of maps are below this

/// Memory that is writable at one address and executable at another, reused for every program.
struct Arena {
  uint8_t* write = nullptr;
  uint8_t* run = nullptr;

  bool open() {
    const int fd = memfd_create("vm-test", 0);
    if (fd < 0 || ftruncate(fd, kArenaBytes) != 0) return false;
    void* w = mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    void* x = mmap(nullptr, kArenaBytes, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    close(fd);
    write = static_cast<uint8_t*>(w);
    run = static_cast<uint8_t*>(x);
    return w != MAP_FAILED && x != MAP_FAILED;
  }

  bool load(const ProgramImage& image) {
    if (image.got_off() + image.got.size() * 8 > kArenaBytes) return false;
    std::memcpy(write, image.text.data(), image.text.size());
    for (size_t i = 0; i < image.got.size(); ++i) {
      uint64_t value = resolve(nullptr, image.got[i]);
      if (image.got[i].kind == GotKind::kBudget) {
        value = reinterpret_cast<uint64_t>(bpftime_budget_refill);
      }
      if (value == 0) return false;
      std::memcpy(write + image.got_off() + i * 8, &value, 8);
    }
    return true;
  }
};

struct Snapshot {
  uint64_t result = 0;
  uint8_t ctx[RandomProgram::kContextBytes];
  uint8_t values[2][256];
  bool operator==(const Snapshot& other) const {
    return result == other.result && std::memcmp(ctx, other.ctx, sizeof ctx) == 0 &&
           std::memcmp(values, other.values, sizeof values) == 0;
  }
};

alignas(16) uint8_t ctx[RandomProgram::kContextBytes];

void prepare(uint64_t seed) {
  for (size_t i = 0; i < sizeof ctx; ++i) ctx[i] = static_cast<uint8_t>(seed * 13 + i * 29);
  for (int m = 0; m < 2; ++m) std::memset(world.maps[m].bytes, m + 1, 256);
}

void capture(Snapshot* out) {
  std::memcpy(out->ctx, ctx, sizeof ctx);
  for (int m = 0; m < 2; ++m) std::memcpy(out->values[m], world.maps[m].bytes, 256);
}

void report(uint64_t seed, const std::vector<uint64_t>& slots, const Snapshot& want,
            const Snapshot& got) {
  std::printf("# seed %llu: interpreter %#llx, jit %#llx%s\n",
              static_cast<unsigned long long>(seed), static_cast<unsigned long long>(want.result),
              static_cast<unsigned long long>(got.result),
              want.result == got.result ? " (memory differs)" : "");
  std::printf("%s", isa::disasm_all(slots).c_str());
}

/// What is left of an image after it was written into a file and read again.
Result<ProgramImage> through_file(ProgramImage image) {
  ImageFile file;
  ImageMap map;
  map.type = 2;  // BPF_MAP_TYPE_ARRAY
  map.key_size = 4;
  map.value_size = 4096;
  map.max_entries = 1;
  map.name = "map";
  file.maps.assign(kMapsMax, map);
  file.programs.push_back({"main", "main", 0, std::move(image)});
  Result<ImageFile> again = read_image_file(write_image_file(file), nullptr);
  if (!again.ok()) return again.error();
  return std::move(again->programs.front().image);
}

/// All memory is the program's, so that nothing but the counting is left.
bool is_same_checked(const Program& program, uint64_t seed, const Snapshot& want) {
  Checks checks;
  checks.ranges = {{0, UINT64_MAX}};
  checks.insns_left = 1000000000;
  Snapshot got;
  prepare(seed);
  got.result = interp_run(program, ctx, sizeof ctx, &checks);
  capture(&got);
  return checks.reason == nullptr && got == want;
}

bool check(Arena* arena, uint64_t seed) {
  const std::vector<uint64_t> slots = RandomProgram(seed).make();
  const Result<Program> program = Program::link(slots, Resolver{resolve, nullptr});
  if (!program.ok()) {
    std::printf("# seed %llu: %s\n%s", static_cast<unsigned long long>(seed),
                program.error().reason, isa::disasm_all(slots).c_str());
    return false;
  }
  Snapshot want;
  prepare(seed);
  want.result = interp_run(program.value(), ctx, sizeof ctx);
  capture(&want);
  CompileOptions options;
  options.cpu_features = seed % 3 == 0 ? 0 : cpu_features_host();
  options.inline_helpers = seed % 5 != 0;
  options.geometry = geometry_of;
  options.is_budgeted = seed % 7 == 0;
  if (seed % 4 == 0 && !is_same_checked(program.value(), seed, want)) {
    std::printf("# seed %llu: the checked interpreter differs\n",
                static_cast<unsigned long long>(seed));
    return false;
  }
  Result<ProgramImage> image = compile(slots, options);
  if (image.ok() && seed % 16 == 0 && !options.is_budgeted) {
    image = through_file(std::move(image.value()));
  }
  if (!image.ok() || !arena->load(image.value())) {
    std::printf("# seed %llu: %s\n", static_cast<unsigned long long>(seed), image.error().reason);
    return false;
  }
  Snapshot got;
  prepare(seed);
  Budget budget = Budget::of(1000000000, 0);  // more than any of them takes
  using Entry = uint64_t (*)(void*, uint64_t, Budget*);
  got.result = reinterpret_cast<Entry>(arena->run)(ctx, sizeof ctx, &budget);
  capture(&got);
  if (got == want) return true;
  report(seed, slots, want, got);
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t count = argc > 1 ? std::strtoull(argv[1], nullptr, 0) : 200000;
  const uint64_t first = argc > 2 ? std::strtoull(argv[2], nullptr, 0) : 1;
  reset_world();
  Arena arena;
  if (!tap::ok(arena.open(), "executable memory")) return tap::done();
  uint64_t differing = 0;
  for (uint64_t seed = first; seed < first + count && differing < 3; ++seed) {
    if (!check(&arena, seed)) ++differing;
  }
  tap::equal(static_cast<long long>(differing), 0, "random programs that differ");
  return tap::done();
}
