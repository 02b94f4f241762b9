// SPDX-License-Identifier: MIT
// Every way in which a section may name its place; TARGET is the path of the program in shapes.c.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>

#ifndef TARGET /* the test says which program it has built */
#define TARGET "/proc/self/exe"
#endif

char LICENSE[] SEC("license") = "MIT";

SEC("uprobe/" TARGET ":work")
int by_path(struct pt_regs* ctx) { return 0; }

SEC("uretprobe/" TARGET ":work")
int by_path_return(struct pt_regs* ctx) { return 0; }

SEC("uprobe/shapes:after_tiny")
int by_module(struct pt_regs* ctx) { return 0; }

SEC("uprobe//proc/self/exe:steps+0x4")
int by_offset(struct pt_regs* ctx) { return 0; }

SEC("kprobe/twin_elsewhere")
int by_name(struct pt_regs* ctx) { return 0; }

SEC("uretprobe/libc.so.6:usleep")
int in_library(struct pt_regs* ctx) { return 0; }
