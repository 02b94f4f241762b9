// SPDX-License-Identifier: MIT
// Binds a program to the helpers of this process and to the daemon's views of its maps.
#include "test_run.h"

#include <time.h>

#include <algorithm>
#include <cstring>

#include "../abi/frame.h"
#include "../vm/interp.h"
#include "../vm/loaded_image.h"
#include "../vm/rt/helpers.h"
#include "../vm/verify/context.h"
#include "objects.h"

namespace bpftime {

namespace {

constexpr size_t kCtxBytesMax = 4096;

/// The maps of a program as it sees them here.
struct World {
  explicit World(const ProgObject& prog) {
    for (const auto& map : prog.maps) views.emplace_back(map.get(), views_of(prog, *map));
  }
  std::vector<std::pair<const MapObject*, std::vector<vm_map>>> views;
};

uint64_t resolve(void* user, const GotSlot& slot) {
  if (slot.kind == GotKind::kHelper) {
    return reinterpret_cast<uint64_t>(rt_helper(slot.index));
  }
  for (const auto& [map, views] : static_cast<const World*>(user)->views) {
    if (map->id != slot.index) continue;
    if (slot.kind == GotKind::kMap) return reinterpret_cast<uint64_t>(views.data());
    return reinterpret_cast<uint64_t>(map->view.base + map->view.data_off + slot.offset);
  }
  return 0;
}

uint64_t now_ns() {
  timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return static_cast<uint64_t>(ts.tv_sec) * 1000000000u + static_cast<uint64_t>(ts.tv_nsec);
}

Checks::Range range_of(const void* begin, uint64_t bytes) {
  const auto address = reinterpret_cast<uint64_t>(begin);
  return {address, address + bytes};
}

/// Values and records lie in the storage of the maps; its other parts are not told apart.
Checks checks_of(const ProgObject& prog, const std::vector<uint8_t>& ctx) {
  Checks checks;
  checks.ranges.push_back(range_of(ctx.data(), ctx.size()));
  for (const auto& map : prog.maps) {
    checks.ranges.push_back(range_of(map->view.base, map->view.storage_bytes));
  }
  return checks;
}

template <typename Run>
void run_timed(const TestRun& how, TestResult& result, Run run) {
  const uint64_t start_ns = now_ns();
  for (uint32_t i = 0; i < how.repeat; i++) result.retval = run();
  result.total_ns = now_ns() - start_ns;
  result.duration_ns = static_cast<uint32_t>(result.total_ns / how.repeat);
}

}  // namespace

Result<TestResult> test_run(const ProgObject& prog, const TestRun& run) {
  if (run.ctx.size() > kCtxBytesMax) return fail(E2BIG, "context is larger than a page");
  TestResult result;
  size_t ctx_bytes = std::max(run.ctx.size(), sizeof(probe_frame));
  for (const verify::ContextField& field : verify::context_of(prog.type).fields) {
    ctx_bytes = std::max(ctx_bytes, size_t{field.off} + field.bytes);  // it may read all of that
  }
  result.ctx.resize(ctx_bytes);
  if (!run.ctx.empty()) std::memcpy(result.ctx.data(), run.ctx.data(), run.ctx.size());
  void* const ctx = result.ctx.data();
  World world(prog);
  const Resolver resolver{resolve, &world};
  if (run.engine != Engine::kJit) {
    Result<Program> program = Program::link(prog.insns, resolver);
    if (!program) return program.error();
    if (run.engine == Engine::kChecked) {
      Checks checks = checks_of(prog, result.ctx);
      run_timed(run, result, [&]() -> uint64_t {
        if (checks.reason != nullptr) return 0;
        checks.insns_left = kCheckedInsnsMax;
        return interp_run(*program, ctx, run.ctx.size(), &checks);
      });
      if (checks.reason != nullptr) return fail(EFAULT, checks.reason);
      return result;
    }
    run_timed(run, result, [&] { return interp_run(*program, ctx, run.ctx.size()); });
    return result;
  }
  Result<LoadedImage> image = LoadedImage::map(prog.image, resolver);
  if (!image) return image.error();
  run_timed(run, result, [&] { return image->run(ctx, run.ctx.size()); });
  return result;
}

}  // namespace bpftime
