// SPDX-License-Identifier: MIT
// Session, second half: from wanted sites to changed bytes. Everything is prepared while the
// target runs (plans, trampolines, mappings); only the final exchange happens with it stopped.
#include <cpuid.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "../rewrite/emit.h"
#include "../rewrite/trampoline.h"
#include "remote_thread.h"
#include "session.h"
#include "session_parts.h"
#include "stopped_process.h"

namespace bpftime::target {

namespace {

constexpr uint64_t kArenaCodeBytes = 1 << 20;
constexpr uint32_t kStatsCpuShift = 16;
static_assert(HOOKS_PER_ARENA * sizeof(hook_stats) == 1u << kStatsCpuShift,
              "one CPU's hook_stats fill one block");
constexpr uint64_t kFunctionBytesMax = 4 << 20;
constexpr uint64_t kTextScanBytesMax = uint64_t{256} << 20;
constexpr uint8_t kTrapByte = 0xcc;
constexpr int kHoleAttempts = 4;
constexpr uint32_t kBpfFlagRdonlyProg = 1u << 7;  // BPF_F_RDONLY_PROG

uint64_t align_up(uint64_t value, uint64_t to) { return (value + to - 1) & ~(to - 1); }

uint64_t now_ns() {
  timespec ts{};
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return static_cast<uint64_t>(ts.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(ts.tv_nsec);
}

// AT_HWCAP2 bit 1: the kernel lets user space read its fs base (arch/x86/include/uapi/asm/hwcap2.h)
bool has_fsgsbase() { return (getauxval(AT_HWCAP2) & 2) != 0; }

// CPUID leaf 7, ECX bit 22.
bool has_rdpid() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (ecx >> 22 & 1) != 0;
}

const Region* region_at(const std::vector<Region>& regions, uint64_t addr) {
  for (const Region& region : regions) {
    if (region.start <= addr && addr < region.end) return &region;
  }
  return nullptr;
}

std::vector<uint8_t> jump_bytes(uint64_t from, uint64_t to, uint32_t window) {
  rewrite::CodeBuffer code(from);
  code.jmp(to);
  std::vector<uint8_t> bytes = std::move(code.bytes());
  bytes.resize(window, kTrapByte);  // never executed: every way in leads through the jump
  return bytes;
}

}  // namespace

struct Session::Change {
  SiteRequest request;
  Site* site = nullptr;         // the site that exists or will
  std::unique_ptr<Site> fresh;  // owner while it does not yet
  std::vector<Hook> hooks;      // wanted
  std::vector<Hook> dropped;    // present before, not wanted
  uint64_t body = 0;
  uint32_t body_bytes = 0;
  bool removes = false;
  bool vanished = false;  // the code went away with its module: only our memory of it is left
};

Result<std::vector<uint8_t>> Session::original_bytes(uint64_t addr, uint64_t size) const {
  std::vector<uint8_t> bytes(size);
  const Result<void> read = get(addr, bytes.data(), bytes.size());
  if (!read) return read.error();
  for (const auto& [at, site] : sites_) {
    for (size_t i = 0; i < site->old_bytes.size(); ++i) {
      const uint64_t pos = site->plan.site + i;
      if (pos >= addr && pos < addr + size) bytes[pos - addr] = site->old_bytes[i];
    }
  }
  return bytes;
}

Result<uint64_t> Session::allocate(Arena* arena, uint64_t bytes) {
  const uint64_t at = align_up(arena->used, 16);
  if (at + bytes > arena->bytes) return fail(ENOSPC, "the code arena is full");
  arena->used = at + bytes;
  return arena->base + at;
}

Result<Session::Arena*> Session::arena_near(uint64_t start, uint64_t end, uint64_t bytes) {
  for (const auto& arena : arenas_) {
    const uint64_t limit = arena->base + arena->bytes + arena->stats_bytes;
    if (arena->bytes - arena->used >= bytes + 64 && rewrite::fits_rel32(start, limit) &&
        rewrite::fits_rel32(limit, start) && rewrite::fits_rel32(end, arena->base) &&
        rewrite::fits_rel32(arena->base, end)) {
      return arena.get();
    }
  }
  auto arena = std::make_unique<Arena>();
  arena->bytes = kArenaCodeBytes;
  arena->stats_bytes = static_cast<size_t>(possible_cpus()) << kStatsCpuShift;
  arena->stats_fd.reset(memfd_create("bpftime-stats", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!arena->stats_fd.valid() ||
      ftruncate(arena->stats_fd.get(), static_cast<off_t>(arena->stats_bytes)) != 0 ||
      // A target that shrank it would end the daemon by SIGBUS.
      fcntl(arena->stats_fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail(ENOMEM, "no memory for counters");
  }
  void* view = mmap(nullptr, arena->stats_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                    arena->stats_fd.get(), 0);
  if (view == MAP_FAILED) return fail(ENOMEM, "no memory for counters");
  arena->stats_view = static_cast<uint8_t*>(view);
  const Result<void> mapped = map_arena(arena.get(), start, end);
  if (!mapped) return mapped.error();
  arena->stats_used.resize(HOOKS_PER_ARENA);
  // The first words of an arena are the slots through which trampolines reach the agent.
  const uint64_t slots[4] = {agent_fn(header_.push_return), agent_fn(header_.pop_return), 0, 0};
  const Result<void> wrote = put(arena->base, slots, sizeof slots);
  if (!wrote) return wrote.error();
  arena->used = sizeof slots;
  arenas_.push_back(std::move(arena));
  return arenas_.back().get();
}

// The target runs meanwhile and may take the hole that we chose: look again, a few times.
Result<void> Session::map_arena(Arena* arena, uint64_t start, uint64_t end) {
  for (int attempt = 0; attempt < kHoleAttempts; ++attempt) {
    Result<std::vector<Region>> regions = read_regions(any_thread());
    if (!regions) return regions.error();
    regions_ = std::move(regions.value());
    const auto hole = find_hole(regions_, start, end, arena->bytes + arena->stats_bytes);
    if (!hole) return fail(ENOSPC, "no free address range within 2 GiB of the code");
    std::vector<MapWant> wants;
    wants.push_back(MapWant::anon(arena->bytes, PROT_READ | PROT_EXEC, MAP_FIXED_NOREPLACE, *hole));
    wants.push_back(MapWant::shared(arena->stats_fd.get(), arena->stats_bytes,
                                    PROT_READ | PROT_WRITE, *hole + arena->bytes));
    wants[1].request.flags = MAP_SHARED | MAP_FIXED_NOREPLACE;
    const Result<void> mapped = map_all(&wants);
    if (mapped.ok()) {
      arena->base = wants[0].addr;
      arena->stats = wants[1].addr;
      return {};
    }
    if (mapped.error().errnum != EEXIST) return mapped;
    if (wants[0].addr == 0) continue;
    std::vector<MapWant> undo;
    undo.push_back(MapWant::unmap(wants[0].addr, arena->bytes));
    const Result<void> unmapped = map_all(&undo);
    if (!unmapped) return unmapped;
  }
  return fail(ENOSPC, "the process maps memory faster than we can");
}

Result<void> Session::ensure_shadows() {
  if (shadows_ != 0) return {};
  if (!has_fsgsbase()) {
    return fail(EOPNOTSUPP, "this processor or kernel has no rdfsbase: no return probes");
  }
  std::vector<MapWant> wants;
  wants.push_back(
      MapWant::anon(sizeof(shadow_stack) * SHADOW_THREADS, PROT_READ | PROT_WRITE, MAP_NORESERVE));
  const Result<void> mapped = map_all(&wants);
  if (!mapped) return mapped;
  shadows_ = wants[0].addr;
  return put(agent_ + header_.state_off + offsetof(agent_state, shadows), &shadows_,
             sizeof shadows_);
}

Result<void> Session::ensure_program(uint32_t prog_id) {
  if (images_.contains(prog_id)) return {};
  const std::shared_ptr<ProgObject> program = find_prog(prog_id);
  if (program == nullptr) return fail(ENOENT, "no such program");
  Image image;
  image.program = program;
  const uint64_t text_bytes = program->image.got_off();
  const uint64_t got_bytes = align_up(
      program->image.got.size() * 8 + program->maps.size() * sizeof(vm_map) + 8, ABI_PAGE_BYTES);
  image.bytes = text_bytes + got_bytes;
  // One range for both; the text then goes over its first pages.
  std::vector<MapWant> range;
  range.push_back(MapWant::anon(image.bytes, PROT_READ, 0));
  std::vector<const MapObject*> fresh_maps;
  for (const auto& map : program->maps) {
    if (map_addrs_.contains(map->id)) continue;
    fresh_maps.push_back(map.get());
    range.push_back(
        MapWant::shared(map->storage.get(), map->view.storage_bytes, PROT_READ | PROT_WRITE));
  }
  Result<void> step = map_all(&range);
  if (!step) return step;
  image.base = range[0].addr;
  // An orphan until the image is complete.
  orphans_.emplace_back(image.base, image.base + image.bytes);
  for (size_t i = 0; i < fresh_maps.size(); ++i) {
    map_addrs_[fresh_maps[i]->id] = range[i + 1].addr;
    map_bytes_[fresh_maps[i]->id] = fresh_maps[i]->view.storage_bytes;
  }
  std::vector<MapWant> text;
  text.push_back(
      MapWant::shared(program->text.get(), text_bytes, PROT_READ | PROT_EXEC, image.base));
  step = map_all(&text);
  if (!step) return step;
  step = write_got(image);
  if (!step) return step;
  orphans_.pop_back();
  images_.emplace(prog_id, image);
  return {};
}

Result<void> Session::write_got(const Image& image) {
  const ProgObject& program = *image.program;
  const uint64_t got = image.base + program.image.got_off();
  const uint64_t views = align_up(got + program.image.got.size() * 8, 8);
  std::vector<uint8_t> bytes(views - got + program.maps.size() * sizeof(vm_map));
  std::unordered_map<uint32_t, uint64_t> view_at;
  for (size_t i = 0; i < program.maps.size(); ++i) {
    vm_map view = program.maps[i]->view;
    view.base = reinterpret_cast<u8*>(map_addrs_[program.maps[i]->id]);
    const uint64_t off = views - got + i * sizeof(vm_map);
    memcpy(bytes.data() + off, &view, sizeof view);
    view_at[program.maps[i]->id] = got + off;
  }
  for (size_t i = 0; i < program.image.got.size(); ++i) {
    const GotSlot& slot = program.image.got[i];
    uint64_t value = 0;
    if (slot.kind == GotKind::kHelper) {
      if (slot.index >= AGENT_HELPERS_MAX || header_.helpers[slot.index] == 0) {
        return fail(ENOEXEC, "the program calls a helper that targets do not offer");
      }
      value = agent_fn(header_.helpers[slot.index]);
    } else if (slot.kind == GotKind::kMap) {
      value = view_at[slot.index];
    } else {
      const auto map = std::find_if(program.maps.begin(), program.maps.end(),
                                    [&](const auto& m) { return m->id == slot.index; });
      if (map == program.maps.end()) return fail(EIO, "a program names a map that it does not own");
      value = map_addrs_[slot.index] + (*map)->view.data_off + slot.offset;
    }
    memcpy(bytes.data() + i * 8, &value, sizeof value);
  }
  return put(got, bytes.data(), bytes.size());
}

Result<void> Session::plan_new(const SiteRequest& request, Site* site) {
  if (request.function_size == 0 || request.function_size > kFunctionBytesMax) {
    return fail(EOPNOTSUPP, "the function's size is not known or is over 4 MiB");
  }
  const Region* text = region_at(regions_, request.function);
  if (text == nullptr || !text->exec) return fail(EINVAL, "the address is not executable");
  if (text->shared) {
    return fail(EOPNOTSUPP, "its code is mapped shared: a change would reach other processes");
  }
  const uint64_t size = std::min<uint64_t>(request.function_size, text->end - request.function);
  const uint64_t read_size = std::min<uint64_t>(size + 16, text->end - request.function);
  const Result<std::vector<uint8_t>> bytes = original_bytes(request.function, read_size);
  if (!bytes) return bytes.error();
  const auto reader = [this](uint64_t addr, void* out, size_t count) {
    return get(addr, out, count).ok();
  };
  const Result<rewrite::FunctionView> function = rewrite::decode_function(
      request.function, static_cast<uint32_t>(size), bytes.value(), reader);
  if (!function) return function.error();
  Result<rewrite::SitePlan> plan = rewrite::plan_site(function.value(), request.addr);
  if (!plan) return plan.error();
  const rewrite::Insn& first = function.value().insns[plan->first];
  if (first.is_branch && first.branch_target != 0) {
    const Region* to = region_at(regions_, first.branch_target);
    if (to == nullptr || to->inode != text->inode) {
      return fail(EBUSY, "somebody else's jump is there already");
    }
  }
  for (const auto& [at, other] : sites_) {
    if (plan->site < other->plan.site + other->plan.window &&
        other->plan.site < plan->site + plan->window) {
      return fail(EBUSY, "another probe's bytes overlap");
    }
  }
  if (plan->loops_to_site) {
    for (const HookRequest& hook : request.hooks) {
      if (hook.on_return) {
        return fail(EOPNOTSUPP, "the function jumps back to its start: returns cannot be followed");
      }
    }
  }
  const uint64_t text_bytes = std::min(text->end - text->start, kTextScanBytesMax);
  const Result<std::vector<uint8_t>> whole = original_bytes(text->start, text_bytes);
  if (whole.ok() &&
      rewrite::branch_enters_window(whole.value(), text->start, plan->site, plan->window,
                                    request.function, request.function + size)) {
    return fail(EOPNOTSUPP, "other code jumps into the first bytes");
  }
  site->request = request;
  site->inode = text->inode;
  site->plan = plan.value();
  const uint64_t off = plan->site - request.function;
  if (off + plan->window > bytes.value().size()) {
    return fail(EOPNOTSUPP, "the mapping ends within the first bytes");
  }
  site->old_bytes.assign(bytes.value().begin() + static_cast<int64_t>(off),
                         bytes.value().begin() + static_cast<int64_t>(off + plan->window));
  const Result<Arena*> arena = arena_near(text->start, text->end, 512);
  if (!arena) return arena.error();
  site->arena = arena.value();
  const Result<uint64_t> head = allocate(site->arena, rewrite::kHeadBytes);
  if (!head) return head.error();
  // A copy is at most a few times its window; its exact size depends on where it lies.
  const Result<uint64_t> copy = allocate(site->arena, 8 * rewrite::kWindowBytesMax);
  if (!copy) return copy.error();
  site->head = head.value();
  site->copy = copy.value();
  const Result<rewrite::RelocatedCode> relocated =
      rewrite::relocate(function.value(), site->plan, site->copy);
  if (!relocated) return relocated.error();
  site->pc_map = relocated.value().map;
  site->copy_bytes = relocated.value().code;
  site->new_bytes = jump_bytes(site->plan.site, site->head, site->plan.window);
  site->id = next_site_id_++;
  return put(site->copy, site->copy_bytes.data(), site->copy_bytes.size());
}

Result<Session::Change> Session::prepare(const SiteRequest& request) {
  Change change;
  change.request = request;
  const auto existing = sites_.find(request.addr);
  if (request.hooks.empty()) {
    if (existing == sites_.end()) return fail(ENOENT, "nothing is attached there");
    change.site = existing->second.get();
    change.removes = true;
    change.dropped = change.site->hooks;
    return change;
  }
  for (const HookRequest& hook : request.hooks) {
    if (hook.kind != HookKind::kProgram) continue;
    const Result<void> ready = ensure_program(hook.prog_id);
    if (!ready) return ready.error();
    if (!hook.on_return) continue;
    const Result<void> shadows = ensure_shadows();
    if (!shadows) return shadows.error();
  }
  if (existing != sites_.end()) {
    change.site = existing->second.get();
    for (const HookRequest& hook : request.hooks) {
      if (hook.on_return && change.site->plan.loops_to_site) {
        return fail(EOPNOTSUPP, "the function jumps back to its start: returns cannot be followed");
      }
    }
  } else {
    change.fresh = std::make_unique<Site>();
    change.site = change.fresh.get();
    const Result<void> planned = plan_new(request, change.site);
    if (!planned) return planned.error();
  }
  const Result<void> built = build(&change);
  if (!built) {
    release_counters(change);
    return built.error();
  }
  return change;
}

// Slots, counters and the body for the wanted hooks; hooks that stay keep their slot and counters.
Result<void> Session::build(Change* change) {
  Site* site = change->site;
  change->dropped = site->hooks;
  for (const HookRequest& request : change->request.hooks) {
    const auto same =
        std::find_if(change->dropped.begin(), change->dropped.end(),
                     [&](const Hook& hook) { return hook.request.hook_id == request.hook_id; });
    Hook hook;
    hook.request = request;
    if (same != change->dropped.end()) {
      hook.slot = same->slot;
      hook.entry = same->entry;
      hook.stat = same->stat;
      change->dropped.erase(same);
    } else {
      const Result<uint64_t> slot = allocate(site->arena, 8);
      if (!slot) return slot.error();
      hook.slot = slot.value();
      auto& used = site->arena->stats_used;
      const auto free = std::find(used.begin(), used.end(), false);
      if (free == used.end()) return fail(ENOSPC, "too many hooks in one address neighbourhood");
      *free = true;
      hook.stat = static_cast<uint32_t>(free - used.begin());
      for (size_t cpu = 0; cpu < site->arena->stats_bytes >> kStatsCpuShift; ++cpu) {
        memset(site->arena->stats_view + (cpu << kStatsCpuShift) + hook.stat * sizeof(hook_stats),
               0, sizeof(hook_stats));
      }
    }
    change->hooks.push_back(hook);
  }
  if (change->hooks.front().request.kind == HookKind::kSigaction) {
    const Result<uint64_t> body = build_filter(site, &change->body_bytes);
    if (!body) return body.error();
    change->body = body.value();
    return {};
  }
  rewrite::TrampolineSpec spec;
  spec.copy = site->copy;
  spec.func_ip = site->request.addr;
  spec.site_id = site->id;
  spec.at_entry = site->plan.at_entry && !site->plan.loops_to_site;
  spec.has_rdpid = has_rdpid();
  spec.stats_cpu_shift = kStatsCpuShift;
  spec.push_return_slot = site->arena->base;
  spec.pop_return_slot = site->arena->base + 8;
  for (Hook& hook : change->hooks) {
    if (!hook.request.enabled) continue;
    rewrite::HookCall call;
    call.entry_slot = hook.slot;
    call.stats = site->arena->stats + hook.stat * sizeof(hook_stats);
    call.cookie = hook.request.cookie;
    call.hook_id = hook.request.hook_id;
    uint64_t entry = agent_fn(header_.restore_returns);
    if (hook.request.kind == HookKind::kProgram) {
      const Image& image = images_.at(hook.request.prog_id);
      entry = image.base + image.program->image.entry_off;
      call.ctx_read_mask = image.program->image.ctx_read_mask;
      call.escapes_ctx = image.program->image.escapes_ctx;
    } else {
      call.ctx_read_mask = 0;
      call.escapes_ctx = false;
      call.counted = false;
    }
    (hook.request.on_return ? spec.on_return : spec.on_entry).push_back(call);
    hook.entry = entry;
    const Result<void> wrote = put(hook.slot, &entry, sizeof entry);
    if (!wrote) return wrote;
  }
  if (spec.on_entry.empty() && spec.on_return.empty()) return {};  // all disabled: head → copy
  if (!spec.on_return.empty() && !spec.at_entry) {
    return fail(EINVAL, "a return probe needs the start of a function");
  }
  // Built once to learn the size, once where it will be.
  spec.body = site->arena->base + align_up(site->arena->used, 16);
  const Result<rewrite::Trampoline> trampoline = rewrite::build_trampoline(spec);
  if (!trampoline) return trampoline.error();
  const Result<uint64_t> body = allocate(site->arena, trampoline.value().code.size());
  if (!body) return body.error();
  change->body = body.value();
  change->body_bytes = static_cast<uint32_t>(trampoline.value().code.size());
  return put(change->body, trampoline.value().code.data(), trampoline.value().code.size());
}

// The body for a site of rt_sigaction; the agent decides per call.
Result<uint64_t> Session::build_filter(Site* site, uint32_t* body_bytes) {
  const uint64_t call = site->plan.site + site->plan.window;
  uint8_t insn[2] = {};
  const Result<void> read = get(call, insn, sizeof insn);
  if (!read || site->plan.window != 5 || insn[0] != 0x0f || insn[1] != 0x05) {
    return fail(EINVAL, "no system call follows the site");
  }
  const Result<uint64_t> slot = allocate(site->arena, 8);
  if (!slot) return slot.error();
  const uint64_t entry = agent_fn(header_.sigaction);
  Result<void> wrote = put(slot.value(), &entry, sizeof entry);
  if (!wrote) return wrote.error();
  rewrite::FilterSpec spec;
  spec.body = site->arena->base + align_up(site->arena->used, 16);
  spec.copy = site->copy;
  spec.behind = call + 2;
  spec.filter_slot = slot.value();
  const Result<rewrite::Trampoline> trampoline = rewrite::build_filter(spec);
  if (!trampoline) return trampoline.error();
  const Result<uint64_t> body = allocate(site->arena, trampoline.value().code.size());
  if (!body) return body.error();
  *body_bytes = static_cast<uint32_t>(trampoline.value().code.size());
  wrote = put(body.value(), trampoline.value().code.data(), trampoline.value().code.size());
  if (!wrote) return wrote.error();
  return body;
}

Result<ApplyReport> Session::apply(const std::vector<SiteRequest>& requests,
                                   uint64_t* reason_site) {
  *reason_site = 0;
  const Result<void> alive = check_alive();
  if (!alive) return alive.error();
  Result<std::vector<Region>> regions = read_regions(any_thread());
  if (!regions) return regions.error();
  regions_ = std::move(regions.value());
  std::vector<Change> changes;
  for (const SiteRequest& request : requests) {
    Result<Change> change = prepare(request);
    if (!change) {
      *reason_site = request.addr;
      forget(&changes);
      return change.error();
    }
    changes.push_back(std::move(change.value()));
    Change& stored = changes.back();
    // Later requests of the same batch must see this site's bytes as taken.
    if (stored.fresh != nullptr) sites_[request.addr] = std::move(stored.fresh);
  }
  const Result<ApplyReport> done = commit(&changes);
  if (!done) forget(&changes);
  return done;
}

// Undoes prepare(): nothing of it was visible to the target's threads.
void Session::forget(std::vector<Change>* changes) {
  for (Change& change : *changes) {
    if (change.removes || change.site == nullptr) continue;
    release_counters(change);
    if (change.site->hooks.empty()) sites_.erase(change.request.addr);
  }
}

// Counters that build() took for hooks that the site did not have before.
void Session::release_counters(const Change& change) {
  for (const Hook& hook : change.hooks) {
    const auto& old = change.site->hooks;
    const bool kept = std::any_of(old.begin(), old.end(), [&](const Hook& h) {
      return h.request.hook_id == hook.request.hook_id;
    });
    if (!kept) change.site->arena->stats_used[hook.stat] = false;
  }
}

Result<ApplyReport> Session::commit(std::vector<Change>* changes) {
  const uint64_t stopped_at = now_ns();
  auto stopped = StoppedProcess::stop(pid_);
  if (!stopped) return stopped.error();
  StoppedProcess& process = *stopped.value();
  process.know_regions(regions_);
  // Look at every byte before the first is changed.
  for (Change& change : *changes) {
    const Site& site = *change.site;
    const bool fresh = site.hooks.empty();
    const auto& expected = fresh ? site.old_bytes : site.new_bytes;
    std::vector<uint8_t> seen(expected.size());
    const Region* region = region_at(regions_, site.plan.site);
    const bool mapped = region != nullptr && region->inode == site.inode &&
                        get(site.plan.site, seen.data(), seen.size()).ok();
    // A module that was unloaded took its site along: there is nothing to write back.
    change.vanished = change.removes && (!mapped || seen == site.old_bytes);
    if (change.vanished) continue;
    if (!mapped) return fail(ESTALE, "the code is no longer mapped");
    if (seen != expected) return fail(EBUSY, "somebody else changed the code there");
  }
  // As long as any return address is replaced an unwinder must come by the site that puts it right.
  const bool unguards = std::any_of(changes->begin(), changes->end(), [](const Change& change) {
    return change.removes && !change.site->hooks.empty() &&
           change.site->hooks.front().request.kind == HookKind::kRestoreReturns;
  });
  if (unguards && (process.anyone_inside(code_ranges()) || any_live_return())) {
    return fail(EBUSY, "a probed function has not returned yet");
  }
  size_t done = 0;
  Result<void> wrote;
  for (; done < changes->size() && wrote.ok(); ++done) {
    wrote = write_change((*changes)[done], &process, false);
  }
  if (!wrote) {
    for (size_t i = 0; i < done; ++i)
      static_cast<void>(write_change((*changes)[i], &process, true));
    return wrote.error();
  }
  ApplyReport report;
  report.thread_count = static_cast<uint32_t>(process.threads().size());
  stopped.value().reset();
  report.pause_ns = now_ns() - stopped_at;
  for (Change& change : *changes) settle(&change);
  return report;
}

// Writes one site's bytes with everything stopped; `undo` writes them back.
Result<void> Session::write_change(const Change& change, StoppedProcess* process, bool undo) {
  Site& site = *change.site;
  const bool fresh = site.hooks.empty();
  const bool takes_out = change.removes != undo;
  const uint64_t stub = agent_fn(header_.ret_stub);
  if (!change.removes) {
    const uint64_t target = undo ? (site.body != 0 ? site.body : site.copy)
                                 : (change.body != 0 ? change.body : site.copy);
    const std::vector<uint8_t> head = jump_bytes(site.head, target, rewrite::kHeadBytes);
    const Result<void> wrote = put(site.head, head.data(), head.size());
    if (!wrote) return wrote;
  }
  for (const auto* hooks : {&change.dropped, &change.hooks}) {
    for (const Hook& hook : *hooks) {
      const bool is_dropped = hooks == &change.dropped;
      if (!is_dropped && hook.request.enabled) continue;
      // Undone: programs that ran before run again.
      const Result<void> wrote = put(hook.slot, undo ? &hook.entry : &stub, sizeof stub);
      if (!wrote) return wrote;
    }
  }
  if (!fresh && !change.removes) return {};
  if (change.vanished) return {};
  const auto& bytes = takes_out ? site.old_bytes : site.new_bytes;
  const Result<void> wrote = put(site.plan.site, bytes.data(), bytes.size());
  if (!wrote) return wrote;
  move_threads(site, !takes_out, process);
  if (takes_out) return {};
  return move_interrupted(site, *process);
}

// A thread whose next instruction is about to change goes on at the same instruction elsewhere.
void Session::move_threads(const Site& site, bool to_copy, StoppedProcess* process) {
  for (StoppedProcess::Thread& thread : process->threads()) {
    for (const rewrite::PcPair& pair : site.pc_map) {
      const uint64_t original = site.plan.site + pair.old_off;
      const uint64_t copied = site.copy + pair.new_off;
      if (to_copy && pair.old_off != 0 && thread.regs.rip == original) {
        thread.regs.rip = copied;
        thread.dirty = true;
        break;
      }
      if (!to_copy && thread.regs.rip == copied) {
        thread.regs.rip = original;
        thread.dirty = true;
        break;
      }
    }
  }
}

// The same for threads that a signal handler interrupted inside the window: the handler's return
// would lead into the middle of the jump. The address to return to lies in the signal's frame.
Result<void> Session::move_interrupted(const Site& site, const StoppedProcess& process) const {
  if (site.pc_map.size() <= 1) return {};
  for (const auto& [at, pc] :
       process.interrupted_at(site.plan.site + 1, site.plan.site + site.plan.window)) {
    for (const rewrite::PcPair& pair : site.pc_map) {
      if (pc != site.plan.site + pair.old_off) continue;
      const uint64_t copied = site.copy + pair.new_off;
      const Result<void> wrote = put(at, &copied, sizeof copied);
      if (!wrote) return wrote;
    }
  }
  return {};
}

void Session::settle(Change* change) {
  Site* site = change->site;
  for (const Hook& hook : change->dropped) {
    site->arena->stats_used[hook.stat] = false;
    if (hook.request.kind == HookKind::kProgram) --images_.at(hook.request.prog_id).users;
  }
  if (change->removes) {
    sites_.erase(change->request.addr);
    return;
  }
  for (const Hook& hook : change->hooks) {
    const bool before = std::any_of(site->hooks.begin(), site->hooks.end(), [&](const Hook& h) {
      return h.request.hook_id == hook.request.hook_id;
    });
    if (!before && hook.request.kind == HookKind::kProgram) {
      ++images_.at(hook.request.prog_id).users;
    }
  }
  site->hooks = change->hooks;
  site->request = change->request;
  site->body = change->body;
  site->body_bytes = change->body_bytes;
}

std::vector<HookCounters> Session::counters() const {
  std::vector<HookCounters> out;
  for (const auto& [addr, site] : sites_) {
    for (const Hook& hook : site->hooks) {
      HookCounters sum;
      sum.hook_id = hook.request.hook_id;
      for (size_t cpu = 0; cpu < site->arena->stats_bytes >> kStatsCpuShift; ++cpu) {
        hook_stats one{};
        memcpy(&one,
               site->arena->stats_view + (cpu << kStatsCpuShift) + hook.stat * sizeof(hook_stats),
               sizeof one);
        sum.hits += one.hits;
        sum.missed += one.missed;
        sum.samples += one.samples;
        sum.sampled_ticks += one.sampled_ticks;
      }
      out.push_back(sum);
    }
  }
  return out;
}

std::vector<SiteInfo> Session::site_infos() const {
  std::vector<SiteInfo> out;
  for (const auto& [addr, site] : sites_) {
    SiteInfo info;
    info.addr = addr;
    info.site = site->plan.site;
    info.head = site->head;
    info.copy = site->copy;
    info.body = site->body;
    info.body_bytes = site->body_bytes;
    info.old_bytes = site->old_bytes;
    info.new_bytes = site->new_bytes;
    info.copy_bytes = site->copy_bytes;
    info.form = "jmp";
    out.push_back(std::move(info));
  }
  return out;
}

}  // namespace bpftime::target
