// SPDX-License-Identifier: MIT
#include "go_stack.h"

#include <cstddef>

namespace bpftime::rewrite {

namespace {

constexpr uint32_t kAx = offsetof(probe_frame, regs.ax);
constexpr uint32_t kCx = offsetof(probe_frame, regs.cx);
static_assert(kGoFrameBytes % 16 == 0, "calls want an aligned stack");

// Displacements from rcx, which is the end of the frame.
constexpr int back(uint32_t off) { return static_cast<int>(off) - static_cast<int>(kGoFrameBytes); }

void put_disp32(CodeBuffer* code, int value) { code->put_u32(static_cast<uint32_t>(value)); }

// ax, cx and the flags to where they survive.
void put_aside(CodeBuffer* code, const GoStack& go) {
  if (go.has_room) {
    code->put({0x48, 0x89, 0x44, 0x24, 0xf8});  // mov [rsp-8], rax
    code->put({0x48, 0x89, 0x4c, 0x24, 0xf0});  // mov [rsp-16], rcx
  } else {
    code->put({0x48, 0x0f, 0x6e, 0xc0});  // movq mm0, rax
    code->put({0x48, 0x0f, 0x6e, 0xc9});  // movq mm1, rcx
  }
  if (!go.is_flags_live) return;
  code->put({0x9f, 0x0f, 0x90, 0xc0});  // lahf; seto al
  if (go.has_room) {
    code->put({0x48, 0x89, 0x44, 0x24, 0xe8});  // mov [rsp-24], rax
  } else {
    code->put({0x48, 0x0f, 0x6e, 0xd0});  // movq mm2, rax
  }
}

// rcx = the end of a frame's place: here, or the claim of an agent stack.
void find_stack(CodeBuffer* code, const GoStack& go) {
  code->put({0x64, 0x48, 0x8b, 0x04, 0x25});  // mov rax, fs:[g]
  put_disp32(code, go.g_offset);
  code->put({0x48, 0x85, 0xc0, 0x74});  // test rax, rax; jz: no goroutine, no small stack
  const uint32_t no_g = code->off();
  code->put({0});
  code->put({0x48, 0x89, 0xe1, 0x48, 0x2b, 0x08});  // mov rcx, rsp; sub rcx, [rax]: g.stack.lo
  code->put({0x48, 0x81, 0xf9});                    // cmp rcx, room
  code->put_u32(kGoRoomBytes);
  code->put({0x72});  // jb: on g's stack and close to its end
  const uint32_t close = code->off();
  code->put({0});
  code->bytes()[no_g] = static_cast<uint8_t>(code->off() - no_g - 1);
  code->put({0x48, 0x8d, 0x4c, 0x24, 0xe0});  // lea rcx, [rsp-32]: below what was put aside
  code->put({0x48, 0x83, 0xe1, 0xf0});        // and rcx, -16
  code->put({0xeb});
  const uint32_t stay = code->off();
  code->put({0});
  code->bytes()[close] = static_cast<uint8_t>(code->off() - close - 1);
  if (go.has_rdpid) {
    code->put({0xf3, 0x0f, 0xc7, 0xf8});  // rdpid rax: node << 12 | cpu
  } else {
    code->put({0xb8, 0x7b, 0, 0, 0, 0x0f, 0x03, 0xc0});  // mov eax, 0x7b; lsl eax, eax
  }
  const uint32_t again = code->off();
  code->put({0x25});  // and eax, count - 1
  code->put_u32(kGoStackCount - 1);
  code->put({0x89, 0xc1, 0x48, 0xc1, 0xe1, static_cast<int>(kGoStackShift)});  // rcx = rax << n
  code->put({0x48, 0x03, 0x0d});  // add rcx, [rip+slot]
  code->put_rel32(go.pool_slot);
  code->put({0xf0, 0x0f, 0xba, 0x29, 0x00});  // lock bts dword [rcx], 0
  code->put({0x73, 0x06});                    // jnc: ours
  code->put({0xf3, 0x90, 0xff, 0xc0, 0xeb});  // pause; inc eax; jmp: the next
  code->put({static_cast<int>(again) - static_cast<int>(code->off()) - 1});
  code->bytes()[stay] = static_cast<uint8_t>(code->off() - stay - 1);
}

}  // namespace

void put_go_enter(CodeBuffer* code, const GoStack& go) {
  put_aside(code, go);
  find_stack(code, go);
  code->put({0x48, 0x89, 0x61, back(kGoSp)});  // mov [rcx+sp], rsp
  if (go.has_room) {
    code->put({0x48, 0x8b, 0x44, 0x24, 0xf8, 0x48, 0x89, 0x81});  // mov rax, [rsp-8]; mov [rcx+ax]
    put_disp32(code, back(kAx));
    code->put({0x48, 0x8b, 0x44, 0x24, 0xf0, 0x48, 0x89, 0x81});
    put_disp32(code, back(kCx));
    if (go.is_flags_live) {
      code->put({0x48, 0x8b, 0x44, 0x24, 0xe8, 0x48, 0x89, 0x41, back(kGoFlags)});
    }
  } else {
    code->put({0x0f, 0x7f, 0x81});  // movq [rcx+ax], mm0
    put_disp32(code, back(kAx));
    code->put({0x0f, 0x7f, 0x89});
    put_disp32(code, back(kCx));
    if (go.is_flags_live) code->put({0x0f, 0x7f, 0x51, back(kGoFlags)});
    code->put({0x0f, 0x77});  // emms
  }
  code->put({0x48, 0x8d, 0xa1});  // lea rsp, [rcx-frame]
  put_disp32(code, -static_cast<int>(kGoFrameBytes));
  code->put({0xfc});  // cld
}

void put_go_leave(CodeBuffer* code, const GoStack& go) {
  if (go.is_flags_live) {
    code->put({0x48, 0x8b, 0x84, 0x24});  // mov rax, [rsp+flags]
    code->put_u32(kGoFlags);
    code->put({0x04, 0x7f, 0x9e});  // add al, 127: overflows as seto said; sahf
  }
  code->put({0x48, 0x8b, 0x8c, 0x24});  // mov rcx, [rsp+sp]
  code->put_u32(kGoSp);
  if (go.has_room) {
    code->put({0x48, 0x8b, 0x44, 0x24, static_cast<int>(kAx), 0x48, 0x89, 0x41, 0xf8});
    code->put({0x48, 0x8b, 0x44, 0x24, static_cast<int>(kCx), 0x48, 0x89, 0x41, 0xf0});
  } else {
    code->put({0x0f, 0x6f, 0x44, 0x24, static_cast<int>(kAx)});  // movq mm0, [rsp+ax]
    code->put({0x0f, 0x6f, 0x4c, 0x24, static_cast<int>(kCx)});
  }
  code->put({0x48, 0x8d, 0x84, 0x24});  // lea rax, [rsp+frame]: the claim, or a dead byte
  code->put_u32(kGoFrameBytes);
  code->put({0x48, 0x89, 0xcc, 0xc6, 0x00, 0x00});  // mov rsp, rcx; mov byte [rax], 0
  if (go.has_room) {
    code->put({0x48, 0x8b, 0x44, 0x24, 0xf8, 0x48, 0x8b, 0x4c, 0x24, 0xf0});
  } else {
    code->put({0x48, 0x0f, 0x7e, 0xc0, 0x48, 0x0f, 0x7e, 0xc9, 0x0f, 0x77});  // from mm0, mm1; emms
  }
}

}  // namespace bpftime::rewrite
