// SPDX-License-Identifier: MIT
// Session: one entered process. Knows what of ours is in it (agent, arenas, images, maps, sites),
// puts hooks in and takes them out, and leaves without a trace.
//
// Invariants: text bytes change only while every thread is stopped; nothing of ours is unmapped
// while a thread could still execute it; a failed call leaves the target's text as it was.
// All methods run on the tracer thread. TypeScript decides what to hook; nothing is decided here.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "../abi/agent.h"
#include "../base/result.h"
#include "../base/scoped_fd.h"
#include "../bpf/registry.h"
#include "../rewrite/site_plan.h"
#include "proc_maps.h"

namespace bpftime::target {

class RemoteThread;
class StoppedProcess;

// kSigaction: the site is a `mov $13, %eax` in front of a `syscall`, and the agent answers it.
enum class HookKind : uint8_t { kProgram, kRestoreReturns, kSigaction };

struct HookRequest {
  uint32_t hook_id = 0;
  HookKind kind = HookKind::kProgram;
  uint32_t prog_id = 0;
  bool on_return = false;
  bool enabled = true;
  uint64_t cookie = 0;
};

/// The wanted state of one site: no hooks = the site goes away.
struct SiteRequest {
  uint64_t addr = 0;      // where the user wants the probe
  uint64_t function = 0;  // start of the function around it
  uint32_t function_size = 0;
  std::vector<HookRequest> hooks;
};

struct ApplyReport {
  uint64_t pause_ns = 0;  // all threads stopped
  uint32_t thread_count = 0;
};

struct HookCounters {
  uint32_t hook_id = 0;
  uint64_t hits = 0;
  uint64_t missed = 0;
  uint64_t samples = 0;
  uint64_t sampled_ticks = 0;
};

struct SiteInfo {
  uint64_t addr = 0, site = 0, head = 0, copy = 0, body = 0;
  uint32_t body_bytes = 0;
  std::vector<uint8_t> old_bytes, new_bytes, copy_bytes;
  std::string form;
};

class Session {
 public:
  /// Enters `pid`. ESRCH, EPERM (kernel refuses), EBUSY (traced), EOPNOTSUPP (seccomp, ...).
  /// `still_allowed` is asked when a thread stands still and nothing was changed: EACCES if not.
  static Result<std::unique_ptr<Session>> enter(pid_t pid,
                                                const std::function<bool()>& still_allowed);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Brings the given sites to the wanted state in one stop. All or nothing.
  /// `reason_site`: on failure, the address that caused it (0: none in particular).
  Result<ApplyReport> apply(const std::vector<SiteRequest>& requests, uint64_t* reason_site);

  /// Takes SIGSEGV and SIGBUS over, so that programs read memory by plain guarded loads. All sites
  /// of rt_sigaction must be diverted (kSigaction) before. EBUSY: a thread is in one; ask again.
  Result<void> arm_guard();
  /// Gives the signals back. EBUSY while a thread is inside our code.
  Result<void> disarm_guard();

  /// Takes everything of ours out. All sites must be gone before. EBUSY while a thread is inside:
  /// ask again later.
  Result<void> leave();

  /// ESRCH when the process ended, ESTALE when it has become another program (exec).
  Result<void> check_alive() const;

  [[nodiscard]] std::vector<HookCounters> counters() const;
  [[nodiscard]] std::vector<SiteInfo> site_infos() const;
  [[nodiscard]] std::shared_ptr<MapObject> log_map() const { return log_; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] uint64_t enter_ns() const { return enter_ns_; }
  [[nodiscard]] size_t site_count() const { return sites_.size(); }

