// SPDX-License-Identifier: MIT
// Programs for a library that is loaded later, and one for the executable.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#ifndef LIBRARY /* the test says which library it has built */
#define LIBRARY "/tmp/libplugin.so"
#endif

SEC("uprobe/libplugin.so:plugin_work")
int by_name(void *ctx) { return 0; }

SEC("uretprobe/" LIBRARY ":plugin_work")
int by_path(void *ctx) { return 0; }

SEC("uprobe/call")
int at_once(void *ctx) { return 0; }

char LICENSE[] SEC("license") = "MIT";
