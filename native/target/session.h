// SPDX-License-Identifier: MIT
// Session: one entered process. Knows what of ours is in it (agent, arenas, images, maps, sites),
// puts hooks in and takes them out, and leaves without a trace.
//
// Invariants: text bytes change only while every thread is stopped, code of ours that threads may
// execute only by one byte (docs/adr/0012); nothing of ours is unmapped or used for something else
// while a thread could still execute it; a failed call leaves the target's text as it was.
// All methods run on the tracer thread. TypeScript decides what to hook; nothing is decided here.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "../base/scoped_fd.h"
#include "../bpf/registry.h"
#include "../rewrite/branch_index.h"
#include "../rewrite/exit_plan.h"
#include "../rewrite/syscall_sites.h"
#include "../rewrite/trampoline.h"
#include "../unwind/extents.h"
#include "code_space.h"
#include "load_watch.h"
#include "proc_maps.h"
#include "program_image.h"
#include "session_report.h"
#include "session_state.h"
#include "standstill.h"
#include "unwind_tables.h"

namespace bpftime::target {

class RemoteThread;
class StoppedProcess;

// kGoResume: the exit of runtime.asyncPreempt, where preempted goroutines go on.
// kSigaction: the site is a `mov $13, %eax` in front of a `syscall`, and the agent answers it.
// kLoaderEvent: the site is the loader's hook for debuggers, and the agent tells us.
// kMaskSite: a system call that changes the signal mask, or may, follows; cookie: its number, or 0
// when rax holds the number.
enum class HookKind : uint8_t {
  kProgram,
  kRestoreReturns,
  kSigaction,
  kLoaderEvent,
  kGoResume,
  kMaskSite
};

struct HookRequest {
  uint32_t hook_id = 0;
  HookKind kind = HookKind::kProgram;
  uint32_t prog_id = 0;
  bool on_return = false;
  bool enabled = true;
  uint64_t cookie = 0;
};

/// How returns are caught: where the function's `ret`s stand, or by a replaced return address.
enum class ExitForm : uint8_t { kNone, kRet, kBalanced };

/// The wanted state of one site: no hooks = the site goes away.
struct SiteRequest {
  uint64_t addr = 0;      // where the user wants the probe
  uint64_t function = 0;  // start of the function around it
  uint32_t function_size = 0;
  ExitForm exit_form = ExitForm::kNone;  // for hooks on return
  // Calls that are under way end with the programs that they began with, also when those go.
  bool lets_finish = false;
  // Of Go code: the extent of runtime.morestack, which shows where the runtime keeps `g`. 0: not
  // Go.
  uint64_t go_morestack = 0;
  uint32_t go_morestack_size = 0;
  // Bytes from `addr` on that no other site may take, at least.
  uint32_t keeps = 0;
  bool behind = false;  // hooks run behind the window's instructions
  std::vector<HookRequest> hooks;
};

/// A place in front of a system call through which a signal mask may change.
struct MaskSite {
  uint64_t addr = 0, function = 0;
  uint32_t function_size = 0, keeps = 0;
  bool behind = false;
  uint32_t number = 0;  // 0: known only when it is made; rt_sigaction: a kSigaction site, or none
};

/// How far signal masks are followed: see native/vm/rt/mask.h.
struct MaskState {
  bool followed = false;
  bool taken = false;   // once, since the guard was armed
  bool lost = false;    // they cannot be, as long as the guard is armed
  uint32_t events = 0;  // to settle
};

// Recycling looks at all threads' stacks in a stop of its own, so it waits for this much.
constexpr uint64_t kRecycleBytes = 128 << 10;

struct ApplyReport {
  uint64_t pause_ns = 0;          // all threads stopped
  uint64_t recycle_pause_ns = 0;  // stopped once more, to see what memory can be used again
  uint32_t thread_count = 0;
  bool guard_armed = false;
};

using Notes = std::map<uint64_t, std::vector<uint8_t>>;

class Session {
 public:
  /// Enters `pid`. ESRCH, EPERM (kernel refuses), EBUSY (traced), EOPNOTSUPP (seccomp, ...).
  /// `still_allowed` is asked when a thread stands still and nothing was changed: EACCES if not.
  static Result<std::unique_ptr<Session>> enter(pid_t pid,
                                                const std::function<bool()>& still_allowed);
  /// Goes on with the session that a killed daemon left in `pid`. ENOENT: there is none, EBUSY: its
  /// daemon lives, EINVAL, EACCES, ESTALE: its journal cannot be believed. Sites are as they were;
  /// programs and maps have the ids of the former daemon until bind().
  static Result<std::unique_ptr<Session>> adopt(pid_t pid);
  /// The session of a child that was forked from `parent`'s process. EAGAIN: of vfork, which shares
  /// memory; ESTALE: it runs another program. Its hooks are the parent's, its counters its own.
  static Result<std::unique_ptr<Session>> fork_of(const Session& parent, pid_t child);
  /// Whose session is in `pid`. ENOENT: nobody's.
  static Result<JournalOwner> owner_of(pid_t pid);
  /// The process that was entered: `pid`, or the one of which it is, by fork, a copy. ENOENT: none.
  static Result<pid_t> home_of(pid_t pid);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Brings the given sites to the wanted state in one stop. All or nothing.
  /// `reason_site`: on failure, the address that caused it (0: none in particular).
  /// ENOTRECOVERABLE: bytes of Go code that would move may fault, which needs arm_guard() first.
  Result<ApplyReport> apply(const std::vector<SiteRequest>& requests, uint64_t* reason_site);

