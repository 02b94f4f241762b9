/* SPDX-License-Identifier: MIT */
/* Every helper a program may call: X(BPF_FUNC_* id, name, C function). The agent turns this list
 * into a table of offsets, the hosted side into a table of pointers (table.c). All functions are
 * u64 f(u64 r1, u64 r2, u64 r3, u64 r4, u64 r5); map arguments are `const struct vm_map*` of this
 * process, contexts are `struct probe_frame*`. Ids and meaning: man 7 bpf-helpers. */
#ifndef BPFTIME_RT_HELPER_LIST_H
#define BPFTIME_RT_HELPER_LIST_H

#define RT_HELPERS(X)                                       \
  X(1, map_lookup_elem, rt_help_map_lookup)                 \
  X(2, map_update_elem, rt_help_map_update)                 \
  X(3, map_delete_elem, rt_help_map_delete)                 \
  X(4, probe_read, rt_help_probe_read)                      \
  X(5, ktime_get_ns, rt_help_ktime)                         \
  X(6, trace_printk, rt_help_trace_printk)                  \
  X(7, get_prandom_u32, rt_help_prandom)                    \
  X(8, get_smp_processor_id, rt_help_cpu)                   \
  X(14, get_current_pid_tgid, rt_help_pid_tgid)             \
  X(15, get_current_uid_gid, rt_help_uid_gid)               \
  X(16, get_current_comm, rt_help_comm)                     \
  X(25, perf_event_output, rt_help_perf_output)             \
  X(27, get_stackid, rt_help_get_stackid)                   \
  X(36, probe_write_user, rt_help_probe_write)              \
  X(42, get_numa_node_id, rt_help_numa_node)                \
  X(45, probe_read_str, rt_help_probe_read_str)             \
  X(58, override_return, rt_help_override_return)           \
  X(67, get_stack, rt_help_get_stack)                       \
  X(87, map_push_elem, rt_help_map_push)                    \
  X(88, map_pop_elem, rt_help_map_pop)                      \
  X(89, map_peek_elem, rt_help_map_peek)                    \
  X(105, strtol, rt_help_strtol)                            \
  X(106, strtoul, rt_help_strtoul)                          \
  X(112, probe_read_user, rt_help_probe_read)               \
  X(113, probe_read_kernel, rt_help_probe_read)             \
  X(114, probe_read_user_str, rt_help_probe_read_str)       \
  X(115, probe_read_kernel_str, rt_help_probe_read_str)     \
  X(118, jiffies64, rt_help_jiffies)                        \
  X(125, ktime_get_boot_ns, rt_help_ktime_boot)             \
  X(130, ringbuf_output, rt_help_ring_output)               \
  X(131, ringbuf_reserve, rt_help_ring_reserve)             \
  X(132, ringbuf_submit, rt_help_ring_submit)               \
  X(133, ringbuf_discard, rt_help_ring_discard)             \
  X(134, ringbuf_query, rt_help_ring_query)                 \
  X(148, copy_from_user, rt_help_probe_read)                \
  X(156, task_storage_get, rt_help_task_get)                \
  X(157, task_storage_delete, rt_help_task_delete)          \
  X(158, get_current_task_btf, rt_help_task)                \
  X(160, ktime_get_coarse_ns, rt_help_ktime_coarse)         \
  X(164, for_each_map_elem, rt_help_for_each)               \
  X(165, snprintf, rt_help_snprintf)                        \
  X(173, get_func_ip, rt_help_func_ip)                      \
  X(174, get_attach_cookie, rt_help_cookie)                 \
  X(177, trace_vprintk, rt_help_trace_vprintk)              \
  X(181, loop, rt_help_loop)                                \
  X(182, strncmp, rt_help_strncmp)                          \
  X(195, map_lookup_percpu_elem, rt_help_map_lookup_percpu) \
  X(208, ktime_get_tai_ns, rt_help_ktime_tai)

#endif
