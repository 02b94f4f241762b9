// SPDX-License-Identifier: MIT
// The mounts of this process by number: how the addon and find_stream() reach a server.
#pragma once

#include <memory>

#include "server.h"

namespace bpftime::fuse {

/// Numbers a server; the registry keeps it alive until it is dropped.
int register_mount(std::shared_ptr<Server> server);
/// Null when there is no such mount.
std::shared_ptr<Server> find_mount(int mount);
void drop_mount(int mount);
/// Server::let_out of whichever server the thread waits for.
bool let_out(int tid);

}  // namespace bpftime::fuse
