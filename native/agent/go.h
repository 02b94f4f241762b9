/* SPDX-License-Identifier: MIT */
/* Between the agent's halves: program counters of displaced Go code. */
#ifndef BPFTIME_AGENT_GO_H
#define BPFTIME_AGENT_GO_H

#include "../abi/agent.h"

u64 agent_go_fault(u64 pc);

#endif
