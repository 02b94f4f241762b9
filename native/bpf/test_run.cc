// SPDX-License-Identifier: MIT
// Binds a program to the helpers of this process and to the daemon's views of its maps.
#include "test_run.h"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "../abi/frame.h"
#include "../vm/interp.h"
#include "../vm/loaded_image.h"
#include "../vm/rt/helpers.h"
#include "../vm/rt/map.h"
#include "../vm/verify/context.h"
#include "objects.h"
#include "prog_array.h"

namespace bpftime {

namespace {

constexpr size_t kCtxBytesMax = 4096;

uint64_t now_ns() {
  timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return static_cast<uint64_t>(ts.tv_sec) * 1000000000u + static_cast<uint64_t>(ts.tv_nsec);
}

Checks::Range range_of(const void* begin, uint64_t bytes) {
  const auto address = reinterpret_cast<uint64_t>(begin);
  return {address, address + bytes};
}

/// A program with those that it makes tail calls to, bound to this process for one engine.
class World {
 public:
  explicit World(const ProgObject& first) : others_(reachable_programs(first)) {
    bound_.resize(1 + others_.size());
    bound_[0].program = &first;
    for (size_t i = 0; i < others_.size(); ++i) bound_[i + 1].program = others_[i].get();
    for (Bound& bound : bound_) bound.see_maps();
  }

  Result<void> link(Engine engine) {
    for (Bound& bound : bound_) {
      const Result<void> linked = bound.link(engine);
      if (!linked) return linked;
    }
    for (Bound& bound : bound_) fill_tables(&bound, engine);
    return {};
  }

  [[nodiscard]] const Program& program() const { return *bound_[0].interpreted; }
  [[nodiscard]] const LoadedImage& image() const { return *bound_[0].image; }

  /// Values and records lie in the storage of the maps; its other parts are not told apart.
  [[nodiscard]] Checks checks(const std::vector<uint8_t>& ctx) const {
    Checks checks;
    checks.ranges.push_back(range_of(ctx.data(), ctx.size()));
    for (const Bound& bound : bound_) {
      for (const auto& map : bound.program->maps) {
        checks.ranges.push_back(range_of(map->view.base, map->view.storage_bytes));
      }
    }
    return checks;
  }

 private:
  struct Bound {
    const ProgObject* program = nullptr;
    // Of each map what the program sees; behind a program array's view, room for its words.
    std::vector<std::pair<const MapObject*, std::vector<vm_map>>> views;
    std::optional<Program> interpreted;
    std::optional<LoadedImage> image;

    void see_maps() {
      for (const auto& map : program->maps) {
        std::vector<vm_map> seen = views_of(*program, *map);
        if (rt_map_is_programs(&map->view) != 0) {
          const uint64_t bytes = seen.front().cpu_count * sizeof(uint64_t);
          seen.resize(1 + (bytes + sizeof(vm_map) - 1) / sizeof(vm_map));
        }
        views.emplace_back(map.get(), std::move(seen));
      }
    }

    Result<void> link(Engine engine) {
      const Resolver resolver{resolve, this};
      if (engine == Engine::kJit) {
        Result<LoadedImage> mapped = LoadedImage::map(program->image, resolver);
        if (!mapped) return mapped.error();
        image = std::move(*mapped);
        return {};
      }
      Result<Program> linked = Program::link(program->insns, resolver, nullptr, true);
      if (!linked) return linked.error();
      interpreted = std::move(*linked);
      return {};
    }

    static uint64_t resolve(void* user, const GotSlot& slot) {
      if (slot.kind == GotKind::kHelper) {
        return reinterpret_cast<uint64_t>(rt_helper(slot.index));
      }
      for (const auto& [map, views] : static_cast<const Bound*>(user)->views) {
        if (map->id != slot.index) continue;
        if (slot.kind == GotKind::kMap) return reinterpret_cast<uint64_t>(views.data());
        return reinterpret_cast<uint64_t>(map->view.base + map->view.data_off + slot.offset);
      }
      return 0;
    }
  };

  [[nodiscard]] uint64_t entry_of(const ProgObject* program, Engine engine) const {
    for (const Bound& bound : bound_) {
      if (bound.program != program) continue;
      if (engine != Engine::kJit) return reinterpret_cast<uint64_t>(&*bound.interpreted);
      return reinterpret_cast<uint64_t>(bound.image->text()) + program->image.tail_off;
    }
    return 0;
  }

  void fill_tables(Bound* bound, Engine engine) const {
    for (auto& [map, views] : bound->views) {
      if (rt_map_is_programs(&map->view) == 0) continue;
      auto* words = reinterpret_cast<uint64_t*>(views.data() + 1);
      const auto programs = programs_of(*map);
      for (uint32_t i = 0; i < views.front().cpu_count; ++i) {
        words[i] = entry_of(programs[i].get(), engine);
      }
    }
  }

  std::vector<std::shared_ptr<ProgObject>> others_;
  std::vector<Bound> bound_;
};

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
  const Result<void> linked = world.link(run.engine);
  if (!linked) return linked.error();
  const uint64_t bytes = run.ctx.size();
  switch (run.engine) {
    case Engine::kJit:
      run_timed(run, result, [&] { return world.image().run(ctx, bytes); });
      break;
    case Engine::kInterpreter:
      run_timed(run, result, [&] { return interp_run(world.program(), ctx, bytes); });
      break;
    case Engine::kChecked: {
      Checks checks = world.checks(result.ctx);
      run_timed(run, result, [&]() -> uint64_t {
        if (checks.reason != nullptr) return 0;
        checks.insns_left = kCheckedInsnsMax;
        return interp_run(world.program(), ctx, bytes, &checks);
      });
      if (checks.reason != nullptr) return fail(EFAULT, checks.reason);
      break;
    }
  }
  return result;
}

}  // namespace bpftime
