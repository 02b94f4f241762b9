// SPDX-License-Identifier: MIT
// The bpf(2) of this process. syscall.cc also exports `syscall`, to which libbpf is bound.
#pragma once

#include <cstdint>

namespace bpftime {

/// bpf(2) in user space: a descriptor or 0, or a negative errno. Never reaches the kernel's.
long bpf_command(uint32_t cmd, void* attr, uint32_t size);

/// Whether libbpf really calls us; asks it to make a call and watches for it.
bool libbpf_is_ours();

}  // namespace bpftime
