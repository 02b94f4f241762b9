// SPDX-License-Identifier: MIT
// Queues, stacks, bloom filters, longest prefix match, stack traces: return values beside the
// kernel's maps, writers that are killed, threads, corrupt storage.
#include <linux/bpf.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "rt_storage.h"
#include "tap.h"
#include "vm/rt/bloom.h"
#include "vm/rt/helpers.h"
#include "vm/rt/lpm.h"
#include "vm/rt/queue.h"
#include "vm/rt/stacks.h"

using tap::equal;
using tap::ok;

// ---- the same operations on a map of the kernel

static long kernel_bpf(int cmd, bpf_attr& attr) {
  const long ret = syscall(SYS_bpf, cmd, &attr, sizeof attr);
  return ret < 0 ? -errno : ret;
}

struct KernelMap {
  int fd = -1;
  explicit KernelMap(const vm_map& map) {
    bpf_attr attr{};
    attr.map_type = map.type;
    attr.key_size = map.key_size;
    attr.value_size = map.value_size;
    attr.max_entries = map.max_entries;
    attr.map_flags = map.map_flags;
    fd = static_cast<int>(kernel_bpf(BPF_MAP_CREATE, attr));
  }
  ~KernelMap() { close(fd); }
  KernelMap(const KernelMap&) = delete;
  KernelMap& operator=(const KernelMap&) = delete;
  [[nodiscard]] long run(int cmd, const void* key, void* value, u64 flags = 0) const {
    bpf_attr attr{};
    attr.map_fd = static_cast<u32>(fd);
    attr.key = reinterpret_cast<u64>(key);
    attr.value = reinterpret_cast<u64>(value);
    attr.flags = flags;
    return kernel_bpf(cmd, attr);
  }
};

static void test_queue_beside_kernel(u32 type) {
  vm_map map = make_map(type, 0, 12, 5);
  const KernelMap kernel(map);
  if (kernel.fd < 0) {
    std::printf("ok %d - beside the kernel # SKIP needs bpf(2)\n", ++tap::count);
    return;
  }
  std::mt19937 random(type);
  std::string difference;
  for (int i = 0; i < 20000 && difference.empty(); i++) {
    u32 theirs[3] = {1, 2, 3}, ours[3] = {1, 2, 3};
    long kernel_ret = 0, ret = 0;
    const u32 what = random() % 8;
    if (what < 4) {
      for (int w = 0; w < 3; w++) theirs[w] = ours[w] = random();
      static constexpr u64 kFlags[] = {BPF_ANY, BPF_EXIST, BPF_NOEXIST, 3, 4};
      const u64 flags = kFlags[random() % 16 < 12 ? 0 : random() % 5];
      kernel_ret = kernel.run(BPF_MAP_UPDATE_ELEM, nullptr, theirs, flags);
      ret = rt_map_push(&map, ours, flags);
    } else if (what < 6) {
      kernel_ret = kernel.run(BPF_MAP_LOOKUP_AND_DELETE_ELEM, nullptr, theirs);
      ret = rt_map_pop(&map, ours);
    } else {
      kernel_ret = kernel.run(BPF_MAP_LOOKUP_ELEM, nullptr, theirs);
      ret = rt_map_peek(&map, ours);
    }
    // On failure the kernel's system call copies nothing out; programs see zeroes.
    if (ret != kernel_ret || (ret == 0 && memcmp(theirs, ours, 12) != 0)) {
      difference = "operation " + std::to_string(i) + " (" + std::to_string(what) + "): kernel " +
                   std::to_string(kernel_ret) + ", ours " + std::to_string(ret);
    }
  }
  if (!ok(difference.empty(), "20000 operations, as in the kernel")) {
    std::printf("# %s\n", difference.c_str());
  }
  free_map(map);
}