  /// Can the returns of a function be caught where its `ret`s stand? The number of exits, or
  /// EOPNOTSUPP with what stands against it. Changes nothing.
  Result<uint32_t> check_exits(uint64_t function, uint32_t function_size, bool is_go);

  /// From now on threads are never stopped together: sites take the form that is set by one byte,
  /// or are refused, and who is inside our code is found out by looking at one thread after
  /// another.
  void set_no_stop(bool on);
  [[nodiscard]] bool no_stop() const { return no_stop_; }

  /// Takes SIGSEGV and SIGBUS over, so that programs read memory by plain guarded loads. All sites
  /// of rt_sigaction must be diverted (kSigaction) before, in one batch; apply() does this itself,
  /// in the same stop, if it can. EBUSY: a thread is in one; ask again. Nanoseconds of the stop.
  Result<uint64_t> arm_guard();
  /// Gives the signals back. EBUSY while a thread is inside our code; EALREADY, without a stop,
  /// while those that were have not run since.
  Result<void> disarm_guard();

  /// The sites in some functions through which masks may change. EOPNOTSUPP when one of them makes
  /// a system call that cannot be told, or not be diverted.
  Result<std::vector<MaskSite>> mask_sites(
      const std::vector<std::pair<uint64_t, uint32_t>>& functions);
  /// Addresses in [start, end) at which the bytes of a `syscall` instruction stand.
  Result<std::vector<uint64_t>> syscall_bytes(uint64_t start, uint64_t end) const;
  [[nodiscard]] MaskState masks() const;
  /// Diverted places of the two kinds that are not diverted any more: their module went, and came
  /// again before anybody looked.
  [[nodiscard]] std::vector<uint64_t> vanished_mask_sites() const;
  /// All sites of the modules that were there at `events` are diverted (kMaskSite), some of them
  /// since the last time if `withdraws`: reads need no system call any more. EBUSY: a thread is
  /// inside our code; EOPNOTSUPP: kernel, libc or program do not let us. Nanoseconds of the stop.
  Result<uint64_t> follow_masks(uint32_t events, bool withdraws);
  /// Back to one system call for each read.
  Result<void> lose_masks();

  /// Whether anything waits for modules that are not loaded. The first time this maps a page that
  /// the agent and we share; `on_event` is called, on another thread, for each change of the
  /// loader's list while something waits, and the target waits for settle_loads(event).
  Result<void> want_loads(bool wanted, const std::function<void(uint32_t event)>& on_event);
  void settle_loads(uint32_t event);

  /// Modules came or went: programs that ask for stacks find callers in the new ones, too.
  Result<void> follow_modules();

  /// Takes everything of ours out. All sites must be gone before. EBUSY while a thread is inside:
  /// ask again later; EALREADY, without a stop, while those that were have not run since.
  Result<void> leave();

  /// ESRCH when the process ended, ESTALE when it has become another program (exec).
  Result<void> check_alive() const;

