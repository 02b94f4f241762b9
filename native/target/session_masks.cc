// SPDX-License-Identifier: MIT
// Session, following signal masks: where a process changes them, and the word by which the agent
// knows that nothing has changed since it asked (native/vm/rt/mask.h, docs/adr/0017).
#include <asm/unistd.h>

#include <algorithm>
#include <cstring>

#include "../rewrite/site_plan.h"
#include "../rewrite/trampoline.h"
#include "remote_thread.h"
#include "rseq_check.h"
#include "session.h"
#include "session_parts.h"
#include "stopped_process.h"

namespace bpftime::target {

namespace {

constexpr uint8_t kSyscall[] = {0x0f, 0x05};
constexpr uint8_t kMovSigaction[] = {0xb8, __NR_rt_sigaction, 0, 0, 0};
constexpr uint32_t kGlibcSignature = 0x53053053;  // what the agent's descriptors have
constexpr uint64_t kScanBytes = 1 << 20;
constexpr int64_t kOffsetMax = 1 << 20;

bool lends(int64_t number) {
  return number == __NR_clone || number == __NR_clone3 || number == __NR_fork ||
         number == __NR_vfork;
}

}  // namespace

uint64_t Session::mask_function(uint64_t number) const {
  if (number == 0) return agent_fn(header_.any_site);
  return agent_fn(lends(static_cast<int64_t>(number)) ? header_.clone_site : header_.mask_site);
}

Result<std::vector<uint64_t>> Session::syscall_bytes(uint64_t start, uint64_t end) const {
  std::vector<uint64_t> found;
  for (uint64_t at = start; at < end; at += kScanBytes) {
    // One byte more: an instruction may lie across.
    const uint64_t size = std::min(kScanBytes + 1, end - at);
    const Result<std::vector<uint8_t>> bytes = original_bytes(at, size);
    if (!bytes) return bytes.error();
    auto from = bytes.value().begin();
    for (;;) {
      from = std::search(from, bytes.value().end(), std::begin(kSyscall), std::end(kSyscall));
      if (from == bytes.value().end()) break;
      found.push_back(at + static_cast<uint64_t>(from - bytes.value().begin()));
      ++from;
    }
  }
  return found;
}

// Nothing: the call has nothing to do with masks. One of rt_sigaction must be a kSigaction site.
Result<std::optional<MaskSite>> Session::mask_site(const Function& function,
                                                   const rewrite::SyscallSite& call) {
  const rewrite::FunctionView& view = function.view;
  const auto off = static_cast<size_t>(call.addr - view.addr);
  if (call.number == __NR_rt_sigaction) {
    const size_t bytes = sizeof kMovSigaction;
    if (off >= bytes && memcmp(view.bytes.data() + off - bytes, kMovSigaction, bytes) == 0) {
      MaskSite seen;
      seen.addr = call.addr - bytes;
      seen.number = __NR_rt_sigaction;
      return std::optional(seen);
    }
    return fail(EOPNOTSUPP, "a call of rt_sigaction is not seen");
  }
  const bool is_known = call.number != rewrite::kUnknownCall;
  if (is_known && call.number != __NR_rt_sigprocmask && !lends(call.number)) {
    return std::optional<MaskSite>();
  }
  // What nothing leads to may be data: never to be written to.
  if (!call.is_reached || call.front == 0) {
    return fail(EOPNOTSUPP, "no place in front of a system call can be diverted");
  }
  MaskSite site;
  site.addr = call.front;
  site.function = view.addr;
  site.function_size = view.size;
  site.keeps = static_cast<uint32_t>(call.addr - call.front + sizeof kSyscall);
  site.behind = call.is_set_in_window;
  site.number = is_known ? static_cast<uint32_t>(call.number) : 0;
  return std::optional(site);
}

Result<std::vector<MaskSite>> Session::mask_sites(
    const std::vector<std::pair<uint64_t, uint32_t>>& functions) {
  Result<std::vector<Region>> regions = read_regions(any_thread());
  if (!regions) return regions.error();
  regions_ = std::move(regions.value());
  std::vector<MaskSite> sites;
  const auto reader = [this](uint64_t at, void* out, size_t size) {
    const Result<std::vector<uint8_t>> bytes = original_bytes(at, size);
    if (bytes.ok()) memcpy(out, bytes.value().data(), size);
    return bytes.ok();
  };
  for (const auto& [addr, size] : functions) {
    const Result<Function> function = decode(addr, size);
    if (!function) return function.error();
    const rewrite::FunctionView& view = function.value().view;
    const auto end = view.bytes.begin() + std::min<size_t>(view.size, view.bytes.size());
    const auto rest = view.bytes.begin() + std::min<size_t>(view.decoded_end, view.bytes.size());
    if (rest < end && std::search(rest, end, std::begin(kSyscall), std::end(kSyscall)) != end) {
      return fail(EOPNOTSUPP, "a function that makes system calls cannot be decoded");
    }
    for (const rewrite::SyscallSite& call : rewrite::find_syscalls(view, reader)) {
      const Result<std::optional<MaskSite>> site = mask_site(function.value(), call);
      if (!site) return site.error();
      if (site.value()) sites.push_back(*site.value());
    }
  }
  return sites;
}

// From the sites of rt_sigaction to the ends of their calls, with what lies between of ours.
std::vector<std::pair<uint64_t, uint64_t>> Session::sigaction_ranges() const {
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const auto& [addr, site] : sites_) {
    if (site->request.hooks.empty() || site->request.hooks.front().kind != HookKind::kSigaction) {
      continue;
    }
    const Patch& patch = *site->entry;
    ranges.emplace_back(patch.plan.site, patch.plan.site + patch.plan.window + sizeof kSyscall);
    ranges.emplace_back(patch.head, patch.head + rewrite::kHeadBytes);
    ranges.emplace_back(patch.copy, patch.copy + patch.copy_bytes.size());
    for (const Lane& lane : patch.lanes)
      ranges.emplace_back(lane.body, lane.body + lane.body_bytes);
  }
  return ranges;
}