static void test_queue() {
  vm_map map = make_map(BPF_MAP_TYPE_QUEUE, 0, 8, 3);
  u64 value = 7;
  equal(rt_map_pop(&map, &value), -ENOENT, "an empty queue");
  equal(value, 0, "gives zeroes");
  u64 cursor = 0;
  equal(rt_map_iterate(&map, &cursor, nullptr, &value), -ENOENT, "and has nothing to show");
  for (u64 i = 1; i <= 3; i++) rt_map_push(&map, &i, BPF_ANY);
  value = 4;
  equal(rt_map_push(&map, &value, BPF_ANY), -E2BIG, "full");
  equal(rt_map_push(&map, &value, BPF_EXIST), 0, "the oldest gives way");
  equal(rt_map_count(&map), 3, "three are in");
  std::string seen;
  cursor = 0;
  while (rt_map_iterate(&map, &cursor, nullptr, &value) == 0) seen += std::to_string(value);
  ok(seen == "234", "shown from the oldest to the newest");
  equal(rt_map_peek(&map, &value), 0, "peek");
  equal(value, 2, "is the oldest");
  equal(rt_map_count(&map), 3, "and stays");
  cursor = 0;
  rt_map_iterate(&map, &cursor, nullptr, &value);
  rt_map_pop(&map, &value);
  rt_map_pop(&map, &value);
  equal(rt_map_iterate(&map, &cursor, nullptr, &value), 0, "taken out while somebody looks");
  equal(value, 4, "he goes on with what is left");
  free_map(map);
  map = make_map(BPF_MAP_TYPE_STACK, 0, 4, 1);
  // Positions wrap around: a long life.
  reinterpret_cast<rt_queue_ctl*>(map.base)->range = 0xfffffffffffffffe;
  bool same = true;
  for (u32 i = 0; i < 8 && same; i++) {
    u32 back = 0;
    same = rt_map_push(&map, &i, BPF_EXIST) == 0 && rt_map_peek(&map, &back) == 0 && back == i;
  }
  ok(same, "positions wrap around");
  free_map(map);
}

struct Marked {  // a value that shows when it is torn
  u64 word[6];
  static Marked of(u64 seed) {
    Marked marked{};
    for (u64& word : marked.word) word = seed;
    return marked;
  }
  [[nodiscard]] bool is_whole() const {
    for (const u64 w : word) {
      if (w != word[0]) return false;
    }
    return true;
  }
};

static void test_queue_threads() {
  for (const u32 type : {BPF_MAP_TYPE_QUEUE, BPF_MAP_TYPE_STACK}) {
    vm_map map = make_map(type, 0, sizeof(Marked), 16);
    std::vector<std::thread> threads;
    u64 pushed[3] = {}, popped[3] = {}, torn[3] = {}, backwards[3] = {};
    for (u32 t = 0; t < 3; t++) {
      threads.emplace_back([&map, &pushed, &popped, &torn, &backwards, t, type] {
        std::mt19937 random(t);
        u64 last[3] = {};
        for (u64 i = 1; i <= 15000; i++) {
          Marked value = Marked::of(i << 2 | t);
          if (random() % 2 == 0) {
            pushed[t] += rt_map_push(&map, &value, BPF_ANY) == 0 ? 1 : 0;
          } else if (random() % 3 == 0) {
            if (rt_map_peek(&map, &value) == 0 && !value.is_whole()) torn[t]++;
          } else if (rt_map_pop(&map, &value) == 0) {
            popped[t]++;
            torn[t] += value.is_whole() ? 0 : 1;
            u64& before = last[value.word[0] & 3];
            if (type == BPF_MAP_TYPE_QUEUE && value.word[0] <= before) backwards[t]++;
            before = value.word[0];
          }
        }
      });
    }
    for (auto& thread : threads) thread.join();
    equal(torn[0] + torn[1] + torn[2], 0, "no value is torn");
    equal(backwards[0] + backwards[1] + backwards[2], 0, "a queue keeps the order of each writer");
    equal(pushed[0] + pushed[1] + pushed[2], popped[0] + popped[1] + popped[2] + rt_map_count(&map),
          "and nothing is lost or doubled");
    free_map(map);
  }
}

template <typename Churn, typename Check>
static void kill_writers(int rounds, const char* what, Churn churn, Check check) {
  std::mt19937 random(11);
  bool usable = true;
  for (int round = 0; round < rounds && usable; round++) {
    const pid_t pid = fork();
    if (pid == 0) {
      rt_env_init_hosted();
      std::mt19937 mine(round);
      for (;;) churn(mine);
    }
    timespec pause{0, static_cast<long>(50000 + random() % 400000)};
    nanosleep(&pause, nullptr);
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    usable = check();
  }
  ok(usable, what);
}

