// SPDX-License-Identifier: MIT
// What the tree is made of: classes (rows of the table in src/fs/tree.ts), nodes (files that were
// looked up or published) and handles (open files). Plain data; the rules are in server_*.cc.
// Everything here is guarded by the server's one mutex.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "../base/scoped_fd.h"
#include "stream.h"

namespace bpftime::fuse {

enum class NodeKind { kDir, kSnapshot, kGenerated, kLine, kPayload, kStream, kLog, kSymlink };
enum class Provider { kPublished, kProcs, kLookup };

/// A class as TypeScript describes it: names instead of pointers.
struct ClassSpec {
  std::string name;
  NodeKind kind = NodeKind::kSnapshot;
  uint32_t mode = 0;
  Provider provider = Provider::kPublished;
  std::vector<std::pair<std::string, std::string>> children;
  std::string child_class, create_class, mkdir_class;
  uint64_t max_bytes = 0;
  std::shared_ptr<const std::string> content;
};

struct NodeClass {
  std::string name;
  NodeKind kind = NodeKind::kSnapshot;
  uint32_t mode = 0;  // permission bits only
  Provider provider = Provider::kPublished;
  std::map<std::string, const NodeClass*, std::less<>> children;
  const NodeClass* child_class = nullptr;
  const NodeClass* create_class = nullptr;
  const NodeClass* mkdir_class = nullptr;
  uint64_t max_bytes = 0;
  std::shared_ptr<const std::string> content;  // of nodes that have none of their own
  [[nodiscard]] bool is_dir() const { return kind == NodeKind::kDir; }
};

struct Node;

/// A live process that has a directory. The pidfd becomes readable when it dies.
struct Proc {
  std::weak_ptr<Node> dir;
  int pid = 0;
  uint64_t start_ticks = 0;
  uint32_t uid = 0, gid = 0;
  ScopedFd pidfd;
  bool dead = false;
};

struct Node {
  uint64_t id = 0;  // what the kernel calls it; never used twice, so generation is always 0
  std::vector<uint64_t> other_ids;  // of nodes that were renamed over this one
  uint64_t ino = 0;                 // for people: stable for a name
  const NodeClass* cls = nullptr;
  std::shared_ptr<Node> parent;
  std::string name;
  std::map<std::string, std::shared_ptr<Node>, std::less<>> children;  // materialised ones only
  uint64_t lookup_count = 0;
  uint32_t open_count = 0;
  bool fixed = false;      // named by the class of its directory: always there
  bool published = false;  // by TypeScript, or committed: listed
  bool staged = false;     // a temporary name of some tool: inert, unlisted, expires
  bool made_by_mkdir = false;
  bool removed = false;
  bool commit_failed = false;  // removed because its first commit failed: it may come back
  std::shared_ptr<Proc> proc;  // the process that it belongs to, if any
  std::shared_ptr<const std::string> content;
  std::shared_ptr<Stream> stream;
  std::chrono::system_clock::time_point changed = std::chrono::system_clock::now();
  std::chrono::steady_clock::time_point staged_at;
  uint64_t writer = 0;  // handle whose unsaved bytes stat shows; 0 = none
  // Commits and lines of one node reach TypeScript one at a time, in order of arrival.
  bool busy = false;
  std::deque<uint64_t> waiting_requests;
};

struct DirEntry {
  std::string name;
  uint64_t ino;
  uint32_t type;  // DT_*
};

struct Handle {
  uint64_t id = 0;
  std::shared_ptr<Node> node;
  uint32_t flags = 0;  // O_*
  // Content fixed at open; null while it has still to be asked for.
  std::shared_ptr<const std::string> content;
  // payload: this open's own copy, made at the first change
  std::string buf;
  bool own_copy = false;
  bool dirty = false;  // bytes written since the last flush
  int refused = 0;     // errno of a write that did not fit: what is here is no whole payload
  // line: a last line without its newline; whether the next accepted line replaces the file
  std::string partial;
  bool replaces = false;
  // stream
  bool is_reader = false;
  StreamCursor cursor;
  uint64_t poll_key = 0;
  bool poll_armed = false;
  // dir
  std::vector<DirEntry> entries;
};

/// A commonly known temporary name beside `name`'s future place: NAME-xxxxxxxx.tmp (clang),
/// .NAME.XXXXXX (rsync), .NAME.swp (vim), NAME~, sedXXXXXX and stXXXXXX (sed, binutils; only when
/// `exclusive`: created the way mkstemp does, because functions have such names, too).
bool is_staging_name(std::string_view name, bool exclusive);

/// Printable UTF-8 of at most 255 bytes, and no slash: a name that users may create.
bool is_valid_name(std::string_view name);

}  // namespace bpftime::fuse
