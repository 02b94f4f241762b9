// SPDX-License-Identifier: MIT
// As programs for ubpf are: the main one first in .text, functions of the host by name, another
// section called; for vm_ubpf_test.
extern unsigned long long triple(unsigned long long value);

static __attribute__((noinline)) unsigned long long local(unsigned long long value) {
  return value ^ 1;
}
unsigned long long far_away(unsigned long long value);

unsigned long long entry(unsigned long long* mem, unsigned long long mem_len) {
  return triple(mem[0]) + far_away(mem_len) + local(mem[1]);
}

__attribute__((section("elsewhere"), noinline)) unsigned long long far_away(
    unsigned long long value) {
  return triple(value) + 1000;
}
