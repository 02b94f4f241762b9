// SPDX-License-Identifier: MIT
// ProgramCalls: from a frame of registers to the programs of one place, counted and now and then
// timed. What trampolines of all shapes share.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "../abi/agent.h"
#include "frame_code.h"
#include "trampoline.h"

namespace bpftime::rewrite {

constexpr uint32_t kFrame = sizeof(probe_frame);
// Where the return address is put back, in front of it the flags.
constexpr uint32_t kReturnSlot = kFrame + 8;
constexpr uint32_t kAllWords = (1u << 21) - 1;

// Hardware register numbers in the order of struct pt_regs' first fifteen words.
constexpr uint8_t kWordReg[15] = {15, 14, 13, 12, 5, 3, 11, 10, 9, 8, 0, 1, 2, 6, 7};
constexpr uint32_t kAboveReturn = kFrame + 16;  // a frame below saved flags and a return address
constexpr uint32_t kWordAx = 10, kWordCx = 11, kWordDx = 12, kWordDi = 14;
// What push_return() and pop_return() change: ax cx dx si di, and r8.
constexpr uint32_t kPopClobbers = 0x7c00, kPushClobbers = kPopClobbers | 1u << 9;
constexpr uint32_t kWordOrigAx = 15, kWordIp = 16, kWordCs = 17, kWordFlags = 18, kWordSp = 19,
                   kWordSs = 20;

constexpr uint32_t kFlatFlags = kWordOrigAx * 8;  // in a flat frame, instead of behind it

constexpr uint32_t kGoStored = 1u << kWordAx | 1u << kWordCx;  // put_go_enter stores them

class ProgramCalls : protected FrameCode {
 protected:
  explicit ProgramCalls(const TrampolineSpec& spec) : FrameCode(spec.body), spec_(spec) {}

  // An out-of-line timed call of one program.
  struct Sample {
    uint32_t jump_at;  // rel32 to bind
    uint64_t untimed;  // where the counter is counted up
    uint64_t back;     // behind the program
    uint64_t slot;
    bool wants_ctx;
    bool is_flat;
    uint64_t answered_by;  // the program whose result is the function's; 0: it is not
  };

  static uint32_t words_read(const std::vector<HookCall>& hooks) {
    uint32_t words = 0;
    for (const HookCall& hook : hooks) {
      words |= hook.escapes_ctx ? kAllWords : hook.ctx_read_mask;
    }
    return words & kAllWords;
  }
  static bool wants_ctx(const HookCall& hook) {
    return !hook.code || hook.escapes_ctx || hook.ctx_read_mask != 0;
  }
  // Registers that change while these programs run, with what the code around them uses.
  static uint32_t clobbered_by(const std::vector<HookCall>& hooks) {
    uint32_t words = 1u << kWordAx;
    for (const HookCall& hook : hooks) {
      words |= hook.clobbers & kCallClobbers;
      if (hook.counted) words |= 1u << kWordDx;
      if (wants_ctx(hook)) words |= 1u << kWordDi;
    }
    return words;
  }
  // Programs that need no stack and no context leave the stack pointer where it is.
  [[nodiscard]] bool can_be_flat(const std::vector<HookCall>& hooks) const {
    if (spec_.go) return false;
    return std::none_of(hooks.begin(), hooks.end(), [](const HookCall& hook) {
      return wants_ctx(hook) || hook.code->uses_stack;
    });
  }
  static bool any_escapes(const std::vector<HookCall>& hooks) {
    for (const HookCall& hook : hooks) {
      if (hook.escapes_ctx) return true;
    }
    return false;
  }

  // Registers into the frame at [rsp]. `sp_delta`: distance from rsp to the sp that programs see.
  void save_regs(uint32_t words, uint32_t sp_delta) {
    const uint32_t stored = spec_.go ? kGoStored : 0;
    for (uint32_t word = 0; word < 15; ++word) {
      if (((words | saved_) & ~stored) >> word & 1) store(kWordReg[word], word * 8);
    }
    if ((words >> kWordSp & 1) != 0) {
      if (spec_.go) {
        load(0, kGoSp);
        if (sp_delta == kAboveReturn) code_.put({0x48, 0x83, 0xc0, 0x08});  // add rax, 8
      } else {
        code_.put({0x48, 0x8d, 0x84, 0x24});  // lea rax, [rsp + sp_delta]
        code_.put_u32(sp_delta);
      }
      store(0, kWordSp * 8);
    }
    if ((words >> kWordOrigAx & 1) != 0) {
      store_imm32(kWordOrigAx * 8, -1);
    }
    if ((words >> kWordCs & 1) != 0) store_imm32(kWordCs * 8, 0x33);
    if ((words >> kWordSs & 1) != 0) store_imm32(kWordSs * 8, 0x2b);
  }
  void restore_regs() {
    const uint32_t last = spec_.go ? kGoStored : 0;  // put_go_leave's part
    for (uint32_t word = 0; word < 15; ++word) {
      if ((saved_ & ~last) >> word & 1) load(kWordReg[word], word * 8);
    }
  }
  void leave_go(bool keeps_flags) {
    restore_regs();
    spec_.go->is_flags_live = keeps_flags;
    put_go_leave(&code_, *spec_.go);
  }
  void enter_go(bool keeps_flags) {
    spec_.go->is_flags_live = keeps_flags;
    put_go_enter(&code_, *spec_.go);
  }
  void save_ip_and_func(uint32_t words, bool escapes) {
    if ((words >> kWordIp & 1) != 0 || escapes) {
      mov_rax_imm(spec_.func_ip);
      store(0, kWordIp * 8);
      store(0, offsetof(probe_frame, func_ip));
    }
  }