  /// False for an adopted session whose maps we may not open, or which another build made: all that
  /// can be done is to take its hooks out.
  [[nodiscard]] bool can_keep() const { return can_keep_; }
  /// Former and present ids of the maps of an adopted session, except the log's.
  [[nodiscard]] std::vector<std::pair<uint32_t, uint32_t>> adopted_maps() const;
  /// Programs of an adopted session have been loaded again: former and present ids. ENOEXEC: they
  /// are not, byte for byte, what runs in the target. `notes`: all that there are from now on.
  Result<void> bind(const std::vector<std::pair<uint32_t, uint32_t>>& programs, Notes notes);
  [[nodiscard]] std::vector<SiteRequest> site_requests() const;

  /// What the user of sessions wants to find when it is adopted, under keys of his own: in the
  /// journal from now on. Empty: not any more.
  void set_notes(Notes notes);
  [[nodiscard]] const Notes& notes() const { return notes_; }
  /// The same for bytes that are too many to be in memory; where they are.
  Result<uint64_t> keep_bytes(std::span<const uint8_t> bytes);
  void drop_bytes(uint64_t off, uint64_t bytes);
  Result<std::vector<uint8_t>> kept_bytes(uint64_t off, uint64_t bytes);

  [[nodiscard]] std::vector<HookCounters> counters() const;
  /// Returns that were cut short, where return addresses are replaced. What longjmp cut short is
  /// counted when its thread next calls a probed function after a call of this.
  [[nodiscard]] UnwoundReturns unwound() const;
  /// Where the target has the address of its shadow stacks, 0 there before the first return probe.
  [[nodiscard]] uint64_t shadows_pointer() const;
  [[nodiscard]] std::vector<PatchInfo> patch_infos() const;
  [[nodiscard]] std::shared_ptr<MapObject> log_map() const { return log_; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] uint64_t enter_ns() const { return enter_ns_; }
  [[nodiscard]] bool guard_armed() const { return guard_armed_; }
  [[nodiscard]] size_t site_count() const { return sites_.size(); }

 private:
  struct Arena {
    uint64_t base = 0, bytes = 0;
    CodeSpace space;
    uint64_t stats = 0;  // target address of CPU 0's hook_stats
    uint8_t* stats_view = nullptr;
    size_t stats_bytes = 0;
    ScopedFd stats_fd;
    std::vector<bool> stats_used;
    uint32_t stats_free = HOOKS_PER_ARENA;

    std::optional<uint32_t> take_stats();
    void give_back_stats(uint32_t index);
    ~Arena();
  };
  // Bytes of an arena.
  struct Piece {
    Arena* arena = nullptr;
    uint64_t addr = 0, bytes = 0;
  };
  // What of one site no code leads to any more, while threads may still be inside or come back. It
  // is recycled as a whole: old bodies call through old slots.
  struct Retired {
    std::vector<Piece> pieces;
    std::vector<Piece> ways;  // jumps that stay: a thread on one of them will be inside
    std::vector<std::pair<Arena*, uint32_t>> stats;
    std::set<uint32_t> programs;
    std::vector<std::pair<uint64_t, uint64_t>> landings;  // ranges
    std::vector<uint64_t> landing_addrs;                  // in them
  };
  struct Hook {
    HookRequest request;
    uint64_t slot = 0;            // holds the entry address of the program
    uint64_t entry = 0;           // what it holds while the hook is on
    Arena* counted_in = nullptr;  // the site's, or another within reach
    uint32_t stat = 0;            // index in the arena's hook_stats
    bool stubbed = false;         // the slot leads to nothing, and threads may be reading it
    uint64_t unwound_before = 0;  // of its site, when the hook came
  };
  // Where a head can lead. Written once, before the head leads there; no body: not any more.
  struct Lane {
    uint64_t body = 0;
    uint32_t body_bytes = 0;
    std::vector<uint64_t> calls;  // what the body calls, slots first: the same need no second body
  };
  // One diverted place. Once planned it stays with its site, on or off.
  struct Patch {
    rewrite::SitePlan plan;
    rewrite::FunctionView window;  // the displaced instructions alone
    std::vector<uint8_t> old_bytes, new_bytes, copy_bytes;
    std::vector<rewrite::PcPair> pc_map;
    uint64_t head = 0, copy = 0, body = 0;  // no head before the first body
    uint32_t body_bytes = 0;
    std::vector<Lane> lanes;                  // of the head's block; the first leads to the copy
    size_t lane = 0;                          // the one that the head takes
    std::vector<uint8_t> pad_old;             // kShort: what is at plan.pad while it is off
    uint64_t landing = 0, landing_bytes = 0;  // kPunned: where it leads; the pages around it
    bool is_fresh = true;                     // planned by the apply() that is under way
    bool is_exit = false;  // its last instruction is a `ret` where returns are caught
    bool is_entry = false;
    bool on = false;
    bool is_go = false;
    bool may_fault = false;  // the copy, where the language makes a panic of it
    bool has_room = false;   // below the stack pointer: the function has checked its stack
  };
  struct Site {
    uint32_t id = 0;
    SiteRequest request;
    Arena* arena = nullptr;
    uint64_t inode = 0;  // of the module's file
    std::unique_ptr<Patch> entry;
    std::vector<std::unique_ptr<Patch>> exits;
    bool exits_planned = false;
    bool exits_settled = false;  // exits_planned, as of the last change that happened
    std::vector<Hook> hooks;

