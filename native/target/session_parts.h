// SPDX-License-Identifier: MIT
// Internal to native/target: what the halves of Session share.
#pragma once

#include <sys/mman.h>

#include "session.h"

namespace bpftime::target {

struct Session::MapWant {
  map_request request{};
  int fd = -1;
  uint64_t addr = 0;  // out

  static MapWant shared(int fd, uint64_t bytes, int prot, uint64_t at = 0) {
    MapWant want;
    want.fd = fd;
    want.request.op = MAP_OP_FD;
    want.request.bytes = bytes;
    want.request.prot = static_cast<u32>(prot);
    want.request.addr = at;
    want.request.flags = MAP_SHARED | (at != 0 ? MAP_FIXED : 0);
    return want;
  }
  static MapWant anon(uint64_t bytes, int prot, int flags, uint64_t at = 0) {
    MapWant want;
    want.request.op = MAP_OP_ANON;
    want.request.bytes = bytes;
    want.request.prot = static_cast<u32>(prot);
    want.request.addr = at;
    want.request.flags = static_cast<u32>(MAP_PRIVATE | MAP_ANONYMOUS | flags);
    return want;
  }
  static MapWant unmap(uint64_t addr, uint64_t bytes) {
    MapWant want;
    want.request.op = MAP_OP_UNMAP;
    want.request.addr = addr;
    want.request.bytes = bytes;
    return want;
  }
  static MapWant dont_fork(uint64_t addr, uint64_t bytes) {
    MapWant want = wipe_on_fork(addr, bytes);
    want.request.op = MAP_OP_DONT_FORK;
    return want;
  }
  static MapWant wipe_on_fork(uint64_t addr, uint64_t bytes) {
    MapWant want;
    want.request.op = MAP_OP_WIPE_ON_FORK;
    want.request.addr = addr;
    want.request.bytes = bytes;
    return want;
  }
};

struct Session::Change {
  using Step = ChangeStep;
  SiteRequest request;
  Site* site = nullptr;              // the site that exists or will
  std::unique_ptr<Site> fresh;       // owner while it does not yet
  std::vector<Hook> hooks;           // wanted
  std::vector<Hook> dropped;         // present before, not wanted
  std::vector<uint64_t> left_slots;  // of hooks that stay, and have another slot now
  std::vector<Step> steps;           // one for each patch of the site
  bool removes = false;
};

/// Of the four words that an arena begins with: where trampolines find the agent stacks.
constexpr uint64_t kGoPoolSlot = 16;

constexpr uint32_t kStatsCpuShift = 16;
static_assert(HOOKS_PER_ARENA * sizeof(hook_stats) == 1u << kStatsCpuShift,
              "one CPU's hook_stats fill one block");

/// Signal handlers of Go run on stacks of 32 KiB that lie amid the heap.
constexpr uint64_t kGoStackScanBytes = 128 << 10;

/// The mapping that contains an address, or null.
const Region* region_at(const std::vector<Region>& regions, uint64_t addr);

/// A jump of 5 bytes, then bytes that are never executed: every way in leads through the jump.
std::vector<uint8_t> jump_bytes(uint64_t from, uint64_t to, uint32_t window);

/// Highest CPU number the kernel may ever show, plus one.
uint32_t possible_cpus();

/// The processors have rdpid.
bool has_rdpid();

/// Wakes a remote reader of a socket pair with end-of-file.
void shutdown_remote(pid_t pid, int remote_socket);

}  // namespace bpftime::target
