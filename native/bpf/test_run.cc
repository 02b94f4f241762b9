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

uint64_t resolve(void* user, const GotSlot& slot) {
  if (slot.kind == GotKind::kHelper) {
    return reinterpret_cast<uint64_t>(rt_helper(slot.index));
  }
  for (const auto& map : static_cast<const ProgObject*>(user)->maps) {
    if (map->id != slot.index) continue;
    if (slot.kind == GotKind::kMap) return reinterpret_cast<uint64_t>(&map->view);
    return reinterpret_cast<uint64_t>(map->view.base + map->view.data_off + slot.offset);
  }
  return 0;
}

uint64_t now_ns() {
  timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return static_cast<uint64_t>(ts.tv_sec) * 1000000000u + static_cast<uint64_t>(ts.tv_nsec);
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
  const Resolver resolver{resolve, const_cast<ProgObject*>(&prog)};
  if (run.engine == Engine::kInterpreter) {
    Result<Program> program = Program::link(prog.insns, resolver);
    if (!program) return program.error();
    run_timed(run, result, [&] { return interp_run(*program, ctx, run.ctx.size()); });
    return result;
  }
  Result<LoadedImage> image = LoadedImage::map(prog.image, resolver);
  if (!image) return image.error();
  run_timed(run, result, [&] { return image->run(ctx, run.ctx.size()); });
  return result;
}

}  // namespace bpftime
