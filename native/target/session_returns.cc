// SPDX-License-Identifier: MIT
// Session, the part that looks at replaced return addresses (docs/adr/0003): whose calls will come
// back to us, and whose never did.
#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <vector>

#include "session.h"
#include "session_parts.h"

namespace bpftime::target {

namespace {

constexpr size_t kIovecsAtOnce = 1024;  // IOV_MAX

uint64_t address_of_unwound(uint64_t shadows, uint32_t site_id) {
  return shadows + sizeof(shadow_stack) * SHADOW_THREADS +
         sizeof(uint64_t) * (site_id % UNWOUND_SITES);
}

}  // namespace

// Only the first words of each stack tell whether it is in use, and most were never touched.
std::vector<Session::ShadowHead> Session::shadow_heads() const {
  std::vector<ShadowHead> heads;
  if (shadows_ == 0) return heads;
  constexpr size_t kHeadBytes = offsetof(shadow_stack, sweep_at);
  struct Words {
    uint64_t key, depth;
  };
  static_assert(sizeof(Words) == kHeadBytes);
  std::vector<Words> words(SHADOW_THREADS);
  for (size_t first = 0; first < SHADOW_THREADS; first += kIovecsAtOnce) {
    std::vector<iovec> remote;
    for (size_t i = first; i < first + kIovecsAtOnce; ++i) {
      remote.push_back({reinterpret_cast<void*>(shadows_ + i * sizeof(shadow_stack)), kHeadBytes});
    }
    const iovec local{&words[first], kIovecsAtOnce * kHeadBytes};
    static_cast<void>(process_vm_readv(any_thread(), &local, 1, remote.data(), remote.size(), 0));
  }
  for (size_t i = 0; i < SHADOW_THREADS; ++i) {
    const auto [key, depth] = words[i];
    const auto count = static_cast<uint32_t>(std::min<uint64_t>(depth, SHADOW_DEPTH));
    if (key != 0 && count != 0) heads.push_back({shadows_ + i * sizeof(shadow_stack), count});
  }
  return heads;
}

// Sites of functions that will return to us: alive is an entry whose slot still holds our address.
std::set<uint32_t> Session::live_return_sites() const {
  std::set<uint32_t> sites;
  std::vector<shadow_entry> entries(SHADOW_DEPTH);
  for (const ShadowHead& head : shadow_heads()) {
    const uint64_t at = head.addr + offsetof(shadow_stack, entries);
    if (!get(at, entries.data(), head.count * sizeof(shadow_entry)).ok()) continue;
    for (size_t e = 0; e < head.count; ++e) {
      uint64_t now = 0;
      if (entries[e].slot != ~uint64_t{0} && get(entries[e].slot, &now, sizeof now).ok() &&
          now == entries[e].return_point) {
        sites.insert(static_cast<uint32_t>(entries[e].site_id));
      }
    }
  }
  return sites;
}

uint64_t Session::shadows_pointer() const {
  return agent_ + header_.state_off + offsetof(agent_state, shadows);
}

uint64_t Session::unwound_at(const Site& site) const {
  uint64_t count = 0;
  if (shadows_ == 0) return 0;
  const Result<void> read = get(address_of_unwound(shadows_, site.id), &count, sizeof count);
  return read.ok() ? count : 0;
}

UnwoundReturns Session::unwound() const {
  UnwoundReturns out;
  agent_state state{};
  if (get(agent_ + header_.state_off, &state, sizeof state).ok()) out.total = state.unwound;
  for (const auto& [addr, site] : sites_) {
    if (site->request.exit_form != ExitForm::kBalanced) continue;
    const uint64_t count = unwound_at(*site);
    for (const Hook& hook : site->hooks) {
      if (!hook.request.on_return) continue;
      out.hooks.emplace_back(hook.request.hook_id, count - hook.unwound_before);
    }
  }
  // Frames that longjmp has ended are recognised by their own thread only, at its next push.
  for (const ShadowHead& head : shadow_heads()) {
    const uint64_t now = 0;
    static_cast<void>(put(head.addr + offsetof(shadow_stack, sweep_at), &now, sizeof now));
  }
  return out;
}

}  // namespace bpftime::target
