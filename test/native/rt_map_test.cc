// SPDX-License-Identifier: MIT
// Maps: kernel return values, every type, concurrency, writers that are killed, corrupt storage.
#include <linux/bpf.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <map>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "rt_storage.h"
#include "tap.h"
#include "vm/rt/helpers.h"

using tap::equal;
using tap::ok;

static int layout(u32 type, u32 key, u32 value, u32 entries, u32 flags = 0) {
  vm_map map{};
  map.type = type;
  map.key_size = key;
  map.value_size = value;
  map.max_entries = entries;
  map.map_flags = flags;
  map.cpu_count = 2;
  return rt_map_layout(&map);
}

static void test_layout() {
  equal(layout(BPF_MAP_TYPE_ARRAY, 4, 8, 10), 0, "array is laid out");
  equal(layout(BPF_MAP_TYPE_ARRAY, 8, 8, 10), -EINVAL, "array keys are 4 bytes");
  equal(layout(BPF_MAP_TYPE_ARRAY, 4, 0, 10), -EINVAL, "array values are not empty");
  equal(layout(BPF_MAP_TYPE_ARRAY, 4, 8, 0), -EINVAL, "no map is empty");
  equal(layout(BPF_MAP_TYPE_HASH, 0, 8, 10), -EINVAL, "hash keys are not empty");
  equal(layout(BPF_MAP_TYPE_HASH, 513, 8, 10), -E2BIG, "hash keys have a limit");
  equal(layout(BPF_MAP_TYPE_HASH, 4, 8, 10, 1u << 20), -EINVAL, "unknown flags are refused");
  equal(layout(BPF_MAP_TYPE_HASH, 4, 8, 10, BPF_F_NO_PREALLOC), 0, "NO_PREALLOC is accepted");
  equal(layout(BPF_MAP_TYPE_HASH, 8, 1u << 20, 1u << 20), -E2BIG, "storage has a limit");
  equal(layout(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096), 0, "a ring of a page");
  equal(layout(BPF_MAP_TYPE_RINGBUF, 0, 0, 12288), -EINVAL, "a ring is a power of two");
  equal(layout(BPF_MAP_TYPE_RINGBUF, 4, 0, 4096), -EINVAL, "a ring has no keys");
  equal(layout(BPF_MAP_TYPE_SOCKHASH, 4, 4, 1), -EINVAL, "other types are refused");
}

static void test_array() {
  vm_map map = make_map(BPF_MAP_TYPE_ARRAY, 4, 12, 3);
  u32 key = 2;
  u8 value[12] = "hello world";
  equal(rt_map_update(&map, &key, value, BPF_ANY), 0, "array update");
  ok(memcmp(rt_map_lookup(&map, &key), value, 12) == 0, "array lookup");
  equal(rt_map_update(&map, &key, value, BPF_NOEXIST), -EEXIST, "array entries always exist");
  equal(rt_map_update(&map, &key, value, 8), -EINVAL, "bad flags");
  equal(rt_map_delete(&map, &key), -EINVAL, "array entries cannot be deleted");
  key = 3;
  ok(rt_map_lookup(&map, &key) == nullptr, "beyond the end is null");
  equal(rt_map_update(&map, &key, value, BPF_ANY), -E2BIG, "beyond the end is E2BIG");
  u32 next = 9;
  equal(rt_map_next_key(&map, nullptr, &next), 0, "first key");
  equal(next, 0, "is 0");
  key = 2;
  equal(rt_map_next_key(&map, &key, &next), -ENOENT, "no key after the last");
  free_map(map);
}

static void test_percpu() {
  vm_map map = make_map(BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 1);
  ok(map.elem_stride % 64 == 0, "CPUs of a per-CPU array share no cache line");
  u32 key = 0;
  u64 values[2] = {7, 9}, back[2] = {};
  equal(rt_map_value_bytes(&map), 16, "all CPUs' bytes");
  equal(rt_map_write(&map, &key, values, BPF_ANY), 0, "write all CPUs");
  equal(rt_map_read(&map, &key, back), 0, "read all CPUs");
  ok(memcmp(values, back, 16) == 0, "the same");
  equal(*static_cast<u64*>(rt_map_lookup_percpu(&map, &key, 1)), 9, "lookup of CPU 1");
  ok(rt_map_lookup_percpu(&map, &key, 2) == nullptr, "no CPU 2");
  free_map(map);

  map = make_map(BPF_MAP_TYPE_PERCPU_HASH, 8, 8, 4);
  u64 key64 = 77, one = 1;
  equal(rt_map_write(&map, &key64, values, BPF_ANY), 0, "per-CPU hash: write all CPUs");
  equal(rt_map_read(&map, &key64, back), 0, "read all CPUs");
  ok(memcmp(values, back, 16) == 0, "the same");
  key64 = 78;
  equal(rt_map_update(&map, &key64, &one, BPF_ANY), 0, "update from a program");
  rt_map_read(&map, &key64, back);
  equal(static_cast<long long>(back[0] + back[1]), 1, "sets this CPU's value, the others are 0");
  free_map(map);
}

