// SPDX-License-Identifier: MIT
// bpf(2) through libbpf's own wrappers: return values as the kernel gives them.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "bpf/syscall.h"
#include "tap.h"

using tap::equal;
using tap::ok;

#define INSN(op, dst, src, off, imm) \
  { (op), (dst), (src), (off), (imm) }
static const bpf_insn kReturnSeven[] = {
    INSN(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 7),
    INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
};

static int make_map(bpf_map_type type, unsigned key, unsigned value, unsigned entries) {
  return bpf_map_create(type, "test", key, value, entries, nullptr);
}

static void test_maps() {
  const int fd = make_map(BPF_MAP_TYPE_HASH, 4, 8, 4);
  ok(fd >= 0, "map create");
  int key = 1;
  long value = 11, back = 0;
  equal(bpf_map_lookup_elem(fd, &key, &back), -ENOENT, "lookup of nothing");
  equal(errno, ENOENT, "errno is set");
  equal(bpf_map_update_elem(fd, &key, &value, BPF_ANY), 0, "update");
  equal(bpf_map_update_elem(fd, &key, &value, BPF_NOEXIST), -EEXIST, "update NOEXIST");
  equal(bpf_map_lookup_elem(fd, &key, &back), 0, "lookup");
  equal(back, 11, "value");
  int next = 0;
  equal(bpf_map_get_next_key(fd, nullptr, &next), 0, "first key");
  equal(next, 1, "is it");
  equal(bpf_map_get_next_key(fd, &next, &next), -ENOENT, "last key");
  equal(bpf_map_lookup_and_delete_elem(fd, &key, &back), 0, "lookup and delete");
  equal(bpf_map_delete_elem(fd, &key), -ENOENT, "it is gone");

  const int twin = dup(fd);
  close(fd);
  equal(bpf_map_update_elem(twin, &key, &value, BPF_ANY), 0, "a dup is the same map");
  equal(bpf_map_update_elem(fd, &key, &value, BPF_ANY), -EBADF, "a closed descriptor is none");
  equal(bpf_map_lookup_elem(0, &key, &back), -EBADF, "nor is stdin");
  equal(bpf_map_freeze(twin), 0, "freeze");
  equal(bpf_map_update_elem(twin, &key, &value, BPF_ANY), -EPERM, "frozen");
  equal(bpf_map_lookup_elem(twin, &key, &back), 0, "but readable");
  close(twin);
  equal(make_map(BPF_MAP_TYPE_ARRAY, 8, 8, 4), -EINVAL, "bad key size");
  equal(make_map(BPF_MAP_TYPE_SOCKMAP, 4, 4, 4), -EINVAL, "no such type here");
}

static void test_batch() {
  const int fd = make_map(BPF_MAP_TYPE_HASH, 4, 8, 100);
  int keys[50];
  long values[50], sum = 0;
  for (int i = 0; i < 50; i++) {
    keys[i] = i;
    values[i] = i * 2;
  }
  unsigned count = 50;
  equal(bpf_map_update_batch(fd, keys, values, &count, nullptr), 0, "update batch");
  equal(count, 50, "all");
  unsigned cursor = 0;
  void* in = nullptr;
  int rounds = 0, err = 0;
  unsigned total = 0;
  while (err == 0 && rounds++ < 10) {
    count = 20;
    err = bpf_map_lookup_batch(fd, in, &cursor, keys, values, &count, nullptr);
    for (unsigned i = 0; i < count; i++) sum += values[i];
    total += count;
    in = &cursor;
  }
  equal(err, -ENOENT, "lookup batch ends with ENOENT");
  equal(total, 50, "after all entries");
  equal(sum, 49 * 50, "with their values");
  close(fd);
}

