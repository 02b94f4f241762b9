// SPDX-License-Identifier: MIT
// Session of a child that was forked from an entered process. Text, trampolines, agent and slots
// are private memory and were copied; map storages are shared with the parent; counters become its
// own.
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "session.h"
#include "session_parts.h"
#include "session_state.h"

namespace bpftime::target {

Result<ScopedFd> Session::make_stats_file(size_t bytes) {
  ScopedFd file(memfd_create("bpftime-stats", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file.valid() || ftruncate(file.get(), static_cast<off_t>(bytes)) != 0 ||
      // A target that shrank it would end the daemon by SIGBUS.
      fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail(ENOMEM, "no memory for counters");
  }
  return file;
}

bool Session::shares_memory_with(pid_t other) const {
  return syscall(SYS_kcmp, pid_, other, KCMP_VM, 0, 0) == 0;
}

Result<std::unique_ptr<Session>> Session::fork_of(const Session& parent, pid_t child) {
  std::unique_ptr<Session> session(new Session(child));
  // A child of vfork is the parent until it executes something.
  if (session->shares_memory_with(parent.pid_)) {
    return fail(EAGAIN, "it still shares the memory of its parent");
  }
  Result<void> step = session->open_handles();
  if (!step) return step.error();
  Result<std::vector<Region>> regions = read_regions(child);
  if (!regions) return regions.error();
  session->regions_ = std::move(regions.value());
  step = session->inherit(parent);
  if (!step) return step.error();
  return session;
}

Result<void> Session::inherit(const Session& parent) {
  agent_ = parent.agent_;
  agent_bytes_ = parent.agent_bytes_;
  control_ = parent.control_;
  shadows_ = parent.shadows_;
  header_ = parent.header_;
  guard_armed_ = parent.guard_armed_;
  fs_points_at_itself_ = parent.fs_points_at_itself_;
  go_pool_ = parent.go_pool_;
  go_resumes_ = parent.go_resumes_;
  go_offset_ = parent.go_offset_;
  next_site_id_ = parent.next_site_id_;
  log_ = parent.log_;
  map_addrs_ = parent.map_addrs_;
  map_bytes_ = parent.map_bytes_;
  orphans_ = parent.orphans_;
  drop_parents_unwind(parent);
  former_code_ = parent.former_code_;
  images_ = parent.images_;
  for (auto& [id, image] : images_) image.users = 0;
  if (parent.gate_ != 0) former_code_.emplace_back(parent.gate_, parent.gate_ + ABI_PAGE_BYTES);
  Result<void> step = check_program();
  if (!step) return step;
  const SessionState state = parent.state();
  for (const ArenaState& arena : state.arenas) {
    step = inherit_arena(arena);
    if (!step) return step;
  }
  for (const SiteState& site : state.sites) {
    if (site.hooks.empty()) continue;
    step = restore_site(site);
    if (!step) return step;
  }
  for (const auto& [addr, site] : sites_) {
    for (Hook& hook : site->hooks) hook.unwound_before = unwound_at(*site);
  }
  // Modules that the child loads are not the parent's business.
  const uint64_t none = 0;
  step = put(agent_ + header_.state_off + offsetof(agent_state, gate), &none, sizeof none);
  if (!step) return step;
  step = settle_in();
  if (!step) return step;
  step = ensure_journal();
  if (!step) return step;
  std::vector<MapWant> wants;
  wants.push_back(MapWant::shared(journal_->readable_fd(), ABI_PAGE_BYTES, PROT_READ));
  wants.push_back(MapWant::dont_fork(0, ABI_PAGE_BYTES));
  step = map_all(&wants);
  if (!step) return step;
  journal_page_ = wants[0].addr;
  save();
  return {};
}

Result<void> Session::inherit_arena(const ArenaState& state) {
  auto arena = std::make_unique<Arena>();
  arena->base = state.base;
  arena->bytes = state.bytes;
  arena->space = CodeSpace(state.base + state.used, state.bytes - state.used);
  arena->stats_bytes = state.stats_bytes;
  arena->stats_used.assign(HOOKS_PER_ARENA, false);
  std::fill_n(arena->stats_used.begin(), state.stats_used, true);
  arena->stats_free = HOOKS_PER_ARENA - state.stats_used;
  Result<ScopedFd> file = make_stats_file(state.stats_bytes);
  if (!file) return file.error();
  void* view = mmap(nullptr, state.stats_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file->get(), 0);
  if (view == MAP_FAILED) return fail(ENOMEM, "no memory for counters");
  arena->stats_view = static_cast<uint8_t*>(view);
  // Over the parent's: from here on each counts for itself.
  std::vector<MapWant> wants;
  wants.push_back(
      MapWant::shared(file->get(), state.stats_bytes, PROT_READ | PROT_WRITE, state.stats));
  const Result<void> mapped = map_all(&wants);
  if (!mapped) return mapped;
  arena->stats = state.stats;
  arena->stats_fd = std::move(*file);
  arenas_.push_back(std::move(arena));
  return {};
}

}  // namespace bpftime::target
