// SPDX-License-Identifier: MIT
#include "trampoline.h"

#include <algorithm>
#include <cstddef>

#include "../abi/agent.h"
#include "program_calls.h"

namespace bpftime::rewrite {

namespace {

static_assert(offsetof(shadow_stack, depth) == 8 && offsetof(shadow_stack, sweep_at) == 16 &&
                  offsetof(shadow_stack, entries) == 64 && sizeof(shadow_entry) == 32 &&
                  offsetof(shadow_entry, return_addr) == 8 &&
                  offsetof(shadow_entry, site_id) == 16 &&
                  offsetof(shadow_entry, return_point) == 24 && SHADOW_THREADS == 1u << 12,
              "push_return and pop_return have these in their instructions");

class Builder : ProgramCalls {
 public:
  explicit Builder(const TrampolineSpec& spec) : ProgramCalls(spec) {}

  Result<Trampoline> build_filter(const FilterSpec& filter) {
    enter_inside();
    save_regs(0, 0);
    code_.put({0x48, 0x89, 0xe7});  // mov rdi, rsp
    call_slot(filter.filter_slot);
    code_.put({0x85, 0xc0, 0x0f, 0x84});  // test eax, eax; jz: to the kernel
    const uint32_t to_kernel = code_.put_rel32_later();
    leave_inside();
    code_.jmp(filter.behind);
    code_.bind(to_kernel, code_.here());
    leave_inside();
    code_.jmp(filter.copy);
    return finish();
  }

  Result<Trampoline> build_exit(const ExitSpec& exit) {
    if (!spec_.on_entry.empty()) call_on_entry();
    Result<std::vector<uint8_t>> prefix = exit.prefix(code_.here());
    if (!prefix) return prefix.error();
    code_.put_bytes(prefix.value().data(), prefix.value().size());
    call_on_exit();
    code_.put_bytes(exit.ret.data(), exit.ret.size());
    return finish();
  }

  Result<Trampoline> build() {
    if (spec_.prefix) {
      Result<std::vector<uint8_t>> prefix = spec_.prefix(code_.here());
      if (!prefix) return prefix.error();
      code_.put_bytes(prefix.value().data(), prefix.value().size());
    }
    entry_half();
    return finish();
  }

 private:
  Result<Trampoline> finish() {
    if (answered_at_ != 0) emit_answer();
    emit_samples();
    if (fail_ != nullptr) return fail(EOPNOTSUPP, fail_);
    if (!code_.ok()) return fail(EOPNOTSUPP, "the trampoline is out of reach of its parts");
    Trampoline out;
    out.code = std::move(code_.bytes());
    out.return_point = return_point_;
    return out;
  }

  // Behind the programs on entry: is there still a call to be made?
  void leave_if_answered() {
    if (!may_answer()) return;
    code_.put({0x83, 0xbc, 0x24});  // cmp dword [rsp + is_answered], 0
    code_.put_u32(offsetof(probe_frame, is_answered));
    code_.put({0x00, 0x0f, 0x85});
    answered_at_ = code_.put_rel32_later();
    answered_saved_ = saved_;
  }

  // The way back to the caller, past the function and through the programs of its return.
  void emit_answer() {
    code_.bind(answered_at_, code_.here());
    saved_ = answered_saved_;
    restore_regs();
    move_rsp(static_cast<int32_t>(kFrame));
    spec_.on_return = spec_.on_answer;
    call_on_exit();
    code_.put({0xc3});
  }

  // Inside a function the red zone and the flags are live.
  void enter_inside() {
    if (spec_.go) return enter_go(true);
    move_rsp(-static_cast<int32_t>(kRedZone));
    code_.put({0x9c, 0xfc});  // pushfq; cld
    move_rsp(-static_cast<int32_t>(kFrame));
  }
  void leave_inside() {
    if (spec_.go) return leave_go(true);
    restore_regs();
    move_rsp(static_cast<int32_t>(kFrame));
    code_.put({0x9d});  // popfq
    move_rsp(static_cast<int32_t>(kRedZone));
  }

  // On through the displaced instructions to where the function goes on.
  void go_on() {
    if (!spec_.tail) return code_.jmp(spec_.copy);
    const Result<std::vector<uint8_t>> tail = spec_.tail(code_.here());
    if (!tail) {
      fail_ = tail.error().reason;
      return;
    }
    code_.put_bytes(tail.value().data(), tail.value().size());
  }

