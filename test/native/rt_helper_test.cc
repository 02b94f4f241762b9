// SPDX-License-Identifier: MIT
// Helpers: return values, guarded reads in both modes, printf subset, identity, stacks.
#include <linux/bpf.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <string>
#include <thread>

#include "abi/frame.h"
#include "rt_storage.h"
#include "tap.h"
#include "vm/rt/guard.h"
#include "vm/rt/helpers.h"
#include "vm/rt/ring.h"

using tap::equal;
using tap::ok;

template <typename... Args>
static long call(u32 id, Args... args) {
  auto* fn = reinterpret_cast<rt_helper_fn*>(const_cast<void*>(rt_helper(id)));
  u64 r[5] = {(u64)args...};
  return static_cast<long>(fn(r[0], r[1], r[2], r[3], r[4]));
}

static void on_fault(int, siginfo_t*, void* context) {
  auto* uc = static_cast<ucontext_t*>(context);
  auto ip = static_cast<u64>(uc->uc_mcontext.gregs[REG_RIP]);
  if (ip < (u64)rt_guard_begin || ip >= (u64)rt_guard_end) _exit(99);
  uc->uc_mcontext.gregs[REG_RIP] = (greg_t)rt_guard_fixup;
}

static void test_reads(const char* mode) {
  std::printf("# %s\n", mode);
  // Two pages, the second of which cannot be read.
  auto* page = static_cast<char*>(
      mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  mprotect(page + 4096, 4096, PROT_NONE);
  char out[600];
  memset(page, 'a', 4096);
  equal(call(112, out, 16, page + 4080), 0, "read up to the end of a page");
  memset(out, 'x', sizeof(out));
  equal(call(112, out, 16, page + 4081), -EFAULT, "read across the end");
  ok(std::all_of(out, out + 16, [](char c) { return c == 0; }), "zeroes the destination");
  equal(out[16], 'x', "and nothing else");
  equal(call(112, out, 8, nullptr), -EFAULT, "null");
  equal(call(112, out, 8, 0xffffffff81000000ull), -EFAULT, "a kernel address");
  equal(call(112, out, 8, 0x8000000000000ull), -EFAULT, "a non-canonical address");
  equal(call(112, out, 0, nullptr), 0, "zero bytes");
  equal(call(112, out, 512, page), 0, "512 bytes");
  equal(call(112, out, 512, page + 4000), -EFAULT, "512 bytes across the end");
  page[4095] = 0;
  equal(call(114, out, 600, page + 4090), 6, "a string that ends with its page");
  memset(out, 0x5a, 600);
  call(114, out, 600, page + 4090);
  ok(out[6] == 0x5a && out[599] == 0x5a, "what follows the NUL stays as it was");
  ok(strcmp(out, "aaaaa") == 0, "is read");
  equal(call(114, out, 4, page + 4090), 4, "a longer string is truncated");
  ok(strcmp(out, "aaa") == 0, "and terminated");
  page[4095] = 'a';
  equal(call(114, out, 600, page + 4090), -EFAULT, "an unterminated string");
  equal(call(114, out, 0, page), 0, "no room");
  equal(call(114, out, 600, page), 600, "a long string fills the buffer");
  equal(out[599], 0, "and is terminated");
  equal(call(36, page, "hi", 2), 0, "probe_write_user");
  equal(page[1], 'i', "writes");
  equal(call(36, page + 4096, "hi", 2), -EFAULT, "but not where the page is protected");
  munmap(page, 8192);
  equal(call(112, out, 8, page), -EFAULT, "unmapped");
}

// Every length, up to the last readable byte and one beyond: exact, and nothing else is touched.
static void test_lengths() {
  auto* page = static_cast<char*>(
      mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  mprotect(page + 4096, 4096, PROT_NONE);
  for (int i = 0; i < 4096; i++) page[i] = static_cast<char>(i * 7 + i / 251);
  int wrong = 0;
  for (u32 len = 0; len <= 300; len++) {
    for (u32 beyond = 0; beyond <= (len != 0 ? 1u : 0u); beyond++) {
      char out[320];
      memset(out, 0x5a, sizeof(out));
      const char* from = page + 4096 - len + beyond;
      wrong += call(112, out + 8, len, from) != (beyond != 0 ? -EFAULT : 0);
      const char zeros[300] = {};
      wrong += memcmp(out + 8, beyond != 0 ? zeros : from, len) != 0;
      wrong += std::count(out, out + 8, 0x5a) != 8 || out[8 + len] != 0x5a;
    }
  }
  equal(wrong, 0, "reads of 0 to 300 bytes at the end of a page");
  munmap(page, 8192);
}

static long print(char* out, u32 size, const char* format, u64 a = 0, u64 b = 0, u64 c = 0) {
  u64 args[3] = {a, b, c};
  return call(165, out, size, format, args, sizeof(args));
}

static void expect(const char* want, const char* format, u64 a = 0, u64 b = 0, u64 c = 0) {
  char out[200];
  long len = print(out, sizeof(out), format, a, b, c);
  std::string name = std::string(format) + " → " + want;
  if (!ok(len == static_cast<long>(strlen(want)) + 1 && strcmp(out, want) == 0, name.c_str())) {
    std::printf("# got %ld '%s'\n", len, len > 0 ? out : "");
  }
}

static void test_format() {
  expect("-5 4294967291 fffffffb", "%d %u %x", -5, -5, -5);
  expect("-5 18446744073709551611 FFFFFFFB", "%lld %llu %X", -5, -5, 0xfffffffb);
  expect("[   42] [42   ] [00042]", "[%5d] [%-5d] [%05d]", 42, 42, 42);
  expect("[-0042] [+7] [ 7]", "[%05d] [%+d] [% d]", -42, 7, 7);
  expect("0x1f 100% c", "%#x 100%% %c", 31, 'c');
  expect("0000000000001000 1000", "%p %px", 4096, 4096);
  expect("hello [  abc] [abc  ]", "%s [%5s] [%-5s]", (u64) "hello", (u64) "abc", (u64) "abc");
  expect("null: ", "null: %s", 0);
  u8 ip[4] = {10, 0, 0, 7};
  expect("10.0.0.7 010.000.000.007", "%pI4 %pi4", (u64)ip, (u64)ip);
  char out[8];
  equal(print(out, sizeof(out), "%d %d", 123456, 7), 9, "snprintf returns the full length");
  ok(strcmp(out, "123456 ") == 0, "and truncates");
  equal(print(out, 8, "%d %d %d %d"), -EINVAL, "too few arguments");
  equal(print(out, 8, "%f"), -EINVAL, "unknown conversion");
  equal(print(out, 8, "\x80"), -EINVAL, "not ASCII");
  std::string longer(100, 'y');
  expect(longer.c_str(), "%s", (u64)longer.c_str());
}

static int keep(void* arg, const void* data, u32 len) {
  static_cast<std::string*>(arg)->assign(static_cast<const char*>(data), len);
  return 0;
}

static void test_printk() {
  rt_env.log = make_map(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096);
  prctl(PR_SET_NAME, "rt-test");
  const char format[] = "x=%d\n";
  equal(call(6, format, sizeof(format), 5), 4, "trace_printk returns the length");
  equal(call(6, format, sizeof(format) - 1, 5), -EINVAL, "the format must be terminated");
  std::string record;
  rt_ring_cursor cursor{};
  rt_ring_consume(&rt_env.log, 0, &cursor, ~0u, keep, &record);
  printk_record head;
  if (ok(record.size() == sizeof(head) + 4, "a record arrives")) {
    memcpy(&head, record.data(), sizeof(head));
    equal(head.pid, getpid(), "with the pid");
    ok(strcmp(head.comm, "rt-test") == 0, "with the name");
    ok(record.substr(sizeof(head)) == "x=5\n", "with the text");
  }
  u64 args[4] = {1, 2, 3, 4};
  const char four[] = "%d %d %d %d";
  equal(call(177, four, sizeof(four), args, 32), 7, "trace_vprintk takes more arguments");
  equal(call(177, four, sizeof(four), args, 31), -EINVAL, "in whole words");
  free_map(rt_env.log);
  rt_env.log = {};
}

static void test_identity() {
  u64 want = static_cast<u64>(getpid()) << 32 | static_cast<u64>(gettid());
  equal(call(14), want, "pid_tgid");
  long in_thread = 0, tid = 0;
  std::thread([&] {
    in_thread = call(14);
    tid = gettid();
  }).join();
  equal(in_thread, static_cast<long>(getpid()) << 32 | tid, "pid_tgid in a thread");
  pid_t child = fork();
  if (child == 0) {
    _exit(call(14) == (static_cast<long>(getpid()) << 32 | gettid()) ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  equal(status, 0, "pid_tgid in a forked child");
  equal(call(15), static_cast<u64>(getgid()) << 32 | getuid(), "uid_gid");
  char comm[16];
  prctl(PR_SET_NAME, "0123456789abcdef");
  equal(call(16, comm, 16), 0, "get_current_comm");
  ok(strcmp(comm, "0123456789abcde") == 0, "is the thread's name");
  equal(call(16, comm, 4), 0, "truncated");
  ok(strcmp(comm, "012") == 0, "and terminated");
  ok(call(8) < 4096, "get_smp_processor_id");
  timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  long ns = ts.tv_sec * 1000000000l + ts.tv_nsec;
  long got = call(5);
  ok(got >= ns && got < ns + 1000000000l, "ktime_get_ns is CLOCK_MONOTONIC");
  clock_gettime(CLOCK_TAI, &ts);
  const long tai = call(208) - (ts.tv_sec * 1000000000l + ts.tv_nsec);
  ok(tai >= 0 && tai < 1000000000l, "ktime_get_tai_ns is CLOCK_TAI");
  ok(call(42) >= 0 && call(42) < 1024, "get_numa_node_id");
  ok(call(7) != call(7) || call(7) != call(7), "random numbers differ");
  equal(call(182, "abc", 3, "abd"), -1, "strncmp less");
  equal(call(182, "abc", 2, "abd"), 0, "strncmp of a prefix");
  ok(rt_helper(35) == nullptr, "get_current_task is not offered");
}

__attribute__((noinline)) static long stack_of(u64* out, u32 size, u64 flags) {
  probe_frame frame{};
  frame.regs.bp = reinterpret_cast<u64>(__builtin_frame_address(0));
  frame.regs.sp = frame.regs.bp - 64;
  frame.regs.ip = reinterpret_cast<u64>(&stack_of);
  frame.func_ip = 0x1234;
  frame.cookie = 77;
  equal(call(173, &frame), 0x1234, "get_func_ip");
  equal(call(174, &frame), 77, "get_attach_cookie");
  return call(67, &frame, out, size, flags);
}

__attribute__((noinline)) static long stackid_of(vm_map* map, u64 flags) {
  probe_frame frame{};
  frame.regs.bp = reinterpret_cast<u64>(__builtin_frame_address(0));
  frame.regs.sp = frame.regs.bp - 64;
  frame.regs.ip = reinterpret_cast<u64>(&stackid_of);
  return call(27, &frame, map, flags);
}
static void test_stackid() {
  vm_map map = make_map(BPF_MAP_TYPE_STACK_TRACE, 4, 16 * 8, 64);
  long ids[2];
  // One place, so one stack: the compiler must not make two calls of it.
  volatile u32 rounds = 2;
  for (u32 i = 0; i < rounds; i++) ids[i & 1] = stackid_of(&map, BPF_F_USER_STACK);
  ok(ids[0] >= 0 && ids[0] == ids[1], "get_stackid: the same stack has the same id");
  u64 ips[16] = {};
  equal(rt_map_read(&map, &ids[0], ips), 0, "under which it is found");
  ok(ips[0] == reinterpret_cast<u64>(&stackid_of) && ips[1] != 0, "with its callers");
  equal(stackid_of(&map, 0), -EOPNOTSUPP, "kernel stacks are refused");
  equal(stackid_of(&map, BPF_F_USER_STACK | 1u << 12), -EINVAL, "unknown flags");
  equal(stackid_of(&map, BPF_F_USER_STACK | 255), -EFAULT, "nothing is left of the stack");
  free_map(map);
}
static void test_stack() {
  u64 ips[16];
  long bytes = stack_of(ips, sizeof(ips), BPF_F_USER_STACK);
  ok(bytes >= 24 && bytes % 8 == 0, "get_stack finds callers by frame pointers");
  ok(ips[0] == reinterpret_cast<u64>(&stack_of), "first the ip");
  auto self = reinterpret_cast<u64>(&test_stack);
  ok(ips[1] > self && ips[1] < self + 600, "then the caller");
  u64 skipped[16];
  stack_of(skipped, sizeof(skipped), BPF_F_USER_STACK | 1);
  ok(skipped[0] > self && skipped[0] < self + 600, "skip");
  equal(stack_of(ips, sizeof(ips), 0), -EOPNOTSUPP, "kernel stacks are refused");
  equal(stack_of(ips, 12, BPF_F_USER_STACK), -EINVAL, "sizes are multiples of 8");
}

static void bench() {
  char out[16];
  char in[16] = "some text";
  constexpr int kReads = 100000;
  auto* read = reinterpret_cast<rt_helper_fn*>(const_cast<void*>(rt_helper(112)));
  for (u32 mode = 0; mode < 2; mode++) {
    rt_env.guard_mode = mode;
    timespec a, b;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    for (int i = 0; i < kReads; i++) read(u64(out), 16, u64(in), 0, 0);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    std::printf(
        "# probe_read of 16 bytes, mode %u: %.1f ns\n", mode,
        static_cast<double>((b.tv_sec - a.tv_sec) * 1000000000ll + b.tv_nsec - a.tv_nsec) / kReads);
  }
}

int main() {
  rt_env_init_hosted();
  test_reads("process_vm_readv");
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);
  rt_env.guard_mode = 1;
  test_reads("plain loads");
  test_lengths();
  test_format();
  test_printk();
  test_identity();
  test_stack();
  test_stackid();
  bench();
  return tap::done();
}