static void test_hash_semantics(u32 type) {
  vm_map map = make_map(type, 6, 5, 3);
  equal(rt_map_update(&map, "key--1", "v0001", BPF_EXIST), -ENOENT, "EXIST without the key");
  equal(rt_map_update(&map, "key--1", "v0001", BPF_NOEXIST), 0, "NOEXIST without the key");
  equal(rt_map_update(&map, "key--1", "v0002", BPF_NOEXIST), -EEXIST, "NOEXIST with the key");
  equal(rt_map_update(&map, "key--1", "v0003", 7), -EINVAL, "bad flags");
  void* at = rt_map_lookup(&map, "key--1");
  ok(at != nullptr && memcmp(at, "v0001", 5) == 0, "lookup finds the value");
  equal(rt_map_update(&map, "key--1", "v0004", BPF_EXIST), 0, "EXIST with the key");
  ok(rt_map_lookup(&map, "key--1") == at, "the value keeps its address");
  ok(memcmp(at, "v0004", 5) == 0, "and is overwritten");
  equal(rt_map_delete(&map, "key--2"), -ENOENT, "delete of nothing");
  equal(rt_map_update(&map, "key--2", "v", BPF_ANY), 0, "second key");
  equal(rt_map_update(&map, "key--3", "v", BPF_ANY), 0, "third key");
  equal(rt_map_count(&map), 3, "three entries");
  long full = rt_map_update(&map, "key--4", "v", BPF_ANY);
  equal(full, type == BPF_MAP_TYPE_HASH ? -E2BIG : 0, "fourth key in a map of three");
  equal(rt_map_count(&map), 3, "still three entries");
  char key[6];
  std::set<std::string> seen;
  for (long ret = rt_map_next_key(&map, nullptr, key); ret == 0;) {
    seen.insert(std::string(key, 6));
    char next[6];
    ret = rt_map_next_key(&map, key, next);
    if (ret == 0) memcpy(key, next, 6);
  }
  equal(seen.size(), 3, "get_next_key walks all entries");
  for (const std::string& k : seen) rt_map_delete(&map, k.data());
  equal(rt_map_count(&map), 0, "all deleted");
  equal(rt_map_next_key(&map, nullptr, key), -ENOENT, "no first key in an empty map");
  free_map(map);
}

static void test_hash_model() {
  vm_map map = make_map(BPF_MAP_TYPE_HASH, 4, 8, 1000);
  std::map<u32, u64> model;
  std::mt19937 random(1);
  bool same = true;
  for (int i = 0; i < 300000 && same; i++) {
    u32 key = random() % 1500;
    u64 value = random();
    auto it = model.find(key);
    switch (random() % 3) {
      case 0: {
        long ret = rt_map_update(&map, &key, &value, BPF_ANY);
        long want = it == model.end() && model.size() == 1000 ? -E2BIG : 0;
        same = ret == want;
        if (ret == 0) model[key] = value;
        break;
      }
      case 1:
        same = rt_map_delete(&map, &key) == (it == model.end() ? -ENOENT : 0);
        if (it != model.end()) model.erase(it);
        break;
      default: {
        auto* found = static_cast<u64*>(rt_map_lookup(&map, &key));
        same = it == model.end() ? found == nullptr : found != nullptr && *found == it->second;
      }
    }
  }
  ok(same, "300000 random operations agree with std::map");
  u64 cursor = 0, sum = 0, want = 0, value = 0;
  u32 key = 0;
  while (rt_map_iterate(&map, &cursor, &key, &value) == 0) sum += key * 31 + value;
  for (auto& [k, v] : model) want += k * 31 + v;
  equal(static_cast<long long>(sum), static_cast<long long>(want), "iteration sees every entry");
  free_map(map);
}

static u32 elems_in_state(const vm_map& map, u32 state) {
  u32 count = 0;
  for (u32 i = 0; i < map.max_entries; i++) {
    count +=
        reinterpret_cast<rt_elem*>(map.base + map.data_off + u64{i} * map.elem_stride)->state ==
        state;
  }
  return count;
}