  void save_func(bool escapes) {
    if (!escapes) return;
    mov_rax_imm(spec_.func_ip);
    store(0, offsetof(probe_frame, func_ip));
  }

  // The hook_stats of this CPU are at [rdx + rax].
  void find_stats(const HookCall& hook) {
    if (spec_.has_rdpid) {
      code_.put({0xf3, 0x0f, 0xc7, 0xf8});  // rdpid rax: node << 12 | cpu
    } else {
      code_.put({0xb8, 0x7b, 0, 0, 0, 0x0f, 0x03, 0xc0});  // mov eax, 0x7b; lsl eax, eax
    }
    code_.put({0x25, 0xff, 0x0f, 0x00, 0x00});                         // and eax, 0xfff
    code_.put({0xc1, 0xe0, static_cast<int>(spec_.stats_cpu_shift)});  // shl eax, n
    code_.put({0x48, 0x8d, 0x15});                                     // lea rdx, [rip + stats]
    code_.put_rel32(hook.stats);
  }

  void call_program(const HookCall& hook) {
    if (hook.escapes_ctx) {
      mov_rax_imm(hook.cookie);
      store(0, offsetof(probe_frame, cookie));
      mov_rax_imm(hook.hook_id);
      store(0, offsetof(probe_frame, hook_id));
    }
    Sample sample{0, 0, 0, hook.entry_slot, wants_ctx(hook), is_flat_, 0};
    if (hook.answers == Answers::kAlways) sample.answered_by = hook.entry;
    if (hook.counted) {
      // True for two counts in a row: the first of all is no sample, as it runs cold, and the
      // last bit tells the others apart in emit_sample().
      find_stats(hook);
      code_.put({0xf7, 0x04, 0x02});  // test dword [rdx + rax], every - 2
      code_.put_u32(HOOK_SAMPLE_EVERY - 2);
      code_.put({0x0f, 0x84});
      sample.jump_at = code_.put_rel32_later();
      sample.untimed = code_.here();
      code_.put({0x48, 0xff, 0x04, 0x02});  // inc qword [rdx + rax]
    }
    if (sample.wants_ctx) code_.put({0x48, 0x89, 0xe7});  // mov rdi, rsp
    if (hook.code) {
      put_inline(hook);
    } else {
      call_slot(hook.entry_slot);
    }
    if (sample.answered_by != 0) keep_answer(sample, 0);
    sample.back = code_.here();
    if (hook.counted) samples_.push_back(sample);
  }

  // What a program returned is the function's result; the frame lies `above` bytes from rsp. What
  // the stub returned that a removed program's slot leads to is not: the function runs.
  void keep_answer(const Sample& sample, uint32_t above) {
    code_.put({0x48, 0xb9});  // mov rcx, program
    code_.put_u64(sample.answered_by);
    code_.put({0x48, 0x39, 0x0d});  // cmp [rip + slot], rcx
    code_.put_rel32(sample.slot);
    code_.put({0x0f, 0x85});
    const uint32_t skip = code_.put_rel32_later();
    store(0, above + kWordAx * 8);
    store_imm32(above + offsetof(probe_frame, is_answered), 1);
    code_.bind(skip, code_.here());
  }

  [[nodiscard]] bool may_answer() const {
    return std::any_of(spec_.on_entry.begin(), spec_.on_entry.end(),
                       [](const HookCall& hook) { return hook.answers != Answers::kNever; });
  }

  // The program itself, unless its slot leads elsewhere by now: it may not run once more then.
  void put_inline(const HookCall& hook) {
    code_.put({0x81, 0x3d});  // cmp dword [rip + slot], entry
    code_.put_rel32(hook.entry_slot, 4);
    code_.put_u32(static_cast<uint32_t>(hook.entry));
    code_.put({0x0f, 0x85});
    const uint32_t skip = code_.put_rel32_later();
    code_.put_bytes(hook.code->bytes.data(), hook.code->bytes.size());
    code_.bind(skip, code_.here());
  }

  // Always a call: what is measured is the program, and the call is little beside reading the
  // clock.
  void emit_sample(const Sample& sample) {
    code_.bind(sample.jump_at, code_.here());
    code_.put({0xf7, 0x04, 0x02, 0x01, 0, 0, 0, 0x0f, 0x84});  // test dword [rdx + rax], 1; jz
    code_.put_rel32(sample.untimed);
    code_.put({0x48, 0xff, 0x04, 0x02});  // inc qword [rdx + rax]
    if (sample.is_flat) move_rsp(kFlatBase);
    code_.put({0x51, 0x48, 0x01, 0xd0, 0x50});  // push rcx; rax += rdx; push
    code_.put({0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0});  // rdtsc; rax |= rdx<<32
    code_.put({0x50});                                                  // push rax
    if (sample.wants_ctx) code_.put({0x48, 0x8d, 0x7c, 0x24, 0x18});    // lea rdi, [rsp+24]
    call_slot(sample.slot);
    if (sample.answered_by != 0) keep_answer(sample, 24);
    code_.put({0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0});
    code_.put({0x5a, 0x48, 0x29, 0xd0});  // pop rdx; sub rax, rdx
    code_.put({0x5a});                    // pop rdx
    code_.put({0x48, 0x01, 0x42, 0x08});  // add [rdx+8], rax
    code_.put({0x48, 0xff, 0x42, 0x10});  // inc qword [rdx+16]
    code_.put({0x59});                    // pop rcx
    if (sample.is_flat) move_rsp(-kFlatBase);
    code_.jmp(sample.back);
  }

  void emit_samples() {
    for (const Sample& sample : samples_) emit_sample(sample);
  }

  TrampolineSpec spec_;
  std::vector<Sample> samples_;
  uint32_t saved_ = kCallClobbers;  // words of the registers that are put back afterwards
};

}  // namespace bpftime::rewrite