static void test_progs() {
  LIBBPF_OPTS(bpf_prog_load_opts, opts);
  char log[256] = "";
  opts.log_buf = log;
  opts.log_size = sizeof(log);
  opts.log_level = 1;
  const int fd = bpf_prog_load(BPF_PROG_TYPE_KPROBE, "seven", "GPL", kReturnSeven, 2, &opts);
  ok(fd >= 0, "prog load");
  LIBBPF_OPTS(bpf_test_run_opts, run);
  run.repeat = 10;
  equal(bpf_prog_test_run_opts(fd, &run), 0, "test run");
  equal(run.retval, 7, "returns 7");
  bpf_prog_info info{};
  unsigned len = sizeof(info);
  equal(bpf_obj_get_info_by_fd(fd, &info, &len), 0, "prog info");
  ok(strcmp(info.name, "seven") == 0 && info.xlated_prog_len == 16, "name and size");
  const int again = bpf_prog_get_fd_by_id(info.id);
  ok(again >= 0, "descriptor by id");
  bpf_insn broken[2];
  memcpy(broken, kReturnSeven, sizeof(broken));
  broken[1].code = 0xff;
  equal(bpf_prog_load(BPF_PROG_TYPE_KPROBE, "bad", "GPL", broken, 2, &opts), -EINVAL, "refused");
  ok(strncmp(log, "insn 1: ", 8) == 0, "with a log");
  std::printf("# %s", log);
  const bpf_insn no_map[] = {INSN(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, 999),
                             INSN(0, 0, 0, 0, 0), kReturnSeven[0], kReturnSeven[1]};
  equal(bpf_prog_load(BPF_PROG_TYPE_KPROBE, "bad", "GPL", no_map, 4, nullptr), -EBADF,
        "a map that is none");
  equal(bpf_prog_get_fd_by_id(4000000), -ENOENT, "no such id");
  equal(bpf_link_create(fd, again, BPF_PERF_EVENT, nullptr), -EOPNOTSUPP, "links are not offered");
  equal(bpf_obj_pin(fd, "/sys/fs/bpf/x"), -EOPNOTSUPP, "nor pins");
  close(fd);
  close(again);
}

static void test_dispatch() {
  equal(syscall(SYS_getpid), getpid(), "other system calls reach the kernel");
  errno = 0;
  equal(syscall(SYS_close, 9999), -1, "and fail as libc's function does");
  equal(errno, EBADF, "with errno");
  union bpf_attr attr;
  memset(&attr, 0, sizeof(attr));
  equal(syscall(SYS_bpf, 9999, &attr, sizeof(attr)), -1, "an unknown command");
  equal(errno, EINVAL, "is EINVAL");
  char big[sizeof(attr) + 8] = {};
  big[sizeof(attr)] = 1;
  syscall(SYS_bpf, BPF_MAP_CREATE, big, sizeof(big));
  equal(errno, E2BIG, "attributes of the future are E2BIG");
  equal(libbpf_probe_bpf_map_type(BPF_MAP_TYPE_RINGBUF, nullptr), 1, "libbpf sees ring buffers");
  equal(libbpf_probe_bpf_map_type(BPF_MAP_TYPE_SOCKMAP, nullptr), 0, "but no socket maps");
  equal(libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_KPROBE, nullptr), 1, "and probe programs");
}

static int on_sample(void* ctx, void*, size_t size) {
  *static_cast<size_t*>(ctx) += size;
  return 0;
}

// The kernel's layout: libbpf's own reader understands the ring.
static void test_mmap() {
  const int fd = make_map(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096);
  size_t bytes = 0;
  ring_buffer* reader = ring_buffer__new(fd, on_sample, &bytes, nullptr);
  ok(reader != nullptr || errno == EPERM, "libbpf maps a ring (epoll needs the tool front)");
  if (reader != nullptr) ring_buffer__free(reader);
  close(fd);
  LIBBPF_OPTS(bpf_map_create_opts, opts);
  opts.map_flags = BPF_F_MMAPABLE;
  const int array = bpf_map_create(BPF_MAP_TYPE_ARRAY, "m", 4, 8, 4, &opts);
  void* at = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, array, 0);
  ok(at != MAP_FAILED, "an array map can be mapped");
  int key = 3;
  long value = 77;
  bpf_map_update_elem(array, &key, &value, BPF_ANY);
  equal(static_cast<long*>(at)[3], 77, "and its values are there");
  close(array);
}

int main() {
  libbpf_set_print(nullptr);
  ok(bpftime::libbpf_is_ours(), "libbpf's bpf(2) is ours");
  test_maps();
  test_batch();
  test_progs();
  test_dispatch();
  test_mmap();
  return tap::done();
}