static void test_killed_queue_writers() {
  for (const u32 type : {BPF_MAP_TYPE_QUEUE, BPF_MAP_TYPE_STACK}) {
    vm_map map = make_map(type, 0, sizeof(Marked), 8);
    kill_writers(
        120, "120 killed writers: values are whole, the next push and pop succeed",
        [&map](std::mt19937& random) {
          Marked value = Marked::of(random());
          if (random() % 2 == 0) {
            rt_map_push(&map, &value, BPF_EXIST);
          } else {
            rt_map_pop(&map, &value);
          }
        },
        [&map] {
          bool usable = true;
          Marked value{};
          for (u32 left = rt_map_count(&map); left != 0; left--) {
            usable = usable && rt_map_peek(&map, &value) == 0 && value.is_whole();
            usable = usable && rt_map_pop(&map, &value) == 0 && value.is_whole();
          }
          value = Marked::of(1);
          return usable && rt_map_push(&map, &value, BPF_ANY) == 0;
        });
    free_map(map);
  }
}

static void test_bloom() {
  vm_map map = make_map(BPF_MAP_TYPE_BLOOM_FILTER, 0, 8, 1000);
  equal(map.elem_stride, 5, "five hashes if nobody says");
  const KernelMap kernel(map);
  u32 false_positives = 0, missed = 0, differs = 0;
  for (u64 value = 0; value < 1000; value++) {
    if (rt_map_push(&map, &value, BPF_ANY) != 0) missed++;
    if (kernel.fd >= 0 && kernel.run(BPF_MAP_UPDATE_ELEM, nullptr, &value) != 0) differs++;
  }
  for (u64 value = 0; value < 2000; value++) {
    const bool is_in = rt_map_peek(&map, &value) == 0;
    if (value < 1000 && !is_in) missed++;
    if (value >= 1000 && is_in) false_positives++;
    if (kernel.fd < 0 || value >= 1000) continue;
    if (kernel.run(BPF_MAP_LOOKUP_ELEM, nullptr, &value) != 0) differs++;
  }
  equal(missed, 0, "what was added is found");
  equal(differs, 0, "there as here");
  ok(false_positives < 60, "one of a thousand others in 16 at most is mistaken for one");
  std::printf("# %u of 1000 false positives\n", false_positives);
  u64 value = 1;
  equal(rt_map_push(&map, &value, BPF_EXIST), -EINVAL, "flags are refused");
  equal(rt_map_pop(&map, &value), -EOPNOTSUPP, "nothing can be taken out");
  free_map(map);
}

struct Route {
  u32 len;
  u8 data[4];
};
static u32 bits_of(const Route& route) {
  u32 bits;
  memcpy(&bits, route.data, 4);
  return __builtin_bswap32(bits) & (route.len == 0 ? 0 : ~0u << (32 - route.len));
}

static void test_lpm_beside_kernel() {
  vm_map map = make_map(BPF_MAP_TYPE_LPM_TRIE, 8, 4, 40, BPF_F_NO_PREALLOC);
  const KernelMap kernel(map);
  if (kernel.fd < 0) {
    std::printf("ok %d - beside the kernel # SKIP needs bpf(2)\n", ++tap::count);
    return;
  }
  std::mt19937 random(5);
  std::string difference;
  for (int i = 0; i < 60000 && difference.empty(); i++) {
    // Few different bits, so that prefixes cover each other.
    Route route{random() % 64 == 0 ? 33 : static_cast<u32>(random() % 33), {}};
    for (u8& byte : route.data) byte = random() % 8 == 0 ? 0x80 : random() % 2 == 0 ? 0x0a : 0x0b;
    u32 theirs = random(), ours = theirs;
    long kernel_ret = 0, ret = 0;
    const u32 what = random() % 4;
    if (what == 0) {
      const u64 flags = random() % 8 < 5 ? 0 : random() % 4;
      kernel_ret = kernel.run(BPF_MAP_UPDATE_ELEM, &route, &theirs, flags);
      ret = rt_map_write(&map, &route, &ours, flags);
    } else if (what == 1) {
      kernel_ret = kernel.run(BPF_MAP_DELETE_ELEM, &route, nullptr);
      ret = rt_map_delete(&map, &route);
    } else {
      kernel_ret = kernel.run(BPF_MAP_LOOKUP_ELEM, &route, &theirs);
      ret = rt_map_read(&map, &route, &ours);
    }
    if (ret != kernel_ret || theirs != ours) {
      difference = "operation " + std::to_string(i) + " (" + std::to_string(what) + ", /" +
                   std::to_string(route.len) + "): kernel " + std::to_string(kernel_ret) +
                   ", ours " + std::to_string(ret);
    }
  }
  if (!ok(difference.empty(), "60000 operations on prefixes, as in the kernel")) {
    std::printf("# %s\n", difference.c_str());
  }
  // Each prefix once, whatever the order.
  std::map<std::pair<u32, u32>, int> keys;
  Route at{};
  for (long ret = rt_map_next_key(&map, nullptr, &at); ret == 0;) {
    keys[{at.len, bits_of(at)}]++;
    const Route key = at;
    ret = rt_map_next_key(&map, &key, &at);
  }
  bpf_attr attr{};
  attr.map_fd = static_cast<u32>(kernel.fd);
  attr.next_key = reinterpret_cast<u64>(&at);
  Route key{};
  while (kernel_bpf(BPF_MAP_GET_NEXT_KEY, attr) == 0) {
    keys[{at.len, bits_of(at)}]--;
    key = at;
    attr.key = reinterpret_cast<u64>(&key);
  }
  bool same = !keys.empty();
  for (const auto& [prefix, count] : keys) same = same && count == 0;
  ok(same, "and the same prefixes are left");
  free_map(map);
}