    [[nodiscard]] std::vector<Patch*> patches() const;
  };
  // A function as planning sees it.
  struct Function {
    rewrite::FunctionView view;
    Region text;
    bool is_go = false;
    bool checks_stack = false;  // as Go functions do
  };
  // What becomes of one patch: on with this body, or off when it has none.
  struct ChangeStep {
    Patch* patch = nullptr;
    uint64_t body = 0;
    uint32_t body_bytes = 0;
    bool vanished = false;  // the code went away with its module: only our memory of it is left
    std::vector<uint64_t> calls;  // see Lane
    size_t lane = 0;              // of the head, leads to the body
    bool made_head = false;       // the patch had none
    size_t lanes_before = 0;      // how many the patch had, if it was given one
    // A head of its own, and the jump to it, when the patch's has no free lane.
    uint64_t head = 0;
    std::vector<Lane> lanes;
    std::vector<uint8_t> new_bytes;
  };
  // A prepared but not yet visible change of one site.
  struct Change;
  struct MapWant;

  explicit Session(pid_t pid) : pid_(pid) {}
  Result<void> open_handles();
  Result<void> ensure_journal();
  Result<SessionState> read_bare_agent() const;
  Result<void> settle_in();
  static std::vector<LaneState> lane_states(const std::vector<Lane>& lanes);
  static std::vector<Lane> restore_lanes(const std::vector<LaneState>& states);
  [[nodiscard]] uint32_t index_of(const Arena* arena) const;
  [[nodiscard]] std::vector<HookState> hook_states(const std::vector<Hook>& hooks) const;
  [[nodiscard]] SiteState site_state(const Site& site) const;
  [[nodiscard]] std::vector<ArenaState> range_states(std::vector<ArenaState> states) const;
  [[nodiscard]] SessionState state() const;
  [[nodiscard]] SessionState state_without_lists() const;
  [[nodiscard]] std::vector<ChangeState> change_states(const std::vector<Change>& changes) const;
  [[nodiscard]] Step unsaved_step(const std::vector<Change>* changes) const;
  void add_map_state(uint32_t id, uint64_t addr, SessionState* state) const;
  void save(const std::vector<Change>* changes = nullptr);
  Result<SessionState> read_journal();
  Result<Parts> read_mapped_journal();
  Result<void> restore(const SessionState& state);
  Result<void> restore_map(const MapState& map, bool is_log);
  Result<void> restore_arena(const ArenaState& state);
  Result<std::unique_ptr<Patch>> restore_patch(const PatchState& state);
  [[nodiscard]] std::vector<Hook> restore_hooks(const std::vector<HookState>& states) const;
  Result<void> restore_site(const SiteState& state);
  Result<ChangeStep> restore_step(Patch* patch, const StepState& state) const;
  Result<void> redo(const SessionState& state);
  static Result<std::shared_ptr<MapObject>> create_log();
  static Result<ScopedFd> make_stats_file(size_t bytes);
  [[nodiscard]] bool shares_memory_with(pid_t other) const;
  Result<void> inherit(const Session& parent);
  Result<void> inherit_arena(const ArenaState& state);
  Result<void> install_agent(const std::function<bool()>& still_allowed);
  Result<void> map_agent(RemoteThread* thread);
  Result<void> complete_agent(RemoteThread* thread);
  Result<void> fill_environment(uint64_t fs_base);
  Result<void> map_all(std::vector<MapWant>* wants);
  Result<void> run_batch(RemoteThread* thread, MapWant* wants, size_t count);
  Result<Arena*> arena_near(uint64_t start, uint64_t end);
  Result<void> take_counter(Site* site, Hook* hook);
  Result<void> map_arena(Arena* arena, uint64_t start, uint64_t end);
  Result<void> ensure_program(uint32_t prog_id);
  Result<void> map_image(const std::shared_ptr<ProgObject>& program);
  Result<void> fill_image(Image* image);
  void put_tails(const Image& image, uint32_t map_id, std::vector<uint8_t>* bytes) const;
  [[nodiscard]] bool leaves_stack(uint32_t prog_id) const;
  [[nodiscard]] bool overrides(const Image& image) const;
  [[nodiscard]] std::set<uint32_t> images_in_use() const;
  Result<void> ensure_shadows();
  Result<void> ensure_unwind(uint32_t prog_id);
  Result<void> update_unwind();
  void drop_parents_unwind(const Session& parent);
  Result<std::shared_ptr<UnwindTable>> read_module(UnwindTables::Module* module);
  Result<void> map_tables(const std::vector<std::shared_ptr<UnwindTable>>& tables);
  Result<void> write_index(std::vector<UnwindTables::Module> modules);
  Result<std::vector<uint8_t>> make_got(const Image& image) const;
  void learn_code(Image* image) const;
  Result<Change> prepare(const SiteRequest& request);
  Result<Function> decode(uint64_t addr, uint32_t size);
  Result<void> plan_site(const SiteRequest& request, Site* site);
  [[nodiscard]] bool overlaps(const rewrite::SitePlan& plan) const;
  Result<void> make_relay(const Function& function, Patch* patch);
  Result<void> make_landing(Patch* patch);
  struct Landing {
    uint64_t at = 0;
    bool is_shared = false;  // the page is there
  };
  [[nodiscard]] Result<Landing> choose_landing(const rewrite::SitePlan& plan) const;
  [[nodiscard]] Result<bool> shares_landing(uint64_t at) const;
  Result<ApplyReport> try_apply(const std::vector<SiteRequest>& requests, uint64_t* reason_site);
  static std::vector<uint8_t> site_bytes(const Patch& patch, uint64_t head);
  struct Relay {
    uint64_t addr = 0;
    std::vector<uint8_t> bytes;
  };
  static Relay relay_of(const Patch& patch, uint64_t head);
  [[nodiscard]] Result<bool> leads_to(const Patch& patch, uint64_t head) const;
  [[nodiscard]] Result<void> write_relay(const Patch& patch, uint64_t head, bool on) const;
  Result<void> plan_entry(const Function& function, uint64_t addr, Site* site);
  Result<void> plan_site_exits(const Function& function, Site* site);
  Result<rewrite::ExitPlan> plan_exits(const Function& function);
  std::optional<rewrite::SitePlan> form_of_entry(const Function& function);
  Result<rewrite::SitePlan> plan_window(const Function& function, uint64_t addr);
  Result<std::vector<rewrite::SitePlan>> plan_windows(const Function& function, uint64_t addr);
  static void prefer_short(const Function& function, std::vector<rewrite::SitePlan>* forms);
  void register_patches(const Site& site);
  void unregister_patches(const Site& site);
  Result<void> check_untouched(const Region& text, uint64_t addr, uint32_t bytes);
  [[nodiscard]] ScopedFd open_text_file(const Region& text) const;
  Result<void> check_window(const Function& function, const rewrite::SitePlan& plan);
  Result<std::unique_ptr<Patch>> make_patch(const Function& function, const rewrite::SitePlan& plan,
                                            Arena* arena);
  Result<void> build(Change* change);
  Result<void> choose_hooks(Change* change);
  Result<void> build_bodies(Change* change);
  Result<rewrite::HookCall> hook_call(Hook* hook, Change* change);
  Result<void> put_body(Site* site, Patch* patch, rewrite::TrampolineSpec spec, bool by_exit,
                        Change* change);
  Result<ApplyReport> commit(std::vector<Change>* changes);
  Result<void> check_bytes(Change* change, bool is_quiet);
  Result<void> write_change(const Change& change, StoppedProcess* process, bool undo);
  Result<void> write_slots(const Change& change, bool undo);
  Result<void> put_head(uint64_t head, uint64_t copy, std::vector<Lane>* lanes) const;
  Result<void> put_lane(uint64_t head, size_t lane, uint64_t body) const;
  Result<void> aim(const Patch& patch, uint64_t head, size_t lane, uint64_t body) const;
  Result<void> choose_lanes(Change* change);
  Result<void> choose_lane(Arena* arena, ChangeStep* step);
  static void drop_lanes(const Change& change);
  void settle_lanes(const Site& site, const std::vector<uint64_t>& left_slots, ChangeStep* step);
  [[nodiscard]] bool needs_stop(const Change& change) const;
  static bool unguards_unwinder(const Change& change);
  Result<void> returns_are_settled();
  static bool is_one_byte(const Change& change);
  Result<void> switch_step(const Change& change, ChangeStep* step) const;
  [[nodiscard]] Result<void> undo_step(const ChangeStep& step) const;
  Result<ApplyReport> switch_bodies(std::vector<Change>* changes);
  static void move_threads(const Patch& patch, bool to_copy, StoppedProcess* process);
  Result<void> move_interrupted(const std::vector<Change>& changes,
                                const StoppedProcess& process) const;
  void settle(Change* change);
  static void release_counters(const Change& change);
  static const char* form_name(const Patch& patch);
  [[nodiscard]] Tier tier_of(const HookRequest& request) const;
  void forget(std::vector<Change>* changes, const std::vector<SiteRequest>& requests);
  Result<void> build_filter(Change* change);
  using CodeBuilder = std::function<Result<rewrite::Trampoline>(uint64_t at)>;
  Result<void> put_code(Arena* arena, const CodeBuilder& build, ChangeStep* step);
  Result<void> ensure_go(const SiteRequest& request);
  [[nodiscard]] rewrite::GoStack go_stack(const Arena& arena, bool has_room) const;
  Result<void> write_go_resumes(const std::vector<Change>& changes) const;
  Result<void> put_go_moves(std::vector<go_move>* moves, uint64_t table, uint64_t count_off) const;
  [[nodiscard]] bool is_go_resuming(StoppedProcess* process) const;
  Result<std::unique_ptr<StoppedProcess>> stop_for_commit() const;
  Result<uint64_t> call_agent_alone(uint64_t fn);
  Result<void> find_rseq();
  [[nodiscard]] uint64_t mask_function(uint64_t number) const;
  static Result<std::optional<MaskSite>> mask_site(const Function& function,
                                                   const rewrite::SyscallSite& call);
  Result<void> call_agent_within(StoppedProcess* process, uint64_t fn);
  [[nodiscard]] bool is_in_the_way(const StoppedProcess& process, uint64_t fn);
  [[nodiscard]] std::vector<std::pair<uint64_t, uint64_t>> sigaction_ranges() const;
  [[nodiscard]] std::vector<std::pair<uint64_t, uint64_t>> code_ranges() const;
  Result<std::vector<uint8_t>> original_bytes(uint64_t addr, uint64_t size) const;
  Result<const rewrite::BranchIndex*> branches_of(const Region& text);
  void join_parts(Function* function);
  Result<bool> others_enter(const Region& text, uint64_t site, uint32_t bytes, uint64_t begin,
                            uint64_t end);
  Result<uint64_t> allocate(Arena* arena, uint64_t bytes, uint64_t align = 0);
  Result<void> put(uint64_t addr, const void* bytes, size_t size) const;
  Result<void> get(uint64_t addr, void* out, size_t size) const;
  Result<void> check_program() const;
  [[nodiscard]] uint64_t agent_fn(uint32_t off) const { return agent_ + off; }
  [[nodiscard]] pid_t any_thread() const;
  // A thread's shadow stack that is in use, and how many entries it has.
  struct ShadowHead {
    uint64_t addr = 0;
    uint32_t count = 0;
  };
  [[nodiscard]] std::vector<ShadowHead> shadow_heads() const;
  [[nodiscard]] std::set<uint32_t> live_return_sites() const;
  [[nodiscard]] uint64_t unwound_at(const Site& site) const;
  void retire(const Site& site, uint64_t addr, uint64_t bytes);
  void retire_hook(const Site& site, const Hook& hook);
  void retire_patch(const Site& site, const Patch& patch);
  void retire_head(const Site& site, const Patch& patch);
  void retire_body(const Site& site, uint64_t head, const Lane& lane);
  void drop_fresh(Site* site);
  Result<uint64_t> recycle(bool now = false);
  void tell(StoppedProcess* process) const;
  Result<std::vector<uint64_t>> look_inside(std::set<uint32_t>* returning, uint64_t* pause_ns);
  Result<void> is_left();
  Result<void> way_is_free();
  void free_retired(const std::vector<uint64_t>& pointers, const std::set<uint32_t>& returning,
                    std::vector<std::pair<uint64_t, uint64_t>>* unmapped);
  void free_landing(const std::pair<uint64_t, uint64_t>& range,
                    std::vector<std::pair<uint64_t, uint64_t>>* unmapped);
  void take_idle_images(const std::vector<uint64_t>& pointers,
                        std::vector<std::pair<uint64_t, uint64_t>>* unmapped);
  Result<void> unmap(const std::vector<std::pair<uint64_t, uint64_t>>& ranges);

