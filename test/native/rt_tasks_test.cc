// SPDX-License-Identifier: MIT
// Task storage: a value of each thread's own, that goes with its thread.
#include <linux/bpf.h>
#include <semaphore.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <thread>
#include <vector>

#include "rt_storage.h"
#include "tap.h"
#include "vm/rt/helpers.h"
#include "vm/rt/tasks.h"

using tap::equal;
using tap::ok;

namespace {

constexpr u32 kType = BPF_MAP_TYPE_TASK_STORAGE;

struct Value {
  u64 calls, since;
};

Value* get(const vm_map& map, u64 flags = 0, const Value* initial = nullptr) {
  return static_cast<Value*>(rt_task_get(&map, initial, flags));
}

std::multiset<u32> tids(const vm_map& map) {
  std::multiset<u32> found;
  u64 cursor = 0;
  u32 tid = 0;
  Value value{};
  while (rt_map_iterate(&map, &cursor, &tid, &value) == 0) found.insert(tid);
  return found;
}

void test_layout() {
  vm_map map{};
  map.type = kType;
  map.key_size = 4;
  map.value_size = 16;
  map.cpu_count = 1;
  equal(rt_map_layout(&map), -EINVAL, "without BPF_F_NO_PREALLOC it is refused, as in the kernel");
  map.map_flags = BPF_F_NO_PREALLOC;
  map.key_size = 8;
  equal(rt_map_layout(&map), -EINVAL, "keys are ints");
}

void test_one_thread() {
  vm_map map = make_map(kType, 4, sizeof(Value), 0, BPF_F_NO_PREALLOC);
  ok(get(map) == nullptr, "nothing is there unasked");
  Value* mine = get(map, RT_TASK_CREATE);
  ok(mine != nullptr && mine->calls == 0 && mine->since == 0, "a value begins with zeroes");
  mine->calls = 7;
  const Value initial{1, 2};
  ok(get(map, RT_TASK_CREATE, &initial) == mine && mine->calls == 7, "and is not made twice");
  ok(get(map) == mine, "it stays where it is");
  ok(get(map, 2) == nullptr, "unknown flags give nothing");
  equal(static_cast<long long>(tids(map).count(static_cast<u32>(gettid()))), 1,
        "its key is the thread's id");
  equal(rt_map_count(&map), 1, "it is counted");
  equal(rt_task_delete(&map), 0, "it can be deleted");
  equal(rt_task_delete(&map), -ENOENT, "once");
  mine = get(map, RT_TASK_CREATE, &initial);
  ok(mine != nullptr && mine->calls == 1 && mine->since == 2, "a value can begin with another");
  const auto tid = static_cast<u32>(gettid());
  equal(rt_map_delete(&map, &tid), 0, "the daemon deletes by thread id");
  ok(get(map) == nullptr, "then it is gone");
  u64 value[2] = {};
  equal(rt_map_write(&map, &tid, value, 0), -EOPNOTSUPP, "and writes none");
  free_map(map);
}

void test_threads() {
  vm_map map = make_map(kType, 4, sizeof(Value), 0, BPF_F_NO_PREALLOC);
  constexpr int kThreads = 8, kCalls = 20000;
  std::vector<std::thread> threads;
  std::set<Value*> places;
  std::vector<long> wrong(kThreads);
  sem_t done, leave;
  sem_init(&done, 0, 0);
  sem_init(&leave, 0, 0);
  std::vector<Value*> seen(kThreads);
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (int call = 0; call < kCalls; ++call) {
        Value* mine = get(map, RT_TASK_CREATE);
        if (mine == nullptr || mine->calls != static_cast<u64>(call)) ++wrong[i];
        if (mine != nullptr) ++mine->calls;
        seen[i] = mine;
      }
      sem_post(&done);
      sem_wait(&leave);
    });
  }
  for (int i = 0; i < kThreads; ++i) sem_wait(&done);
  long all_wrong = 0;
  for (const long one : wrong) all_wrong += one;
  equal(all_wrong, 0, "each thread finds its own value, and only that");
  places.insert(seen.begin(), seen.end());
  equal(static_cast<long long>(places.size()), kThreads, "each has a place of its own");
  rt_tasks_sweep(&map);
  equal(rt_map_count(&map), kThreads, "what lives is left alone");
  for (int i = 0; i < kThreads; ++i) sem_post(&leave);
  for (std::thread& thread : threads) thread.join();
  // A thread is joined a moment before its id is free.
  for (int i = 0; i < 1000 && rt_map_count(&map) != 0; ++i) {
    usleep(1000);
    rt_tasks_sweep(&map);
  }
  equal(rt_map_count(&map), 0, "what ended is deleted before somebody looks");
  free_map(map);
}

// Nobody looks, and the number of threads that ever were is above what there is room for.
void test_churn() {
  vm_map map = make_map(kType, 4, sizeof(Value), 0, BPF_F_NO_PREALLOC);
  long stale = 0;
  u32 most = 0;
  for (int i = 0; i < 2000; ++i) {
    std::thread([&] {
      Value* mine = get(map, RT_TASK_CREATE);
      if (mine == nullptr || mine->calls != 0) ++stale;
      if (mine != nullptr) mine->calls = 1;
    }).join();
    most = std::max(most, rt_map_count(&map));
  }
  equal(stale, 0, "a new thread finds zeroes where another one's value was");
  ok(most <= 64, "threads that come make room for others");
  free_map(map);
}

void test_processes() {
  vm_map map = make_map(kType, 4, sizeof(Value), 0, BPF_F_NO_PREALLOC);
  get(map, RT_TASK_CREATE)->calls = 5;
  const pid_t child = fork();
  if (child == 0) {
    rt_env_init_hosted();
    Value* mine = get(map, RT_TASK_CREATE);
    _exit(mine != nullptr && mine->calls == 0 ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  equal(status, 0, "a child of fork has a value of its own");
  ok(get(map)->calls == 5, "beside its parent's");
  free_map(map);
}

}  // namespace

int main() {
  rt_env_init_hosted();
  test_layout();
  test_one_thread();
  test_threads();
  test_churn();
  test_processes();
  return tap::done();
}