static void test_lpm() {
  vm_map map{};
  map.type = BPF_MAP_TYPE_LPM_TRIE;
  map.value_size = map.max_entries = map.cpu_count = 1;
  const auto layout = [&map](u32 key_size, u32 flags) {
    map.key_size = key_size;
    map.map_flags = flags;
    return rt_map_layout(&map);
  };
  equal(layout(8, 0), -EINVAL, "without NO_PREALLOC, as in the kernel");
  equal(layout(4, BPF_F_NO_PREALLOC), -EINVAL, "a key without bits");
  equal(layout(261, BPF_F_NO_PREALLOC), -EINVAL, "a key of too many");
  equal(layout(260, BPF_F_NO_PREALLOC), 0, "the longest key");
  map = make_map(BPF_MAP_TYPE_LPM_TRIE, 260, 4, 8, BPF_F_NO_PREALLOC);
  struct {
    u32 len;
    u8 data[256];
  } key{2048, {}};
  u32 value = 1;
  memset(key.data, 0xff, 256);
  equal(rt_map_update(&map, &key, &value, BPF_ANY), 0, "a prefix of 2048 bits");
  key.len = 1;
  value = 2;
  equal(rt_map_update(&map, &key, &value, BPF_ANY), 0, "and one of 1");
  key.len = 2048;
  equal(*static_cast<u32*>(rt_map_lookup(&map, &key)), 1, "the longest is found");
  key.data[255] = 0xfe;
  equal(*static_cast<u32*>(rt_map_lookup(&map, &key)), 2, "or the one that covers it");
  key.data[0] = 0x7f;
  ok(rt_map_lookup(&map, &key) == nullptr, "or none");
  free_map(map);
}

// One thread puts a longer prefix in before it takes the shorter out, and the other way round: who
// looks always finds one of the two, and never what covers both.
static void test_lpm_threads() {
  vm_map map = make_map(BPF_MAP_TYPE_LPM_TRIE, 8, 4, 16, BPF_F_NO_PREALLOC);
  const Route all{0, {}}, wide{16, {10, 1, 0, 0}}, narrow{24, {10, 1, 1, 0}};
  const Route asked{32, {10, 1, 1, 1}};
  u32 value = 0;
  rt_map_update(&map, &all, &value, BPF_ANY);
  value = 16;
  rt_map_update(&map, &wide, &value, BPF_ANY);
  bool is_over = false;
  u64 looked = 0;
  std::thread writer([&] {
    for (int i = 0; i < 20000 || __atomic_load_n(&looked, __ATOMIC_RELAXED) < 200000; i++) {
      u32 mine = 24;
      rt_map_update(&map, &narrow, &mine, BPF_ANY);
      rt_map_delete(&map, &wide);
      mine = 16;
      rt_map_update(&map, &wide, &mine, BPF_ANY);
      rt_map_delete(&map, &narrow);
    }
    __atomic_store_n(&is_over, true, __ATOMIC_RELEASE);
  });
  u64 fell_through = 0;
  while (!__atomic_load_n(&is_over, __ATOMIC_ACQUIRE)) {
    const auto* found = static_cast<u32*>(rt_map_lookup(&map, &asked));
    __atomic_fetch_add(&looked, 1, __ATOMIC_RELAXED);
    // Its element may be used again for another prefix by now; none of value 0 is ever put in.
    if (found == nullptr || __atomic_load_n(found, __ATOMIC_RELAXED) == 0) fell_through++;
  }
  writer.join();
  equal(fell_through, 0, "a reader never falls between two prefixes that replace each other");
  std::printf("# %llu lookups\n", static_cast<unsigned long long>(looked));
  free_map(map);
}

