// SPDX-License-Identifier: MIT
// A loaded image in this process: what its pages allow, many threads in it at once, and that
// nothing is left behind.
#include <cinttypes>
#include <fstream>
#include <string>
#include <thread>

#include "tap.h"
#include "vm/asm.h"
#include "vm/interp.h"
#include "vm/loaded_image.h"
#include "vm_host.h"

namespace {

using namespace bpftime;
using namespace vmtest;

/// Permissions of the mapping that holds `addr`, "" if there is none.
std::string permissions(uint64_t addr) {
  std::ifstream maps("/proc/self/maps");
  std::string line;
  while (std::getline(maps, line)) {
    uint64_t begin = 0;
    uint64_t end = 0;
    char perms[8] = "";
    if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %7s", &begin, &end, perms) != 3)
      continue;
    if (addr >= begin && addr < end) return perms;
  }
  return "";
}

constexpr char kCounting[] =
    "r6 = 100000\nr7 = r1\nagain: r2 = 1\nr2 = atomic_fetch_add((u64 *)(r7 + 0), r2)\n"
    "w3 = 3\nlock *(u32 *)(r7 + 8) += w3\nr4 = 5\nr4 = atomic_fetch_xor((u64 *)(r7 + 16), r4)\n"
    "r1 = 0\ncall 3\nr6 -= 1\nif r6 != 0 goto again\nr0 = 0\nexit";

template <typename Run>
void count_in_threads(const char* name, Run run) {
  struct {
    uint64_t sum = 0;
    uint32_t threes = 0;
    uint32_t pad = 0;
    uint64_t flips = 0;
  } shared;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([&] { run(&shared, sizeof shared); });
  for (std::thread& thread : threads) thread.join();
  tap::ok(shared.sum == 400000 && shared.threes == 1200000 && shared.flips == 0, name);
}

void check_pages(const ProgramImage& image, const Resolver& resolver) {
  uint64_t text = 0;
  uint64_t got = 0;
  {
    Result<LoadedImage> loaded = LoadedImage::map(image, resolver);
    if (!tap::ok(loaded.ok(), "image is mapped")) return;
    LoadedImage moved = std::move(loaded.value());
    text = reinterpret_cast<uint64_t>(moved.entry());
    got = text - image.entry_off + image.got_off();
    tap::ok(permissions(text) == "r-xs", "text may be read and executed");
    tap::ok(permissions(got) == "r--p", "the table of addresses may be read");
  }
  tap::ok(permissions(text).empty() && permissions(got).empty(), "nothing is left");
  const Resolver nothing{[](void*, const GotSlot&) { return uint64_t{0}; }, nullptr};
  const Result<LoadedImage> unresolved = LoadedImage::map(image, nothing);
  tap::ok(!unresolved.ok() && unresolved.error().errnum == ENOENT, "unknown helper");
}

}  // namespace

int main() {
  reset_world();
  const Assembly assembly = assemble(kCounting);
  const Resolver resolver{resolve, nullptr};
  const Result<ProgramImage> image = compile(assembly.slots);
  if (!tap::ok(assembly && image.ok(), "compiles")) return tap::done();
  check_pages(image.value(), resolver);
  const Result<LoadedImage> loaded = LoadedImage::map(image.value(), resolver);
  count_in_threads("four threads, compiled",
                   [&](void* ctx, size_t bytes) { loaded.value().run(ctx, bytes); });
  const Result<Program> program = Program::link(assembly.slots, resolver);
  count_in_threads("four threads, interpreted",
                   [&](void* ctx, size_t bytes) { interp_run(program.value(), ctx, bytes); });
  return tap::done();
}
