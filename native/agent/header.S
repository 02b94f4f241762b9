/* SPDX-License-Identifier: MIT */
/* struct agent_header (native/abi/agent.h) at the blob's first byte: offsets instead of pointers,
 * so that nothing needs relocating. */
#include "../vm/rt/helper_list.h"

  .section .header, "a"
  .globl agent_start
agent_start:
  .quad 0x656d69746670625f /* AGENT_MAGIC */
  .long 6                  /* AGENT_V6 */
  .long agent_data_start - agent_start
  .long agent_data_bytes
  .long rt_env - agent_start
  .long agent_state - agent_start
  .long agent_map_batch - agent_start
  .long agent_push_return - agent_start
  .long agent_pop_return - agent_start
  .long agent_restore_returns - agent_start
  .long agent_ret_stub - agent_start
  .long agent_sigaction - agent_start
  .long agent_guard_install - agent_start
  .long agent_guard_remove - agent_start
  .long rt_pid_page - agent_start
  .long agent_loader_event - agent_start
  .long agent_go_resume - agent_start
  .long agent_mask_site - agent_start
  .long agent_clone_site - agent_start
  .long agent_any_site - agent_start
  .long agent_masks_take - agent_start
  .long agent_masks_withdraw - agent_start
helpers:
#define X(id, name, fn) .org helpers + 4 * id; .long fn - agent_start;
  RT_HELPERS(X)
  .org helpers + 4 * 256
  .section .note.GNU-stack, "", @progbits