static void test_killed_lpm_writers() {
  vm_map map = make_map(BPF_MAP_TYPE_LPM_TRIE, 8, 4, 64, BPF_F_NO_PREALLOC);
  const auto route = [](std::mt19937& random) {
    Route r{8 + static_cast<u32>(random() % 25), {}};
    for (u8& byte : r.data) byte = random() % 2;
    return r;
  };
  std::mt19937 random(3);
  kill_writers(
      120, "120 killed writers of prefixes: the next update is found",
      [&](std::mt19937& mine) {
        const Route r = route(mine);
        const u32 value = mine();
        if (mine() % 2 == 0) {
          rt_map_update(&map, &r, &value, BPF_ANY);
        } else {
          rt_map_delete(&map, &r);
        }
      },
      [&] {
        const Route r = route(random);
        const u32 value = 77;
        rt_map_delete(&map, &r);
        const long ret = rt_map_update(&map, &r, &value, BPF_ANY);
        if (ret == -ENOSPC) return true;  // they left it full
        const auto* found = static_cast<u32*>(rt_map_lookup(&map, &r));
        return ret == 0 && found != nullptr && *found == value;
      });
  free_map(map);
}

static void test_stacks() {
  vm_map map = make_map(BPF_MAP_TYPE_STACK_TRACE, 4, 4 * 8, 3);
  const u64 first[4] = {0x401000, 0x402000, 0x403000, 0}, second[2] = {0x501000, 0x502000};
  const long id = rt_stacks_put(&map, first, 3, 0);
  ok(id >= 0 && id < 4, "a stack gets an id below the next power of two");
  equal(rt_stacks_put(&map, first, 3, 0), id, "and the same again");
  ok(rt_stacks_put(&map, first, 2, 0) != id || map.bucket_count == 1, "a shorter one is another");
  rt_map_delete(&map, &id);
  u64 back[4] = {9, 9, 9, 9};
  equal(rt_map_read(&map, &id, back), -ENOENT, "deleted");
  rt_stacks_put(&map, first, 3, 0);
  equal(rt_map_read(&map, &id, back), 0, "read");
  ok(memcmp(back, first, sizeof back) == 0, "addresses, then zeroes");
  equal(rt_map_update(&map, &id, back, BPF_ANY), -EINVAL, "nobody writes one");
  const u32 far = 4;
  equal(rt_map_read(&map, &far, back), -ENOENT, "no such id");
  equal(rt_map_delete(&map, &far), -E2BIG, "nor to be deleted");
  // In a map of one bucket every stack meets every other.
  vm_map one = make_map(BPF_MAP_TYPE_STACK_TRACE, 4, 4 * 8, 1);
  equal(rt_stacks_put(&one, first, 3, 0), 0, "the only bucket");
  equal(rt_stacks_put(&one, second, 2, 0), -EEXIST, "has another stack");
  equal(rt_stacks_put(&one, second, 2, RT_STACK_REUSE), 0, "which gives way if that is asked for");
  u32 key = 0;
  rt_map_read(&one, &key, back);
  ok(back[0] == second[0] && back[2] == 0, "and is replaced");
  // A writer that died in the middle: its thread id is nobody's.
  auto* bucket = reinterpret_cast<rt_stack_bucket*>(one.base);
  bucket->word = 0x1234ull << 32 | 0x3fffff;
  equal(rt_map_read(&one, &key, back), -ENOENT, "what a dead writer left is not shown");
  equal(rt_map_next_key(&one, nullptr, &key), -ENOENT, "nor listed");
  equal(rt_stacks_put(&one, first, 3, 0), 0, "and its bucket is taken over");
  bucket->word = 0x1234ull << 32 | static_cast<u32>(gettid());
  equal(rt_stacks_put(&one, first, 3, RT_STACK_REUSE), -EEXIST, "a living one's is not");
  equal(rt_map_delete(&one, &key), -EBUSY, "nor is it deleted under its hands");
  free_map(one);
  free_map(map);
}