// Elements that wait in their buckets for the next key are there for every other key as well.
static void test_spares() {
  for (u32 entries : {1u, 2u, 3u, 5u, 64u, 1000u}) {
    vm_map map = make_map(BPF_MAP_TYPE_HASH, 4, 8, entries);
    const u64 value = 7;
    bool same = true;
    for (u32 key = 0; key < entries * 10; key++) {
      same = same && rt_map_update(&map, &key, &value, BPF_ANY) == 0;
      same = same && rt_map_delete(&map, &key) == 0;
      if (key == entries / 4) {
        const bool has_spare = elems_in_state(map, RT_ELEM_SPARE) != 0;
        same = same && has_spare == (entries > 3);  // else half of them is the one in use
      }
    }
    u32 inserted = 0;
    for (u32 key = 0; key <= entries; key++) {
      const u32 strange = key + 0x10000000;
      inserted += rt_map_update(&map, &strange, &value, BPF_ANY) == 0;
    }
    std::printf("# %u entries\n", entries);
    ok(same, "keys that come and go leave spares while there is room");
    equal(inserted, entries, "and none is missing when others want the room");
    equal(rt_map_count(&map), entries, "the map is full");
    free_map(map);
  }
}

static void test_lru() {
  vm_map map = make_map(BPF_MAP_TYPE_LRU_HASH, 4, 4, 64);
  bool all = true;
  u32 hot = 1;
  for (u32 key = 1; key <= 10000; key++) {
    all = all && rt_map_update(&map, &key, &key, BPF_ANY) == 0;
    if (key > 1) all = all && rt_map_lookup(&map, &hot) != nullptr;
  }
  ok(all, "LRU: inserts always succeed, an entry in use stays");
  equal(rt_map_count(&map), 64, "and the map stays full");
  free_map(map);
}