  pid_t pid_;
  pid_t entered_by_ = 0;  // the thread through which, while it is being entered
  uint64_t start_time_ = 0;
  uint64_t main_stack_ = 0;  // see ProcStatus
  pid_t ns_pid_ = 0;
  uint32_t ns_tag_ = 0;  // see rt_env
  uint64_t enter_ns_ = 0;
  bool guard_armed_ = false;
  ScopedFd mem_;
  uint64_t syscall_insn_ = 0, clock_gettime_ = 0;  // in the vDSO
  uint64_t agent_ = 0, agent_bytes_ = 0;
  uint64_t control_ = 0;  // map_batch, then the stack for agent calls
  uint64_t shadows_ = 0;
  bool fs_points_at_itself_ = false;  // see TrampolineSpec
  uint64_t gate_ = 0;
  uint64_t go_pool_ = 0;  // the claim of the first agent stack; 0: no Go code yet
  uint64_t go_resumes_ = 0;
  int32_t go_offset_ = 0;  // of g, from the thread pointer
  std::unique_ptr<LoadWatch> load_watch_;
  UnwindTables unwind_;
  agent_header header_{};
  std::shared_ptr<MapObject> log_;
  std::vector<std::unique_ptr<Arena>> arenas_;
  std::vector<std::pair<uint64_t, uint64_t>> orphans_;      // mapped by a step that then failed
  std::vector<std::pair<uint64_t, uint64_t>> former_code_;  // of a former daemon, without a name
  std::unique_ptr<Journal> journal_;
  uint64_t journal_page_ = 0;
  Notes notes_;
  Unsaved unsaved_;
  uint32_t former_log_id_ = 0;  // until bound
  bool can_keep_ = true;
  std::vector<std::pair<uint32_t, std::shared_ptr<MapObject>>>
      adopted_;  // by former id, until bound
  std::unordered_map<uint32_t, Image> images_;
  std::unordered_map<uint32_t, uint64_t> map_addrs_;  // by map id
  std::unordered_map<uint32_t, uint64_t> map_bytes_;
  std::map<uint64_t, std::unique_ptr<Site>> sites_;  // by wanted address
  struct Held {
    const Patch* patch;
    const std::vector<uint8_t>* old_bytes;
    uint32_t reach;  // bytes that must stay as they are
  };
  std::map<uint64_t, Held> held_;  // the text that all sites took, by address
  std::vector<Region> regions_;    // as of the current operation
  struct TextIndex {
    uint64_t end = 0, inode = 0;
    std::unique_ptr<rewrite::BranchIndex> branches;
    ScopedFd file;
    bool file_sought = false;
    std::optional<unwind::Extents> extents;  // once they were asked for
  };
  std::map<uint64_t, TextIndex> text_indexes_;           // by start of the mapping
  std::vector<std::pair<uint64_t, uint64_t>> landings_;  // ranges, one per landing; may coincide
  bool no_stop_ = false;
  // Who is inside of what no code leads to any more; nothing: it must be looked for.
  std::optional<Standstill> inside_;
  Standstill in_the_way_;                // of what waits until nobody is inside
  std::vector<Piece> taken_;             // by the apply() that is under way
  std::map<uint32_t, Retired> retired_;  // by site id
  uint64_t retired_bytes_ = 0;
  uint64_t recycle_at_bytes_ = kRecycleBytes;
  uint32_t next_site_id_ = 1;
};

}  // namespace bpftime::target