 private:
  struct Arena {
    uint64_t base = 0, bytes = 0, used = 0;
    uint64_t stats = 0;  // target address of CPU 0's hook_stats
    uint8_t* stats_view = nullptr;
    size_t stats_bytes = 0;
    ScopedFd stats_fd;
    std::vector<bool> stats_used;
    ~Arena();
  };
  struct Image {
    std::shared_ptr<ProgObject> program;
    uint64_t base = 0, bytes = 0;
    uint32_t users = 0;
  };
  struct Hook {
    HookRequest request;
    uint64_t slot = 0;   // holds the entry address of the program
    uint64_t entry = 0;  // what it holds while the hook is on
    uint32_t stat = 0;   // index in the arena's hook_stats
  };
  struct Site {
    uint32_t id = 0;
    SiteRequest request;
    rewrite::SitePlan plan;
    std::vector<uint8_t> old_bytes, new_bytes, copy_bytes;
    std::vector<rewrite::PcPair> pc_map;
    Arena* arena = nullptr;
    uint64_t head = 0, copy = 0, body = 0;
    uint32_t body_bytes = 0;
    uint64_t inode = 0;  // of the module's file
    std::vector<Hook> hooks;
  };
  // A prepared but not yet visible change of one site.
  struct Change;
  struct MapWant;

  explicit Session(pid_t pid) : pid_(pid) {}
  Result<void> open_handles();
  Result<void> install_agent(const std::function<bool()>& still_allowed);
  Result<void> map_agent(RemoteThread* thread);
  Result<void> fill_environment(uint64_t fs_base);
  Result<void> map_all(std::vector<MapWant>* wants);
  Result<void> run_batch(RemoteThread* thread, MapWant* wants, size_t count);
  Result<Arena*> arena_near(uint64_t start, uint64_t end, uint64_t bytes);
  Result<void> map_arena(Arena* arena, uint64_t start, uint64_t end);
  Result<void> ensure_program(uint32_t prog_id);
  Result<void> ensure_shadows();
  Result<void> write_got(const Image& image);
  Result<Change> prepare(const SiteRequest& request);
  Result<void> plan_new(const SiteRequest& request, Site* site);
  Result<void> build(Change* change);
  Result<ApplyReport> commit(std::vector<Change>* changes);
  Result<void> write_change(const Change& change, StoppedProcess* process, bool undo);
  static void move_threads(const Site& site, bool to_copy, StoppedProcess* process);
  Result<void> move_interrupted(const Site& site, const StoppedProcess& process) const;
  void settle(Change* change);
  static void release_counters(const Change& change);
  void forget(std::vector<Change>* changes);
  Result<uint64_t> build_filter(Site* site, uint32_t* body_bytes);
  Result<void> call_agent_alone(uint64_t fn);
  [[nodiscard]] std::vector<std::pair<uint64_t, uint64_t>> code_ranges() const;
  Result<std::vector<uint8_t>> original_bytes(uint64_t addr, uint64_t size) const;
  Result<uint64_t> allocate(Arena* arena, uint64_t bytes);
  Result<void> put(uint64_t addr, const void* bytes, size_t size) const;
  Result<void> get(uint64_t addr, void* out, size_t size) const;
  Result<void> check_program() const;
  [[nodiscard]] uint64_t agent_fn(uint32_t off) const { return agent_ + off; }
  [[nodiscard]] pid_t any_thread() const;
  [[nodiscard]] bool any_live_return() const;

  pid_t pid_;
  uint64_t start_time_ = 0;
  uint64_t enter_ns_ = 0;
  bool guard_armed_ = false;
  ScopedFd pidfd_, mem_;
  uint64_t syscall_insn_ = 0;
  uint64_t agent_ = 0, agent_bytes_ = 0;
  uint64_t control_ = 0;  // map_batch, then the stack for agent calls
  uint64_t shadows_ = 0;
  agent_header header_{};
  std::shared_ptr<MapObject> log_;
  std::vector<std::unique_ptr<Arena>> arenas_;
  std::vector<std::pair<uint64_t, uint64_t>> orphans_;  // mapped by a step that then failed
  std::unordered_map<uint32_t, Image> images_;
  std::unordered_map<uint32_t, uint64_t> map_addrs_;  // by map id
  std::unordered_map<uint32_t, uint64_t> map_bytes_;
  std::map<uint64_t, std::unique_ptr<Site>> sites_;  // by wanted address
  std::vector<Region> regions_;                      // as of the current operation
  uint32_t next_site_id_ = 1;
};

}  // namespace bpftime::target