  // The programs on entry, up to and without the way on; leaves the frame in place.
  void run_on_entry(bool mid) {
    const uint32_t words = words_read(spec_.on_entry);
    if (mid) {
      enter_inside();
    } else if (spec_.go) {
      enter_go(keeps_go_flags());
    } else if (!is_flat_) {
      move_rsp(-static_cast<int32_t>(kFrame));
    }
    save_regs(words, kFrame + (mid ? kRedZone + 8 : 0));
    if ((words >> kWordFlags & 1) != 0) {
      if (spec_.go) {
        put_go_flags();
      } else if (mid) {
        load(0, kFrame);  // what pushfq left
      } else {
        code_.put({0x9c, 0x58});  // pushfq; pop rax
      }
      store(0, kWordFlags * 8);
    }
    save_ip_and_func(words, any_escapes(spec_.on_entry));
    if (may_answer() && (mid || spec_.go)) fail_ = "only a whole function of C's can be replaced";
    if (may_answer()) store_imm32(offsetof(probe_frame, is_answered), 0);
    for (const HookCall& hook : spec_.on_entry) call_program(hook);
    leave_if_answered();
  }

  void call_on_entry() {
    saved_ = clobbered_by(spec_.on_entry);
    is_flat_ = can_be_flat(spec_.on_entry);
    run_on_entry(false);
    if (spec_.go) return leave_go(keeps_go_flags());
    restore_regs();
    if (!is_flat_) move_rsp(static_cast<int32_t>(kFrame));
    is_flat_ = false;
  }

  // Flags are dead behind a stack check. Elsewhere they may not be: the runtime makes goroutines
  // call runtime.asyncPreempt wherever they are.
  [[nodiscard]] bool keeps_go_flags() const { return !spec_.go->has_room; }

  // rax = the flags as programs see them. The five that lahf does not give are as always.
  void put_go_flags() {
    if (!spec_.go->is_flags_live) {
      code_.put({0xb8, 0x02, 0x02, 0x00, 0x00});  // mov eax, 0x202
      return;
    }
    load(0, kGoFlags);
    code_.put({0x0f, 0xb6, 0xc8, 0xc1, 0xe1, 0x0b});  // movzx ecx, al; shl ecx, 11
    code_.put({0x0f, 0xb6, 0xc4, 0x09, 0xc8});        // movzx eax, ah; or eax, ecx
    code_.put({0x0d, 0x02, 0x02, 0x00, 0x00});        // or eax, 0x202
  }

  void entry_half() {
    const bool mid = !spec_.at_entry;
    if (!mid && spec_.on_return.empty()) {
      call_on_entry();
      go_on();
      return;
    }
    if (!mid && spec_.go) {
      fail_ = "returns of Go code are caught where its `ret`s stand, or not at all";
      return;
    }
    saved_ = clobbered_by(spec_.on_entry) | (mid ? 0 : kPushClobbers);
    saved_on_entry_ = saved_;
    run_on_entry(mid);
    if (mid) {
      leave_inside();
      go_on();
      return;
    }
    hijack();
  }

  // Where control leaves the straight line, to be bound to one place.
  using Leaves = std::vector<uint32_t>;
  void leave_if(uint8_t condition, Leaves* leaves) {
    code_.put({0x0f, 0x80 | condition});
    leaves->push_back(code_.put_rel32_later());
  }
  void bind_all(const Leaves& leaves) {
    for (const uint32_t at : leaves) code_.bind(at, code_.here());
  }
  static constexpr uint8_t kBelow = 2, kAboveEqual = 3, kZero = 4, kNotZero = 5;

