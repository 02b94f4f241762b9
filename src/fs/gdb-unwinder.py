# SPDX-License-Identifier: MIT
# For gdb: source MOUNT/procs/PID/gdb.py, which is this file behind a line of numbers (gdb-script.ts).
# A return probe that replaces return addresses ("exit_form balanced" in hooks/by-id/ID/info) is
# shown as one frame <return probe>, and the callers behind it as they are.
import struct

import gdb
from gdb.FrameDecorator import FrameDecorator
from gdb.unwinder import Unwinder, register_unwinder

WORD = (1 << 64) - 1
KEPT = ("rbx", "rbp", "r12", "r13", "r14", "r15")
NAME = "<return probe>"
points = set()  # return points that were met


def words(addr, count):
    memory = gdb.selected_inferior().read_memory(addr, 8 * count)
    return struct.unpack("<%dQ" % count, bytes(memory))


def stacks(fs_base):
    """Addresses of the shadow stacks in use, that of the thread with this fs base first."""
    (base,) = words(SHADOWS_POINTER, 1)
    if base == 0:
        return
    key = fs_base or 1
    index = (((key >> 6) * HASH) & WORD) >> 52
    for probe in range(64):
        at = base + ((index + probe) & (THREADS - 1)) * STACK_BYTES
        (owner,) = words(at, 1)
        if owner == key:
            yield at
        if owner in (key, 0):
            break
    for other in range(THREADS):  # a coroutine may have begun on another thread
        at = base + other * STACK_BYTES
        (owner,) = words(at, 1)
        if owner not in (key, 0):
            yield at


def kept_in(stack, slot, point):
    """What a shadow stack keeps for a stack slot that holds `point`, else None."""
    (depth,) = words(stack + 8, 1)
    for i in reversed(range(min(depth, DEPTH))):
        at = stack + ENTRIES_AT + i * ENTRY_BYTES
        where, caller, _site, there = words(at, 4)
        if where == slot and there == point:
            return caller
    return None


def caller_of(point, slot, fs_base):
    """The caller's address behind a return point; functions that left by jumps may share a slot."""
    found = None
    for stack in stacks(fs_base):
        for _ in range(DEPTH):
            kept = kept_in(stack, slot, point)
            if kept is None:
                break
            found = point = kept
        if found is not None:
            return found
    return None


def is_code_of_nobody(addr):
    return gdb.block_for_pc(addr) is None and gdb.solib_name(addr) is None


class FrameId:
    def __init__(self, sp, pc):
        self.sp, self.pc = sp, pc


class ReturnProbes(Unwinder):
    def __init__(self):
        super().__init__("bpftimefs")

    def __call__(self, pending):
        try:
            pc = int(pending.read_register("rip")) & WORD
            if not is_code_of_nobody(pc):
                return None
            sp = pending.read_register("rsp")
            top = int(sp) & WORD
            fs_base = int(pending.read_register("fs_base")) & WORD
            caller = caller_of(pc, top - 8, fs_base)
        except (gdb.error, ValueError):
            return None
        if caller is None:
            return None
        points.add(pc)
        rip = pending.read_register("rip")
        info = pending.create_unwind_info(FrameId(sp, rip))
        info.add_saved_register("rip", gdb.Value(caller).cast(rip.type))
        info.add_saved_register("rsp", sp)
        for name in KEPT:
            info.add_saved_register(name, pending.read_register(name))
        return info


class Named(FrameDecorator):
    def function(self):
        frame = self.inferior_frame()
        return NAME if frame.pc() in points else super().function()


class Names:
    def __init__(self):
        self.name, self.priority, self.enabled = "bpftimefs", 100, True
        gdb.frame_filters[self.name] = self

    def filter(self, frames):
        return map(Named, frames)


register_unwinder(None, ReturnProbes(), replace=True)
Names()
gdb.invalidate_cached_frames()
