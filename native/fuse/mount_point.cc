// SPDX-License-Identifier: MIT
#include "mount_point.h"

#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <fstream>
#include <vector>

namespace bpftime::fuse {
namespace {

constexpr const char* kType = "fuse.bpftimefs";
constexpr const char* kSource = "bpftimefs";
constexpr int kHelperFd = 9;  // the number that fusermount3 finds in _FUSE_COMMFD

// mountinfo writes blanks, tabs, newlines and backslashes of paths as octal escapes.
std::string unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      out.push_back(static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 +
                                      (text[i + 3] - '0')));
      i += 3;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

Result<int> run_fusermount(std::vector<const char*> args, int socket) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (socket >= 0) posix_spawn_file_actions_adddup2(&actions, socket, kHelperFd);
  // An environment of our own: fusermount3 is setuid, and `environ` of an addon that was opened
  // with RTLD_DEEPBIND is not the program's.
  std::string path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
  std::string variable = "_FUSE_COMMFD=" + std::to_string(kHelperFd);
  char* env[] = {path.data(), variable.data(), nullptr};
  std::vector<char*> argv;
  for (const char* arg : args) argv.push_back(const_cast<char*>(arg));
  argv.push_back(nullptr);
  pid_t pid = 0;
  const int failed = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), env);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) return fail(failed, "fusermount3 cannot be run (apt-get install fuse3)");
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

Result<ScopedFd> receive_fd(int socket) {
  char byte = 0;
  iovec data = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) <= 0) {
    return fail(EPERM, "fusermount3 refused (is /dev/fuse open to you, is the mount point yours?)");
  }
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS) {
    return fail(EPROTO, "fusermount3 sent no descriptor");
  }
  int fd = -1;
  memcpy(&fd, CMSG_DATA(header), sizeof(fd));
  return ScopedFd(fd);
}

Result<ScopedFd> mount_with_helper(const std::string& mountpoint, bool allow_other) {
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
    return fail(errno, "socketpair");
  }
  const ScopedFd ours(sockets[0]);
  ScopedFd theirs(sockets[1]);
  std::string options = "fsname=bpftimefs,subtype=bpftimefs,nosuid,nodev,noexec";
  if (allow_other) options += ",allow_other";
  Result<int> exit = run_fusermount(
      {"fusermount3", "-o", options.c_str(), "--", mountpoint.c_str()}, theirs.get());
  theirs.reset();
  if (!exit) return exit.error();
  return receive_fd(ours.get());
}

Result<ScopedFd> mount_as_root(const std::string& mountpoint, bool allow_other) {
  ScopedFd fd(open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (!fd.valid()) return fail(errno, "/dev/fuse cannot be opened (modprobe fuse)");
  char options[128];
  snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=%u,group_id=%u%s", fd.get(),
           getuid(), getgid(), allow_other ? ",allow_other" : "");
  if (mount(kSource, mountpoint.c_str(), kType, MS_NOSUID | MS_NODEV | MS_NOEXEC, options) != 0) {
    return fail(errno, "mount(2)");
  }
  return fd;
}

}  // namespace

bool is_our_mount(const std::string& mountpoint) {
  std::ifstream file("/proc/self/mountinfo");
  std::string line;
  bool ours = false;
  while (std::getline(file, line)) {  // the last line for a place is the mount on top
    size_t at = 0;
    for (int skip = 0; skip < 4; ++skip) at = line.find(' ', at) + 1;
    if (unescape(line.substr(at, line.find(' ', at) - at)) != mountpoint) continue;
    ours = line.find(std::string(" - ") + kType + " ") != std::string::npos;
  }
  return ours;
}

Result<ScopedFd> mount_fuse(const std::string& mountpoint, bool allow_other) {
  struct stat st;
  if (stat(mountpoint.c_str(), &st) != 0) {
    if (errno != ENOTCONN || !is_our_mount(mountpoint)) {
      return fail(errno, "the mount point cannot be used (mkdir it)");
    }
    if (const Result<void> gone = unmount_fuse(mountpoint); !gone) return gone.error();
    if (stat(mountpoint.c_str(), &st) != 0) return fail(errno, "the mount point cannot be used");
  } else if (is_our_mount(mountpoint)) {
    return fail(EBUSY, "a bpftimefs is mounted there already (umount it first)");
  }
  if (!S_ISDIR(st.st_mode)) return fail(ENOTDIR, "the mount point is not a directory");
  if (geteuid() == 0) return mount_as_root(mountpoint, allow_other);
  return mount_with_helper(mountpoint, allow_other);
}

Result<void> unmount_fuse(const std::string& mountpoint) {
  if (geteuid() == 0) {
    // FORCE aborts the connection, so that nobody waits for an answer that will not come.
    if (umount2(mountpoint.c_str(), MNT_FORCE | MNT_DETACH) == 0 || errno == EINVAL) return {};
    return fail(errno, "umount2(2)");
  }
  Result<int> exit =
      run_fusermount({"fusermount3", "-u", "-q", "-z", "--", mountpoint.c_str()}, -1);
  if (!exit) return exit.error();
  if (*exit != 0 && is_our_mount(mountpoint)) return fail(EPERM, "fusermount3 -u");
  return {};
}

}  // namespace bpftime::fuse