// Whether a thread is where it must not be while the agent does this.
bool Session::is_in_the_way(const StoppedProcess& process, uint64_t fn) {
  // The stop itself has taken the tokens of all that run; whoever is about to put one looks next.
  if (fn == agent_fn(header_.masks_withdraw)) return false;
  std::vector<std::pair<uint64_t, uint64_t>> calls = sigaction_ranges();
  if (fn == agent_fn(header_.masks_take)) {
    // Of a thread inside the agent its stack tells who called.
    std::vector<std::pair<uint64_t, uint64_t>> ranges = calls;
    ranges.emplace_back(agent_, agent_ + header_.data_off);
    const std::vector<uint64_t> pointers = process.code_pointers(ranges);
    return std::any_of(pointers.begin(), pointers.end(), [&](uint64_t pointer) {
      return std::any_of(calls.begin(), calls.end(), [pointer](const auto& range) {
        return pointer >= range.first && pointer < range.second;
      });
    });
  }
  const std::vector<std::pair<uint64_t, uint64_t>> ours = code_ranges();
  calls.insert(calls.end(), ours.begin(), ours.end());
  in_the_way_.clear();
  return process.anyone_inside(calls, &in_the_way_);
}

MaskState Session::masks() const {
  rt_env env{};
  MaskState state;
  if (!get(agent_ + header_.env_off, &env, sizeof env)) return state;
  state.events = env.mask_events;
  state.lost = env.mask_lost != 0;
  state.taken = env.masks_taken != 0;
  state.followed = env.guard_mode == 1 && env.rseq_cs_off != 0 && !state.lost &&
                   env.mask_settled == env.mask_events;
  return state;
}

std::vector<uint64_t> Session::vanished_mask_sites() const {
  std::vector<uint64_t> addrs;
  for (const auto& [addr, site] : sites_) {
    const auto& hooks = site->request.hooks;
    const bool counts = std::any_of(hooks.begin(), hooks.end(), [](const HookRequest& hook) {
      return hook.kind == HookKind::kMaskSite || hook.kind == HookKind::kSigaction;
    });
    if (!counts || site->entry == nullptr || !site->entry->on) continue;
    const Patch& patch = *site->entry;
    std::vector<uint8_t> seen(patch.new_bytes.size());
    const bool is_there = get(patch.plan.site, seen.data(), seen.size()).ok();
    if (!is_there || seen != patch.new_bytes) addrs.push_back(addr);
  }
  return addrs;
}

// Where a thread's word is. A thread whose word is elsewhere sees that ours is never cleared.
Result<void> Session::find_rseq() {
  int32_t tid_offset = 0;
  Result<void> read = get(agent_ + header_.env_off + offsetof(rt_env, tid_fs_offset), &tid_offset,
                          sizeof tid_offset);
  if (!read) return read;
  if (!fs_points_at_itself_ || tid_offset <= 0 || !kernel_clears_rseq()) {
    return fail(EOPNOTSUPP, "kernel or libc do not tell when a signal mask may have changed");
  }
  auto thread = RemoteThread::stop(pid_, any_thread());
  if (!thread) return thread.error();
  const RemoteThread::RseqArea area = thread.value()->rseq();
  const auto offset =
      static_cast<int64_t>(area.addr + kRseqCsOffset - thread.value()->saved().fs_base);
  if (area.addr == 0 || area.signature != kGlibcSignature || area.addr % 8 != 0 ||
      offset > kOffsetMax || offset < -kOffsetMax) {
    return fail(EOPNOTSUPP, "its libc registers no restartable sequences");
  }
  return put(agent_ + header_.env_off + offsetof(rt_env, rseq_cs_off), &offset, sizeof offset);
}

Result<uint64_t> Session::follow_masks(uint32_t events, bool withdraws) {
  const Result<void> alive = check_alive();
  if (!alive) return alive.error();
  const MaskState state = masks();
  if (!guard_armed_ || state.lost) return fail(EOPNOTSUPP, "its signal handlers are not known");
  Result<void> step;
  uint64_t pause_ns = 0;
  if (!state.taken) {
    // Not before it is known that nothing is settled: from now on the agent may put tokens.
    step = lose_masks();
    if (step.ok()) step = find_rseq();
    if (!step) return step.error();
  }
  if (!state.taken || withdraws) {
    const uint32_t call = state.taken ? header_.masks_withdraw : header_.masks_take;
    const Result<uint64_t> called = call_agent_alone(agent_fn(call));
    if (!called) return called.error();
    pause_ns = called.value();
  }
  // What came after `events` is another event, and not believed; what went before it must be seen.
  if (!vanished_mask_sites().empty()) return fail(ESTALE, "a module came again meanwhile");
  const uint64_t env = agent_ + header_.env_off;
  step = put(env + offsetof(rt_env, mask_settled), &events, sizeof events);
  if (!step) return step.error();
  return pause_ns;
}

Result<void> Session::lose_masks() {
  const uint32_t behind = masks().events - 1;
  return put(agent_ + header_.env_off + offsetof(rt_env, mask_settled), &behind, sizeof behind);
}

}  // namespace bpftime::target
