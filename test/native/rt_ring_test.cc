// SPDX-License-Identifier: MIT
// Rings: order, padding at the end, exact losses, dead producers, hostile producers.
#include <linux/bpf.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <random>
#include <thread>
#include <vector>

#include "rt_storage.h"
#include "tap.h"
#include "vm/rt/helpers.h"
#include "vm/rt/ring.h"

using tap::equal;
using tap::ok;

struct Sink {
  u64 count = 0, bytes = 0, bad = 0;
  std::vector<u64> next = std::vector<u64>(8, 0);  // expected sequence per producer
};

// Records are {producer, sequence, filler...}: per producer in order, with its own filler.
static int take(void* arg, const void* data, u32 len) {
  auto* sink = static_cast<Sink*>(arg);
  const auto* words = static_cast<const u64*>(data);
  sink->count++;
  sink->bytes += len;
  if (len < 16 || words[0] >= 8) {
    sink->bad++;
    return 0;
  }
  if (words[1] < sink->next[words[0]]) sink->bad++;  // gaps are losses, going back is a bug
  sink->next[words[0]] = words[1] + 1;
  for (u32 i = 2; i < len / 8; i++) {
    if (words[i] != (words[0] << 32 | words[1])) sink->bad++;
  }
  return 0;
}

static void produce(const vm_map& map, u64 producer, u64 sequence, u32 words) {
  u64 record[64];
  record[0] = producer;
  record[1] = sequence;
  for (u32 i = 2; i < words; i++) record[i] = producer << 32 | sequence;
  rt_ring_output(&map, 0, record, words * 8);
}

static void test_basic() {
  vm_map map = make_map(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096);
  rt_ring_cursor cursor{};
  Sink sink;
  equal(rt_ring_output(&map, 0, &sink, 5000), -E2BIG, "larger than the ring");
  u64 total = 0;
  std::mt19937 random(1);
  for (u64 i = 0; i < 20000; i++) {
    u32 words = 2 + random() % 30;
    produce(map, 1, i, words);
    total += words * 8;
    if (i % 4 == 3) rt_ring_consume(&map, 0, &cursor, ~0u, take, &sink);
  }
  equal(sink.count, 20000, "all records arrive, across many wraps");
  equal(sink.bytes, total, "with their lengths");
  equal(sink.bad, 0, "in order and whole");
  equal(rt_ring_lost(&map, 0), 0, "none lost");
  for (u64 i = 0; i < 1000; i++) produce(map, 2, i, 8);
  Sink rest;
  rt_ring_consume(&map, 0, &cursor, ~0u, take, &rest);
  equal(rest.count + rt_ring_lost(&map, 0), 1000, "a full ring counts what it loses");
  void* a = rt_ring_reserve(&map, 0, 16);
  void* b = rt_ring_reserve(&map, 0, 16);
  memset(b, 0, 16);
  rt_ring_commit(b, 0);
  Sink held;
  equal(rt_ring_consume(&map, 0, &cursor, ~0u, take, &held), 0, "order: b waits for a");
  rt_ring_commit(a, 1);
  equal(rt_ring_consume(&map, 0, &cursor, ~0u, take, &held), 1, "a discarded, b delivered");
  equal(rt_ring_pending(&map, 0), 0, "nothing pending");
  free_map(map);
}

static void test_threads() {
  vm_map map = make_map(BPF_MAP_TYPE_RINGBUF, 0, 0, 65536);
  std::atomic<int> running{4};
  std::vector<std::thread> threads;
  for (u64 t = 0; t < 4; t++) {
    threads.emplace_back([&map, &running, t] {
      for (u64 i = 0; i < 100000; i++) produce(map, t, i, 2 + i % 13);
      running--;
    });
  }
  rt_ring_cursor cursor{};
  Sink sink;
  while (running > 0) rt_ring_consume(&map, 0, &cursor, 1000, take, &sink);
  for (auto& thread : threads) thread.join();
  rt_ring_consume(&map, 0, &cursor, ~0u, take, &sink);
  equal(sink.bad, 0, "4 producers: records whole and in order");
  equal(sink.count + rt_ring_lost(&map, 0), 400000, "received + lost = produced");
  equal(cursor.corrupt, 0, "never out of step");
  std::printf("# lost %llu\n", static_cast<unsigned long long>(rt_ring_lost(&map, 0)));
  free_map(map);
}

