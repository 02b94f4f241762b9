// SPDX-License-Identifier: MIT
#include "node_table.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>

#include "proc_info.h"

namespace bpftime::fuse {
namespace {

constexpr uint64_t kDefaultStreamBytes = 1 << 20;

// FNV-1a over the parent's number and the name: the same name keeps its number over forgets.
uint64_t inode_number(uint64_t parent, std::string_view name, uint64_t salt) {
  uint64_t hash = 0xcbf29ce484222325 ^ parent ^ (salt << 17);
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash < 2 ? hash + 2 : hash;
}

}  // namespace

int parse_pid(std::string_view name) {
  int pid = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
  const bool canonical =
      error == std::errc() && end == name.data() + name.size() && name[0] != '0' && name[0] != '-';
  return canonical ? pid : 0;
}

NodeTable::~NodeTable() {
  // Parents and children hold each other.
  if (root_ != nullptr) mark_removed(root_);
}

Result<void> NodeTable::init(const std::vector<ClassSpec>& specs, const std::string& root_class) {
  for (const ClassSpec& spec : specs) {
    NodeClass& cls = classes_[spec.name];
    cls.name = spec.name;
    cls.kind = spec.kind;
    cls.mode = spec.mode & 07777;
    cls.provider = spec.provider;
    cls.max_bytes = spec.max_bytes;
    cls.content = spec.content;
  }
  for (const ClassSpec& spec : specs) {
    NodeClass& cls = classes_[spec.name];
    for (const auto& [name, child] : spec.children) {
      const NodeClass* target = find_class(child);
      if (target == nullptr) return fail(EINVAL, "a child names a class that is not in the table");
      cls.children[name] = target;
    }
    const auto resolve = [this](const std::string& name, const NodeClass** out) {
      *out = name.empty() ? nullptr : find_class(name);
      return name.empty() || *out != nullptr;
    };
    if (!resolve(spec.child_class, &cls.child_class) ||
        !resolve(spec.create_class, &cls.create_class) ||
        !resolve(spec.mkdir_class, &cls.mkdir_class)) {
      return fail(EINVAL, "childClass, createClass or mkdirClass is not in the table");
    }
  }
  const NodeClass* cls = find_class(root_class);
  if (cls == nullptr || !cls->is_dir()) return fail(EINVAL, "the root class is no directory");
  root_ = std::make_shared<Node>();
  root_->id = next_id_++;
  root_->ino = 1;
  root_->cls = cls;
  root_->published = true;
  ids_[root_->id] = root_;
  return {};
}

const NodeClass* NodeTable::find_class(std::string_view name) const {
  const auto it = classes_.find(name);
  return it == classes_.end() ? nullptr : &it->second;
}

std::shared_ptr<Node> NodeTable::by_id(uint64_t id) const {
  const auto it = ids_.find(id);
  return it == ids_.end() ? nullptr : it->second;
}

std::shared_ptr<Node> NodeTable::add_child(const std::shared_ptr<Node>& dir, std::string_view name,
                                           const NodeClass* cls) {
  auto node = std::make_shared<Node>();
  node->id = next_id_++;
  node->cls = cls;
  node->parent = dir;
  node->name = name;
  node->proc = dir->proc;
  node->ino = inode_number(dir->ino, name, dir->proc ? dir->proc->start_ticks : 0);
  dir->children[node->name] = node;
  ids_[node->id] = node;
  return node;
}

std::shared_ptr<Node> NodeTable::find_child(const std::shared_ptr<Node>& dir,
                                            std::string_view name) {
  if (dir->removed) return nullptr;
  if (const auto it = dir->children.find(name); it != dir->children.end()) return it->second;
  if (const auto it = dir->cls->children.find(name); it != dir->cls->children.end()) {
    std::shared_ptr<Node> node = add_child(dir, name, it->second);
    node->fixed = true;
    return node;
  }
  if (dir->cls->provider == Provider::kProcs) return find_proc_dir(dir, name);
  return nullptr;
}

std::shared_ptr<Node> NodeTable::find_proc_dir(const std::shared_ptr<Node>& dir,
                                               std::string_view name) {
  const int pid = parse_pid(name);
  if (pid <= 0) return nullptr;
  auto proc = std::make_shared<Proc>();
  // Only a thread group leader has a pidfd of this kind; other thread ids fail.
  proc->pidfd.reset(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!proc->pidfd.valid()) return nullptr;
  const std::optional<ProcStat> stat = read_proc_stat(pid);
  if (!stat || stat->has_ended()) return nullptr;
  if (!read_proc_owner(pid, &proc->uid, &proc->gid)) return nullptr;
  proc->pid = pid;
  proc->start_ticks = stat->start_ticks;
  std::shared_ptr<Node> node = add_child(dir, name, dir->cls->child_class);
  node->proc = proc;
  proc->dir = node;
  node->ino = inode_number(dir->ino, name, proc->start_ticks);
  watch_(proc);
  return node;
}

std::shared_ptr<Node> NodeTable::find_parent(std::string_view path, std::string_view* name) {
  while (path.ends_with('/')) path.remove_suffix(1);
  const size_t slash = path.rfind('/');
  *name = slash == std::string_view::npos ? path : path.substr(slash + 1);
  return slash == std::string_view::npos ? root_ : find_path(path.substr(0, slash));
}

std::shared_ptr<Node> NodeTable::find_path(std::string_view path) {
  std::shared_ptr<Node> node = root_;
  size_t at = 0;
  while (node != nullptr && at < path.size()) {
    const size_t end = std::min(path.find('/', at), path.size());
    if (end > at) node = find_child(node, path.substr(at, end - at));
    at = end + 1;
  }
  return node;
}

void NodeTable::mark_removed(std::shared_ptr<Node> node) {
  node->removed = true;
  if (node->stream != nullptr) node->stream->close();
  const auto children = std::move(node->children);
  node->children.clear();
  for (const auto& [name, child] : children) {
    mark_removed(child);
    collect(child);
  }
}

void NodeTable::remove(std::shared_ptr<Node> node) {
  if (node->removed || node == root_) return;
  if (const auto it = node->parent->children.find(node->name);
      it != node->parent->children.end() && it->second == node) {
    node->parent->children.erase(it);
  }
  mark_removed(node);
  const std::shared_ptr<Node> parent = node->parent;
  collect(node);
  collect(parent);
}

void NodeTable::move(const std::shared_ptr<Node>& node, const std::shared_ptr<Node>& dir,
                     std::string_view name) {
  if (const auto it = dir->children.find(name); it != dir->children.end() && it->second != node) {
    remove(it->second);
  }
  node->parent->children.erase(node->name);
  node->parent = dir;
  node->name = name;
  dir->children[node->name] = node;
}

std::shared_ptr<Node> NodeTable::reattach(const std::shared_ptr<Node>& node) {
  if (!node->removed || node->parent->removed) return node;
  if (std::shared_ptr<Node> holder = find_child(node->parent, node->name)) return holder;
  node->removed = false;
  node->parent->children[node->name] = node;
  ids_[node->id] = node;
  return node;
}

void NodeTable::alias(const std::shared_ptr<Node>& from, const std::shared_ptr<Node>& to) {
  if (from == to) return;
  from->other_ids.push_back(from->id);
  for (const uint64_t id : from->other_ids) {
    ids_[id] = to;
    to->other_ids.push_back(id);
  }
  from->other_ids.clear();
  to->lookup_count += from->lookup_count;
  from->lookup_count = 0;
}

void NodeTable::erase_ids(const Node& node) {
  // An id that became another node's (alias) stays that node's.
  if (const auto it = ids_.find(node.id); it != ids_.end() && it->second.get() == &node) {
    ids_.erase(it);
  }
  for (const uint64_t id : node.other_ids) ids_.erase(id);
}

void NodeTable::forget(uint64_t id, uint64_t count) {
  const std::shared_ptr<Node> node = by_id(id);
  if (node == nullptr) return;
  node->lookup_count -= std::min(node->lookup_count, count);
  collect(node);
}

void NodeTable::collect(std::shared_ptr<Node> node) {
  while (node != nullptr && node != root_) {
    const bool needed = node->lookup_count > 0 || node->open_count > 0 || !node->children.empty() ||
                        node->busy || (!node->removed && (node->published || node->staged)) ||
                        (!node->removed && node->stream != nullptr);
    if (needed) return;
    erase_ids(*node);
    const std::shared_ptr<Node> parent = node->parent;
    if (const auto it = parent->children.find(node->name);
        it != parent->children.end() && it->second == node) {
      parent->children.erase(it);
    }
    node->removed = true;
    node = parent;
  }
}

std::shared_ptr<Node> NodeTable::remove_proc(const std::shared_ptr<Proc>& proc) {
  proc->dead = true;
  std::shared_ptr<Node> found = proc->dir.lock();
  if (found != nullptr) remove(found);
  return found;
}

std::shared_ptr<Stream> NodeTable::stream_of(const std::shared_ptr<Node>& node) {
  const bool is_log = node->cls->kind == NodeKind::kLog;
  if (!is_log && node->cls->kind != NodeKind::kStream) return nullptr;
  if (node->stream == nullptr && !node->removed) {
    const uint64_t bytes = node->cls->max_bytes != 0 ? node->cls->max_bytes : kDefaultStreamBytes;
    node->stream = std::make_shared<Stream>(is_log ? Stream::Kind::kLog : Stream::Kind::kStream,
                                            bytes, waker_);
  }
  return node->stream;
}

std::string NodeTable::path_of(const Node& node) {
  if (node.parent == nullptr) return "/";
  std::string path;
  for (const Node* at = &node; at->parent != nullptr; at = at->parent.get()) {
    path.insert(0, "/" + at->name);
  }
  return path;
}

}  // namespace bpftime::fuse