  // rcx = this thread's shadow stack, where shadow_of() of the agent finds it at the first look.
  void find_shadow(Leaves* slow) {
    if (spec_.fs_points_at_itself) {
      // What rdfsbase yields comes 25 cycles later (Zen 5): 14 ns a call, this 0.
      code_.put({0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0});  // mov rax, fs:0
    } else {
      code_.put({0xf3, 0x48, 0x0f, 0xae, 0xc0});  // rdfsbase rax
    }
    code_.put({0x48, 0x85, 0xc0});  // test rax, rax
    leave_if(kZero, slow);
    code_.put({0x48, 0x89, 0xc1, 0x48, 0xc1, 0xe9, 0x06});  // mov rcx, rax; shr rcx, 6
    code_.put({0x48, 0xba});                                // mov rdx, SHADOW_HASH
    code_.put_u64(SHADOW_HASH);
    code_.put({0x48, 0x0f, 0xaf, 0xca, 0x48, 0xc1, 0xe9, 0x34});  // imul rcx, rdx; shr rcx, 52
    code_.put({0x48, 0x69, 0xc9});                                // imul rcx, rcx, bytes of one
    code_.put_u32(sizeof(shadow_stack));
    code_.put({0x48, 0xba});  // mov rdx, table
    code_.put_u64(spec_.shadows);
    code_.put({0x48, 0x01, 0xd1, 0x48, 0x39, 0x01});  // add rcx, rdx; cmp [rcx], rax
    leave_if(kNotZero, slow);
  }
  // agent_push_return() for the usual case, in the same order of stores: see there why.
  void push_return(Leaves* slow) {
    find_shadow(slow);
    code_.put({0x48, 0x8b, 0x51, 0x08, 0x48, 0x3b, 0x51, 0x10});  // mov rdx, depth; cmp sweep_at
    leave_if(kAboveEqual, slow);
    code_.put({0x4c, 0x8d, 0x42, 0x01});                          // lea r8, [rdx + 1]
    code_.put({0x48, 0xc1, 0xe2, 0x05});                          // shl rdx, 5
    code_.put({0x48, 0x8d, 0x54, 0x11, 0x40});                    // lea rdx, [rcx + rdx + 64]
    code_.put({0x48, 0xc7, 0x02, 0xfe, 0xff, 0xff, 0xff});        // entry.slot = reserved
    code_.put({0x4c, 0x89, 0x41, 0x08});                          // depth = r8
    load(6, kFrame);                                              // rsi: the caller's
    code_.put({0x48, 0x89, 0x72, 0x08, 0x48, 0xc7, 0x42, 0x10});  // return_addr = rsi; site_id =
    code_.put_u32(spec_.site_id);
    code_.put({0x48, 0x8d, 0x3d});  // lea rdi, [rip + return point]
    points_.push_back(code_.put_rel32_later());
    code_.put({0x48, 0x89, 0x7a, 0x18});  // return_point = rdi
    store(7, kFrame);
    lea_slot(0x84, kFrame);         // rax
    code_.put({0x48, 0x89, 0x02});  // entry.slot = rax
  }

  // agent_pop_return() for the usual case, that the newest entry is ours: rax = the caller's.
  void pop_return(Leaves* slow) {
    find_shadow(slow);
    code_.put({0x48, 0x8b, 0x51, 0x08, 0x48, 0x83, 0xea, 0x01});  // mov rdx, depth; sub rdx, 1
    leave_if(kBelow, slow);
    code_.put({0x48, 0x89, 0xd6, 0x48, 0xc1, 0xe6, 0x05});  // mov rsi, rdx; shl rsi, 5
    code_.put({0x48, 0x8d, 0x74, 0x31, 0x40});              // lea rsi, [rcx + rsi + 64]
    lea_slot(0xbc, kReturnSlot);                            // rdi
    code_.put({0x48, 0x39, 0x3e});                          // cmp entry.slot, rdi
    leave_if(kNotZero, slow);
    code_.put({0x81, 0x7e, 0x10});  // cmp entry.site_id, ours
    code_.put_u32(spec_.site_id);
    leave_if(kNotZero, slow);
    code_.put({0x48, 0x8b, 0x46, 0x08});                    // mov rax, entry.return_addr
    code_.put({0x48, 0xc7, 0x06, 0xff, 0xff, 0xff, 0xff});  // entry.slot = free
    code_.put({0x48, 0x89, 0x51, 0x08});                    // depth = rdx
  }

  // A call into the agent, out of the straight line, of what the code there was spared to save.
  void call_agent(uint64_t slot) {
    for (uint32_t word = 0; word < 15; ++word) {
      if ((kCallClobbers & ~saved_) >> word & 1) store(kWordReg[word], word * 8);
    }
    call_slot(slot);
    for (uint32_t word = 0; word < 15; ++word) {
      if ((kCallClobbers & ~saved_) >> word & 1) load(kWordReg[word], word * 8);
    }
  }

  // Keeps the return address aside and calls the copy so that its return comes back to us. The
  // pushed address lands in the very slot of the old one: stack arguments stay where they are.
  void hijack() {
    Leaves slow;
    push_return(&slow);
    const uint64_t followed = code_.here();
    restore_regs();
    move_rsp(static_cast<int32_t>(kFrame + 8));
    code_.put({0xe8});  // call copy
    code_.put_rel32(spec_.copy);
    return_point_ = code_.off();
    const uint64_t point = code_.here();
    return_half();
    bind_all(slow);
    lea_slot(0xbc, kFrame);  // rdi: the slot
    code_.put({0xbe});       // mov esi, site_id
    code_.put_u32(spec_.site_id);
    code_.put({0x48, 0x8d, 0x15});  // lea rdx, [rip + return point]
    points_.push_back(code_.put_rel32_later());
    saved_ = saved_on_entry_;
    call_agent(spec_.push_return_slot);
    code_.put({0x85, 0xc0, 0x0f, 0x85});  // test eax, eax; jnz
    code_.put_rel32(followed);
    for (const HookCall& hook : spec_.on_return) {
      if (!hook.counted) continue;
      find_stats(hook);
      code_.put({0x48, 0xff, 0x44, 0x02, offsetof(hook_stats, missed)});  // inc [rdx + rax + ..]
    }
    restore_regs();
    move_rsp(static_cast<int32_t>(kFrame));
    code_.jmp(spec_.copy);
    for (const uint32_t at : points_) code_.bind(at, point);
  }