static void test_dead_producer() {
  vm_map map = make_map(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096);
  pid_t pid = fork();
  if (pid == 0) {
    rt_env_init_hosted();
    rt_ring_reserve(&map, 0, 64);
    _exit(0);
  }
  waitpid(pid, nullptr, 0);
  produce(map, 3, 0, 4);
  rt_ring_cursor cursor{};
  Sink sink;
  equal(rt_ring_consume(&map, 0, &cursor, ~0u, take, &sink), 0, "an abandoned record blocks");
  timespec pause{0, 120000000};
  nanosleep(&pause, nullptr);
  equal(rt_ring_consume(&map, 0, &cursor, ~0u, take, &sink), 1, "but not for long");
  equal(cursor.skipped, 1, "and is counted");

  // Dies while it holds the lock.
  auto* producer = reinterpret_cast<rt_ring_producer*>(map.base + 4096);
  producer->owner = static_cast<u32>(pid);
  produce(map, 3, 1, 4);
  equal(rt_ring_consume(&map, 0, &cursor, ~0u, take, &sink), 1,
        "a dead owner's lock is taken over");
  free_map(map);
}

static int count_only(void* arg, const void* data, u32 len) {
  u64 sum = 0;
  for (u32 i = 0; i < len; i++) sum += static_cast<const u8*>(data)[i];
  *static_cast<u64*>(arg) += sum;
  return 0;
}

static void test_hostile() {
  std::mt19937_64 random(5);
  vm_map map = make_map(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096);
  u64 sum = 0;
  for (int round = 0; round < 20000; round++) {
    rt_ring_cursor cursor{};
    auto* words = reinterpret_cast<u64*>(map.base);
    words[0] = random() % 4 == 0 ? random() : (random() % 1024) * 8;
    words[512] = random() % 4 == 0 ? random() : words[0] + (random() % 520) * 8;
    for (int i = 1024; i < 1536; i++) {
      u64 len = random() % 3 == 0 ? random() : random() % 300;
      words[i] = len & ~u64{RT_RING_BUSY};
    }
    rt_ring_consume(&map, 0, &cursor, 1000, count_only, &sum);
  }
  ok(true, "garbage in the ring is survived");
  free_map(map);
}

static void test_perf() {
  vm_map map = make_map(BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 2);
  equal(rt_ring_count(&map), 2, "a perf event array has a ring per CPU");
  auto* output = reinterpret_cast<rt_helper_fn*>(const_cast<void*>(rt_helper(25)));
  u64 record[2] = {4, 0};
  auto call = [&](u64 flags) {
    return static_cast<long>(
        output(0, reinterpret_cast<u64>(&map), flags, reinterpret_cast<u64>(record), 16));
  };
  equal(call(BPF_F_CURRENT_CPU), 0, "perf_event_output on this CPU");
  equal(call(1), 0, "on CPU 1");
  equal(call(2), -E2BIG, "beyond max_entries");
  equal(call(1ull << 40), -EINVAL, "bad flags");
  Sink sink;
  rt_ring_cursor cursors[2] = {};
  rt_ring_consume(&map, 0, &cursors[0], ~0u, take, &sink);
  rt_ring_consume(&map, 1, &cursors[1], ~0u, take, &sink);
  equal(sink.count, 2, "both arrive");
  free_map(map);
}

static void bench() {
  vm_map map = make_map(BPF_MAP_TYPE_RINGBUF, 0, 0, 1 << 20);
  rt_ring_cursor cursor{};
  double best = 1e9;
  u64 sum = 0;
  for (int round = 0; round < 20; round++) {
    timespec a, b;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    for (int i = 0; i < 10000; i++) {
      void* at = rt_ring_reserve(&map, 0, 64);
      *static_cast<u64*>(at) = 1;
      rt_ring_commit(at, 0);
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    double ns = static_cast<double>((b.tv_sec - a.tv_sec) * 1000000000ll + b.tv_nsec - a.tv_nsec);
    best = std::min(best, ns / 10000);
    rt_ring_consume(&map, 0, &cursor, ~0u, count_only, &sum);
  }
  std::printf("# ring reserve + submit of 64 bytes: %.1f ns\n", best);
  free_map(map);
}

int main() {
  rt_env_init_hosted();
  test_basic();
  test_threads();
  test_dead_producer();
  test_hostile();
  test_perf();
  bench();
  return tap::done();
}
