// SPDX-License-Identifier: MIT
#include "contracts.h"

#include <linux/bpf.h>

#include <algorithm>
#include <iterator>

namespace bpftime::verify {
namespace {

using enum Arg;

constexpr uint64_t bit(uint32_t map_type) { return uint64_t{1} << map_type; }
constexpr uint64_t kHashes = bit(BPF_MAP_TYPE_HASH) | bit(BPF_MAP_TYPE_PERCPU_HASH) |
                             bit(BPF_MAP_TYPE_LRU_HASH) | bit(BPF_MAP_TYPE_LRU_PERCPU_HASH);
constexpr uint64_t kArrays = bit(BPF_MAP_TYPE_ARRAY) | bit(BPF_MAP_TYPE_PERCPU_ARRAY);
constexpr uint64_t kTables = kHashes | kArrays | bit(BPF_MAP_TYPE_LPM_TRIE);
constexpr uint64_t kNested = bit(BPF_MAP_TYPE_ARRAY_OF_MAPS) | bit(BPF_MAP_TYPE_HASH_OF_MAPS);
constexpr uint64_t kPerCpu = bit(BPF_MAP_TYPE_PERCPU_HASH) | bit(BPF_MAP_TYPE_PERCPU_ARRAY) |
                             bit(BPF_MAP_TYPE_LRU_PERCPU_HASH);
constexpr uint64_t kQueues = bit(BPF_MAP_TYPE_QUEUE) | bit(BPF_MAP_TYPE_STACK);
constexpr uint64_t kPushed = kQueues | bit(BPF_MAP_TYPE_BLOOM_FILTER);
constexpr uint64_t kRing = bit(BPF_MAP_TYPE_RINGBUF);
constexpr uint64_t kTasks = bit(BPF_MAP_TYPE_TASK_STORAGE);
constexpr uint64_t kPerf = bit(BPF_MAP_TYPE_PERF_EVENT_ARRAY);

constexpr auto kNumber = Gives::kNumber;

// By id.
constexpr Contract kContracts[] = {
    {1, "map_lookup_elem", {kMap, kKey}, Gives::kValueOrNull, kTables | kNested},
    {2,
     "map_update_elem",
     {kMap, kKey, kValue, kAny},
     kNumber,
     kTables,
     false,
     Calls::kNever,
     true},
    {3, "map_delete_elem", {kMap, kKey}, kNumber, kTables, false, Calls::kNever, true},
    {4, "probe_read", {kWrite, kSizeOrZero, kAny}},
    {5, "ktime_get_ns"},
    {6, "trace_printk", {kRead, kSize, kMaybe, kMaybe, kMaybe}},
    {7, "get_prandom_u32"},
    {8, "get_smp_processor_id", {}, Gives::kCpu},
    {12, "tail_call", {kCtx, kMap, kIndex}, kNumber, bit(BPF_MAP_TYPE_PROG_ARRAY)},
    {14, "get_current_pid_tgid"},
    {15, "get_current_uid_gid"},
    {16, "get_current_comm", {kWrite, kSize}},
    {25, "perf_event_output", {kCtx, kMap, kAny, kRead, kWideSizeOrZero}, kNumber, kPerf},
    {27, "get_stackid", {kCtx, kMap, kAny}, kNumber, bit(BPF_MAP_TYPE_STACK_TRACE), true},
    {35, "get_current_task"},
    {36, "probe_write_user", {kAny, kRead, kSize}},
    {42, "get_numa_node_id"},
    {45, "probe_read_str", {kWrite, kSizeOrZero, kAny}, Gives::kLength},
    {58, "override_return", {kCtx, kAny}, kNumber, 0, true},
    {67, "get_stack", {kCtx, kWrite, kSizeOrZero, kAny}, Gives::kLength, 0, true},
    {80, "get_current_cgroup_id"},
    {87, "map_push_elem", {kMap, kValue, kAny}, kNumber, kPushed, false, Calls::kNever, true},
    {88, "map_pop_elem", {kMap, kValueOut}, kNumber, kQueues, false, Calls::kNever, true},
    {89, "map_peek_elem", {kMap, kValueOut}, kNumber, kPushed},  // of a bloom filter: kValue
    {105, "strtol", {kRead, kSize, kAny, kNumberOut}},
    {106, "strtoul", {kRead, kSize, kAny, kNumberOut}},
    {112, "probe_read_user", {kWrite, kSizeOrZero, kAny}},
    {113, "probe_read_kernel", {kWrite, kSizeOrZero, kAny}},
    {114, "probe_read_user_str", {kWrite, kSizeOrZero, kAny}, Gives::kLength},
    {115, "probe_read_kernel_str", {kWrite, kSizeOrZero, kAny}, Gives::kLength},
    {118, "jiffies64"},
    {125, "ktime_get_boot_ns"},
    {130, "ringbuf_output", {kMap, kRead, kWideSizeOrZero, kAny}, kNumber, kRing},
    {131, "ringbuf_reserve", {kMap, kRecordBytes, kAny}, Gives::kRecordOrNull, kRing},
    {132, "ringbuf_submit", {kRecord, kAny}, Gives::kNothing},
    {133, "ringbuf_discard", {kRecord, kAny}, Gives::kNothing},
    {134, "ringbuf_query", {kMap, kAny}, kNumber, kRing},
    {148, "copy_from_user", {kWrite, kSizeOrZero, kAny}},
    {156, "task_storage_get", {kMap, kTask, kValueOrNull, kAny}, Gives::kValueOrNull, kTasks},
    {157, "task_storage_delete", {kMap, kTask}, kNumber, kTasks},
    {158, "get_current_task_btf", {}, Gives::kTask},
    {160, "ktime_get_coarse_ns"},
    {164,
     "for_each_map_elem",
     {kMap, kFunction, kFunctionData, kAny},
     kNumber,
     kHashes | kArrays,
     false,
     Calls::kEachEntry},
    {165, "snprintf", {kWriteOrNull, kSizeOrZero, kText, kReadOrNull, kSizeOrZero}},
    {173, "get_func_ip", {kCtx}, kNumber, 0, true},
    {174, "get_attach_cookie", {kCtx}, kNumber, 0, true},
    {177, "trace_vprintk", {kRead, kSize, kReadOrNull, kSizeOrZero}},
    {181, "loop", {kAny, kFunction, kFunctionData, kAny}, kNumber, 0, false, Calls::kLoop},
    {182, "strncmp", {kRead, kSize, kText}},
    {186, "get_retval", {kCtx}, kNumber, 0, true},
    {195, "map_lookup_percpu_elem", {kMap, kKey, kAny}, Gives::kValueOrNull, kPerCpu},
    {208, "ktime_get_tai_ns"},
};

}  // namespace

const Contract* contract_of(uint32_t helper_id) {
  const auto* const found =
      std::lower_bound(std::begin(kContracts), std::end(kContracts), helper_id,
                       [](const Contract& row, uint32_t id) { return row.id < id; });
  return found != std::end(kContracts) && found->id == helper_id ? found : nullptr;
}

}  // namespace bpftime::verify