static void test_threads() {
  vm_map map = make_map(BPF_MAP_TYPE_HASH, 8, 8, 4096);
  u64 counter_key = 1ull << 40, zero = 0;
  rt_map_update(&map, &counter_key, &zero, BPF_ANY);
  std::vector<std::thread> threads;
  std::vector<int> bad(4, 0);
  for (int t = 0; t < 4; t++) {
    threads.emplace_back([&map, &bad, t, counter_key] {
      std::mt19937 random(t);
      for (int i = 0; i < 200000; i++) {
        u64 key = random() % 2000;
        u64 value = key << 32 | key;
        if (i % 4 == 0) {
          rt_map_update(&map, &key, &value, BPF_ANY);
        } else if (i % 4 == 1) {
          rt_map_delete(&map, &key);
        } else if (auto* at = static_cast<u64*>(rt_map_lookup(&map, &key))) {
          u64 seen = __atomic_load_n(at, __ATOMIC_RELAXED);
          if (seen >> 32 != (seen & 0xffffffff)) bad[t]++;  // torn
        }
        auto* counter = static_cast<u64*>(rt_map_lookup(&map, &counter_key));
        if (counter == nullptr) {
          bad[t]++;
        } else {
          __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  equal(*static_cast<u64*>(rt_map_lookup(&map, &counter_key)), 800000, "no counter update is lost");
  equal(bad[0] + bad[1] + bad[2] + bad[3], 0, "no torn value, no entry disappears");
  u32 count = rt_map_count(&map);
  u64 cursor = 0, key, value;
  u32 walked = 0;
  while (rt_map_iterate(&map, &cursor, &key, &value) == 0) walked++;
  equal(walked, count, "count is exact when writers are done");
  free_map(map);
}

// Children write at full speed and are killed at random points; the map must stay usable.
static void test_killed_writers() {
  vm_map map = make_map(BPF_MAP_TYPE_HASH, 4, 8, 256);
  std::mt19937 random(7);
  u64 wait_max_ns = 0;
  bool usable = true;
  for (int round = 0; round < 400; round++) {
    pid_t pid = fork();
    if (pid == 0) {
      rt_env_init_hosted();
      std::mt19937 mine(round);
      for (;;) {
        u32 key = mine() % 200;
        u64 value = key;
        if (mine() % 2 == 0) {
          rt_map_update(&map, &key, &value, BPF_ANY);
        } else {
          rt_map_delete(&map, &key);
        }
      }
    }
    timespec pause{0, static_cast<long>(100000 + random() % 500000)};
    nanosleep(&pause, nullptr);
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    for (u32 key = 0; key < 200; key += 3) {
      timespec a, b;
      clock_gettime(CLOCK_MONOTONIC, &a);
      u64 value = key;
      usable = usable && rt_map_update(&map, &key, &value, BPF_ANY) == 0;
      clock_gettime(CLOCK_MONOTONIC, &b);
      wait_max_ns = std::max<u64>(wait_max_ns,
                                  (b.tv_sec - a.tv_sec) * 1000000000ull + (b.tv_nsec - a.tv_nsec));
    }
  }
  ok(usable, "400 killed writers: every later update succeeds");
  // Scheduling on a busy machine counts too.
  ok(wait_max_ns < 50000000, "and none waits long for a dead owner");
  std::printf("# longest update: %llu us\n", static_cast<unsigned long long>(wait_max_ns / 1000));
  for (u32 key = 0; key < 256; key++) rt_map_delete(&map, &key);
  u32 inserted = 0;
  for (u32 key = 0; key < 4096 && inserted < 256; key++) {
    u64 value = key;
    if (rt_map_update(&map, &key, &value, BPF_ANY) == 0) inserted++;
  }
  equal(inserted, 256, "what the dead were moving is reclaimed: the map takes max_entries");
  free_map(map);
}

static void test_corrupt_storage() {
  std::mt19937 random(3);
  for (u32 type : {BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_PERCPU_HASH}) {
    vm_map map = make_map(type, 4, 8, 64);
    auto* words = reinterpret_cast<u32*>(map.base);
    for (int round = 0; round < 50; round++) {
      for (u64 i = 0; i < map.storage_bytes / 4; i++) {
        words[i] = random() % 3 == 0 ? random() % 70 : random() % 5 == 0 ? random() : words[i];
      }
      // Locks that living threads hold would only make this slow.
      for (u32 i = 0; i < map.bucket_count; i++) words[map.bucket_off / 4 + i * 4 + 1] = 0;
      for (int i = 0; i < 100; i++) {
        u32 key = random() % 100;
        u64 values[2] = {1, 2};
        u32 next;
        rt_map_write(&map, &key, values, BPF_ANY);
        rt_map_read(&map, &key, values);
        rt_map_next_key(&map, &key, &next);
        rt_map_delete(&map, &key);
      }
    }
    free_map(map);
  }
  ok(true, "scribbled storage harms nobody else");
}

// The thread's own lock is met by a signal handler: refused at once, never a deadlock.
static void test_reentry() {
  vm_map map = make_map(BPF_MAP_TYPE_HASH, 4, 8, 1);
  auto* bucket = reinterpret_cast<rt_bucket*>(map.base + map.bucket_off);
  bucket->owner = static_cast<u32>(gettid());
  u32 key = 1;
  u64 value = 1;
  equal(rt_map_update(&map, &key, &value, BPF_ANY), -EBUSY, "own lock: EBUSY at once");
  ok(rt_map_lookup(&map, &key) == nullptr, "lookups do not care");
  free_map(map);
}

static u64 now_ns() {
  timespec ts;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
  return static_cast<u64>(ts.tv_sec) * 1000000000ull + static_cast<u64>(ts.tv_nsec);
}

static void bench() {
  vm_map map = make_map(BPF_MAP_TYPE_HASH, 4, 8, 10000);
  auto* lookup = reinterpret_cast<rt_helper_fn*>(const_cast<void*>(rt_helper(1)));
  auto* update = reinterpret_cast<rt_helper_fn*>(const_cast<void*>(rt_helper(2)));
  for (u32 key = 0; key < 1000; key++) {
    u64 value = key;
    update(reinterpret_cast<u64>(&map), reinterpret_cast<u64>(&key), reinterpret_cast<u64>(&value),
           0, 0);
  }
  double best_lookup = 1e9, best_update = 1e9;
  for (int round = 0; round < 10; round++) {
    u64 start = now_ns(), sum = 0;
    for (u32 i = 0; i < 100000; i++) {
      u32 key = i % 1000;
      sum += lookup(reinterpret_cast<u64>(&map), reinterpret_cast<u64>(&key), 0, 0, 0);
    }
    u64 middle = now_ns();
    for (u32 i = 0; i < 100000; i++) {
      u32 key = i % 1000;
      u64 value = i;
      sum += update(reinterpret_cast<u64>(&map), reinterpret_cast<u64>(&key),
                    reinterpret_cast<u64>(&value), 0, 0);
    }
    u64 end = now_ns();
    best_lookup = std::min(best_lookup, static_cast<double>(middle - start) / 100000);
    best_update = std::min(best_update, static_cast<double>(end - middle) / 100000);
    if (sum == 1) std::printf("#\n");
  }
  std::printf("# hash lookup %.1f ns, update %.1f ns\n", best_lookup, best_update);
  free_map(map);
}

int main() {
  rt_env_init_hosted();
  test_layout();
  test_array();
  test_percpu();
  test_hash_semantics(BPF_MAP_TYPE_HASH);
  test_hash_semantics(BPF_MAP_TYPE_LRU_HASH);
  test_hash_model();
  test_spares();
  test_lru();
  test_threads();
  test_reentry();
  test_killed_writers();
  test_corrupt_storage();
  bench();
  return tap::done();
}