  // The flags into the word behind the frame, and back. Hand-written code returns results in them.
  // lahf and seto cost nothing measurable, where popfq costs 2 ns.
  void save_flags() {
    code_.put({0x9f, 0x0f, 0x90, 0xc0});  // lahf; seto al
    store(0, is_flat_ ? kFlatFlags : kFrame);
  }
  void restore_flags() {
    load(0, is_flat_ ? kFlatFlags : kFrame);
    code_.put({0x04, 0x7f, 0x9e});  // add al, 127: overflows as seto said; sahf
  }

  // In front of a `ret`: [rsp] is the return address.
  void call_on_exit() {
    if (spec_.on_return.empty()) return;
    const uint32_t words = words_read(spec_.on_return);
    saved_ = clobbered_by(spec_.on_return);
    is_flat_ = can_be_flat(spec_.on_return);
    if (spec_.go) {
      enter_go(true);
      save_regs(words, kAboveReturn);
    } else {
      if (!is_flat_) move_rsp(-static_cast<int32_t>(kFrame + 8));
      save_regs(words, kAboveReturn);
      save_flags();
    }
    if ((words >> kWordIp & 1) != 0) {
      load(0, spec_.go ? kGoSp : kFrame + 8);
      if (spec_.go) code_.put({0x48, 0x8b, 0x00});  // mov rax, [rax]
      store(0, kWordIp * 8);
    }
    if ((words >> kWordFlags & 1) != 0) store_imm32(kWordFlags * 8, 0x202);
    save_func(any_escapes(spec_.on_return));
    for (const HookCall& hook : spec_.on_return) call_program(hook);
    if (spec_.go) return leave_go(true);
    restore_flags();
    restore_regs();
    if (!is_flat_) move_rsp(static_cast<int32_t>(kFrame + 8));
    is_flat_ = false;
  }

  void return_half() {
    const uint32_t words = words_read(spec_.on_return);
    saved_ = clobbered_by(spec_.on_return) | kPopClobbers;
    move_rsp(-static_cast<int32_t>(kReturnSlot + 8));
    save_regs(words, kReturnSlot + 8);
    save_flags();
    Leaves slow;
    pop_return(&slow);
    const uint64_t popped = code_.here();
    store(0, kReturnSlot);
    if ((words >> kWordIp & 1) != 0) store(0, kWordIp * 8);
    if ((words >> kWordFlags & 1) != 0) store_imm32(kWordFlags * 8, 0x202);
    save_func(any_escapes(spec_.on_return));
    for (const HookCall& hook : spec_.on_return) call_program(hook);
    restore_flags();
    restore_regs();
    move_rsp(static_cast<int32_t>(kReturnSlot));
    code_.put({0xc3});
    bind_all(slow);
    lea_slot(0xbc, kReturnSlot);  // rdi: the slot
    code_.put({0xbe});            // mov esi, site_id
    code_.put_u32(spec_.site_id);
    call_agent(spec_.pop_return_slot);
    code_.jmp(popped);
  }

  uint32_t saved_on_entry_ = 0;
  const char* fail_ = nullptr;
  uint32_t answered_at_ = 0;  // rel32 of the jump that is taken when a program answered; 0: none
  uint32_t answered_saved_ = 0;
  uint32_t return_point_ = 0;
  std::vector<uint32_t> points_;  // rel32 fields that lead to the return point
};

}  // namespace

Result<Trampoline> build_trampoline(const TrampolineSpec& spec) { return Builder(spec).build(); }

Result<Trampoline> build_exit(const TrampolineSpec& spec, const ExitSpec& exit) {
  return Builder(spec).build_exit(exit);
}

Result<Trampoline> build_filter(const FilterSpec& spec) {
  TrampolineSpec place;
  place.body = spec.body;
  place.go = spec.go;
  return Builder(place).build_filter(spec);
}

}  // namespace bpftime::rewrite
