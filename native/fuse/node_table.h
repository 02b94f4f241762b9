// SPDX-License-Identifier: MIT
// NodeTable: the names. Classes give every directory its fixed children; publishing adds others;
// live processes appear by themselves. Nodes exist only while something needs them: the kernel
// (lookup count), an open file, a child, or because they were published.
//
// Not thread safe: the server's mutex guards it. Never talks to the kernel's side of the mount.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>

#include "../base/result.h"
#include "node.h"

namespace bpftime::fuse {

/// The number that a name in procs/ is, as the kernel writes it; 0: it is none.
int parse_pid(std::string_view name);

class NodeTable {
 public:
  NodeTable(std::shared_ptr<Waker> waker, std::function<void(const std::shared_ptr<Proc>&)> watch)
      : waker_(std::move(waker)), watch_(std::move(watch)) {}
  ~NodeTable();

  /// Resolves the class names and makes the root. EINVAL names no class of the table.
  Result<void> init(const std::vector<ClassSpec>& specs, const std::string& root_class);

  [[nodiscard]] const std::shared_ptr<Node>& root() const { return root_; }
  /// Null when the kernel names a node that is gone.
  std::shared_ptr<Node> by_id(uint64_t id) const;

  /// A child that exists without asking TypeScript, or null. Materialises fixed children and the
  /// directories of live processes (`procs`).
  std::shared_ptr<Node> find_child(const std::shared_ptr<Node>& dir, std::string_view name);
  std::shared_ptr<Node> add_child(const std::shared_ptr<Node>& dir, std::string_view name,
                                  const NodeClass* cls);
  /// Walks a path from the root.
  std::shared_ptr<Node> find_path(std::string_view path);
  /// Splits off the last name and finds the directory before it.
  std::shared_ptr<Node> find_parent(std::string_view path, std::string_view* name);
  const NodeClass* find_class(std::string_view name) const;

  /// Takes a node and everything below it out of the tree; open files keep it alive.
  void remove(std::shared_ptr<Node> node);
  /// Moves a node to another name, over what was there.
  void move(const std::shared_ptr<Node>& node, const std::shared_ptr<Node>& dir,
            std::string_view name);
  /// Puts a removed node back at its name unless that is taken; returns whoever holds the name.
  std::shared_ptr<Node> reattach(const std::shared_ptr<Node>& node);
  /// From now on `from`'s kernel id means `to`.
  void alias(const std::shared_ptr<Node>& from, const std::shared_ptr<Node>& to);

  void count_lookup(const std::shared_ptr<Node>& node) { ++node->lookup_count; }
  void forget(uint64_t id, uint64_t count);
  /// Drops the node, and then its parents, when nothing needs them any more.
  void collect(std::shared_ptr<Node> node);

  /// The process died: its directory and all below it are gone. Returns the directory or null.
  std::shared_ptr<Node> remove_proc(const std::shared_ptr<Proc>& proc);

  std::shared_ptr<Stream> stream_of(const std::shared_ptr<Node>& node);

  static std::string path_of(const Node& node);

 private:
  std::shared_ptr<Node> find_proc_dir(const std::shared_ptr<Node>& dir, std::string_view name);
  void mark_removed(std::shared_ptr<Node> node);
  void erase_ids(const Node& node);

  std::shared_ptr<Waker> waker_;
  std::function<void(const std::shared_ptr<Proc>&)> watch_;
  std::map<std::string, NodeClass, std::less<>> classes_;
  std::shared_ptr<Node> root_;
  std::unordered_map<uint64_t, std::shared_ptr<Node>> ids_;
  uint64_t next_id_ = 1;  // FUSE_ROOT_ID is the first
};

}  // namespace bpftime::fuse
