// SPDX-License-Identifier: MIT
// Calls a helper that does not exist: must be refused with the instruction.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "MIT";

static long (*no_such_helper)(int) = (void*)499;

SEC("uprobe/broken")
int broken(void* ctx) { return no_such_helper(1); }
