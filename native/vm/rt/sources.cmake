# The freestanding runtime: compiled into the agent blob and into the hosted static library from
# the same files with the same flags. Include this file and use the two variables.
set(BPFTIME_RT_SOURCES
  ${CMAKE_CURRENT_LIST_DIR}/env.c
  ${CMAKE_CURRENT_LIST_DIR}/guard.c
  ${CMAKE_CURRENT_LIST_DIR}/map.c
  ${CMAKE_CURRENT_LIST_DIR}/mask.c
  ${CMAKE_CURRENT_LIST_DIR}/hash.c
  ${CMAKE_CURRENT_LIST_DIR}/lpm.c
  ${CMAKE_CURRENT_LIST_DIR}/queue.c
  ${CMAKE_CURRENT_LIST_DIR}/bloom.c
  ${CMAKE_CURRENT_LIST_DIR}/stacks.c
  ${CMAKE_CURRENT_LIST_DIR}/tasks.c
  ${CMAKE_CURRENT_LIST_DIR}/unwind.c
  ${CMAKE_CURRENT_LIST_DIR}/ring.c
  ${CMAKE_CURRENT_LIST_DIR}/format.c
  ${CMAKE_CURRENT_LIST_DIR}/number.c
  ${CMAKE_CURRENT_LIST_DIR}/helpers.c
  ${CMAKE_CURRENT_LIST_DIR}/mem.c
  ${CMAKE_CURRENT_LIST_DIR}/builtins.c)
set(BPFTIME_RT_FLAGS
  -std=gnu11 -O2 -ffreestanding -fno-builtin -mgeneral-regs-only -fno-stack-protector -fPIC
  -fvisibility=hidden -fno-jump-tables -fcf-protection=none -fno-strict-aliasing
  -fno-tree-loop-distribute-patterns -Wall -Wextra -Werror)
