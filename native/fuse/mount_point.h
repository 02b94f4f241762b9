// SPDX-License-Identifier: MIT
// Mounting and unmounting: mount(2) for root, fusermount3 for everybody else.
#pragma once

#include <string>

#include "../base/result.h"
#include "../base/scoped_fd.h"

namespace bpftime::fuse {

/// Returns the /dev/fuse descriptor of a fresh mount. A dead mount of ours on the same place (its
/// daemon was killed) is detached first.
/// Fails with ENOENT or ENOTDIR (mount point), EBUSY (mounted already), EPERM, ENODEV (no FUSE).
Result<ScopedFd> mount_fuse(const std::string& mountpoint, bool allow_other);

/// Detaches the mount and aborts what still waits in it. Succeeds when it is gone already.
Result<void> unmount_fuse(const std::string& mountpoint);

/// True when a mount of type fuse.bpftimefs lies on top of `mountpoint`.
bool is_our_mount(const std::string& mountpoint);

}  // namespace bpftime::fuse
