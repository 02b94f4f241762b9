/* SPDX-License-Identifier: MIT */
/* The flattened agent as read-only bytes of the daemon. */
  .section .rodata
  .balign 16
  .globl bpftime_agent_blob
  .hidden bpftime_agent_blob
bpftime_agent_blob:
  .incbin "agent.bin"
  .globl bpftime_agent_blob_end
  .hidden bpftime_agent_blob_end
bpftime_agent_blob_end:
  .section .note.GNU-stack, "", @progbits