static void test_stacks_threads() {
  vm_map map = make_map(BPF_MAP_TYPE_STACK_TRACE, 4, 16 * 8, 64);
  bool is_over = false;
  u64 torn = 0, shown = 0;
  std::vector<std::thread> writers;
  for (u64 t = 0; t < 3; t++) {
    writers.emplace_back([&map, &shown, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 15000 || __atomic_load_n(&shown, __ATOMIC_RELAXED) < 20000; i++) {
        u64 ips[16];
        const u64 seed = random() % 500 + 1;
        for (u64& ip : ips) ip = seed << 12;
        rt_stacks_put(&map, ips, 16, RT_STACK_REUSE);
      }
    });
  }
  std::thread reader([&] {
    while (!__atomic_load_n(&is_over, __ATOMIC_ACQUIRE)) {
      u64 cursor = 0, value[16];
      u32 id = 0;
      while (rt_map_iterate(&map, &cursor, &id, value) == 0) {
        __atomic_fetch_add(&shown, 1, __ATOMIC_RELAXED);
        for (const u64 ip : value) torn += ip != value[0] ? 1 : 0;
        if (shown % 16 == 0) rt_map_delete(&map, &id);
      }
    }
  });
  for (auto& writer : writers) writer.join();
  __atomic_store_n(&is_over, true, __ATOMIC_RELEASE);
  reader.join();
  equal(torn, 0, "no stack is a mixture of two");
  std::printf("# %llu stacks read\n", static_cast<unsigned long long>(shown));
  free_map(map);
}

static void test_corrupt_storage() {
  std::mt19937 random(3);
  for (const u32 type : {BPF_MAP_TYPE_QUEUE, BPF_MAP_TYPE_STACK, BPF_MAP_TYPE_BLOOM_FILTER,
                         BPF_MAP_TYPE_LPM_TRIE, BPF_MAP_TYPE_STACK_TRACE}) {
    const bool is_lpm = type == BPF_MAP_TYPE_LPM_TRIE;
    const bool is_stacks = type == BPF_MAP_TYPE_STACK_TRACE;
    vm_map map = make_map(type,
                          is_lpm      ? 8
                          : is_stacks ? 4
                                      : 0,
                          8, 20, is_lpm ? BPF_F_NO_PREALLOC : 0);
    auto* words = reinterpret_cast<u32*>(map.base);
    for (int round = 0; round < 200; round++) {
      for (u64 i = 0; i < map.storage_bytes / 4; i++) {
        words[i] = random() % 3 == 0 ? random() % 70 : random() % 5 == 0 ? random() : words[i];
      }
      // Locks that living threads hold would only make this slow.
      reinterpret_cast<rt_queue_ctl*>(map.base)->owner = 0;
      auto* buckets = reinterpret_cast<rt_bucket*>(map.base + map.bucket_off);
      for (u32 i = 0; is_lpm && i < map.bucket_count; i++) buckets[i].owner = 0;
      for (int i = 0; i < 100; i++) {
        Route key{static_cast<u32>(random() % 33), {static_cast<u8>(random())}};
        Route next;
        u64 value = random(), cursor = random();
        if (is_stacks) rt_stacks_put(&map, &value, 1, RT_STACK_REUSE);
        rt_map_push(&map, &value, BPF_EXIST);
        rt_map_pop(&map, &value);
        rt_map_peek(&map, &value);
        rt_map_update(&map, &key, &value, BPF_ANY);
        rt_map_lookup(&map, &key);
        rt_map_iterate(&map, &cursor, &next, &value);
        rt_map_next_key(&map, &key, &next);
        rt_map_delete(&map, &key);
      }
    }
    free_map(map);
  }
  ok(true, "scribbled storage harms nobody else");
}

int main() {
  rt_env_init_hosted();
  test_queue();
  test_queue_beside_kernel(BPF_MAP_TYPE_QUEUE);
  test_queue_beside_kernel(BPF_MAP_TYPE_STACK);
  test_queue_threads();
  test_killed_queue_writers();
  test_bloom();
  test_lpm();
  test_lpm_beside_kernel();
  test_lpm_threads();
  test_killed_lpm_writers();
  test_stacks();
  test_stacks_threads();
  test_corrupt_storage();
  return tap::done();
}
