// SPDX-License-Identifier: MIT
// Names that come, go and move. Temporary names of tools live and die here; whatever is in force
// changes only when JavaScript agrees.
#include <fcntl.h>

#include "server.h"

namespace bpftime::fuse {
namespace {

constexpr uint32_t kRenameNoReplace = 1;  // RENAME_NOREPLACE, linux/fs.h

bool inside_made_dir(const Node& node) {
  for (const Node* at = node.parent.get(); at != nullptr; at = at->parent.get()) {
    if (at->made_by_mkdir) return true;
  }
  return false;
}

}  // namespace

void Server::op_unlink(const Request& request) {
  const NodePtr dir = table_.by_id(request.header->nodeid);
  int errnum = dir == nullptr ? ESTALE : permission(request, dir, true);
  const NodePtr node = errnum == 0 ? table_.find_child(dir, request.name()) : nullptr;
  if (errnum == 0 && node == nullptr) errnum = ENOENT;
  if (errnum == 0 && node->cls->is_dir()) errnum = EISDIR;
  if (errnum != 0) return void(send(request.unique(), errnum));
  // `rm -r` of a directory that a user made works although its files are fixed.
  if (node->fixed) return void(send(request.unique(), inside_made_dir(*node) ? 0 : EPERM));
  if (!node->published) {
    table_.remove(node);
    return void(send(request.unique(), 0));
  }
  Question question{ControlOp::kUnlink, node, table_.path_of(*node), node->cls->name, {}, {}};
  ask(request, std::move(question), [this, node](uint64_t unique, int failed, std::string&) {
    if (failed == 0) table_.remove(node);
    send(unique, failed);
  });
}

void Server::op_rmdir(const Request& request) {
  const NodePtr dir = table_.by_id(request.header->nodeid);
  int errnum = dir == nullptr ? ESTALE : permission(request, dir, true);
  const NodePtr node = errnum == 0 ? table_.find_child(dir, request.name()) : nullptr;
  if (errnum == 0 && node == nullptr) errnum = ENOENT;
  if (errnum == 0 && !node->cls->is_dir()) errnum = ENOTDIR;
  if (errnum == 0 && node->fixed && inside_made_dir(*node)) return op_ok(request);
  if (errnum == 0 && (node->fixed || !node->published)) errnum = EPERM;
  if (errnum != 0) return void(send(request.unique(), errnum));
  Question question{ControlOp::kRmdir, nullptr, table_.path_of(*node), node->cls->name, {}, {}};
  ask(request, std::move(question), [this, node](uint64_t unique, int failed, std::string&) {
    if (failed == 0) table_.remove(node);
    send(unique, failed);
  });
}

void Server::op_mkdir(const Request& request) {
  const std::string name(request.name(sizeof(fuse_mkdir_in)));
  const NodePtr dir = table_.by_id(request.header->nodeid);
  int errnum = dir == nullptr ? ESTALE : permission(request, dir, true);
  if (errnum == 0 && name.size() > 255) errnum = ENAMETOOLONG;
  if (errnum == 0 && table_.find_child(dir, name) != nullptr) errnum = EEXIST;
  if (errnum == 0 && dir->cls->mkdir_class == nullptr) errnum = EPERM;
  if (errnum == 0 && !is_valid_name(name)) errnum = EINVAL;
  if (errnum != 0) return void(send(request.unique(), errnum));
  Question question{ControlOp::kMkdir,           nullptr, table_.path_of(*dir) + "/" + name,
                    dir->cls->mkdir_class->name, {},      {}};
  ask(request, std::move(question), [this, dir, name](uint64_t unique, int failed, std::string&) {
    if (failed == 0 && dir->removed) failed = ENOENT;
    if (failed != 0) return void(send(unique, failed));
    NodePtr node = table_.find_child(dir, name);
    if (node == nullptr) node = table_.add_child(dir, name, dir->cls->mkdir_class);
    node->published = true;
    node->made_by_mkdir = true;
    reply_entry(unique, node);
  });
}

void Server::op_rename(const Request& request) {
  const std::string_view from = request.name(sizeof(fuse_rename_in));
  rename(request, request.arg<fuse_rename_in>().newdir, 0, from,
         request.name(sizeof(fuse_rename_in) + from.size() + 1));
}

void Server::op_rename2(const Request& request) {
  const auto& in = request.arg<fuse_rename2_in>();
  const std::string_view from = request.name(sizeof(fuse_rename2_in));
  rename(request, in.newdir, in.flags, from,
         request.name(sizeof(fuse_rename2_in) + from.size() + 1));
}

void Server::rename(const Request& request, uint64_t to_dir, uint32_t flags, std::string_view from,
                    std::string_view to) {
  const NodePtr dir = table_.by_id(request.header->nodeid);
  int errnum = dir == nullptr ? ESTALE : permission(request, dir, true);
  const NodePtr node = errnum == 0 ? table_.find_child(dir, from) : nullptr;
  if (errnum == 0 && node == nullptr) errnum = ENOENT;
  if (errnum == 0 && table_.by_id(to_dir) != dir) errnum = EXDEV;
  if (errnum == 0 && to.size() > 255) errnum = ENAMETOOLONG;
  if (errnum == 0 && ((flags & ~kRenameNoReplace) != 0 || !is_valid_name(to))) errnum = EINVAL;
  if (errnum == 0 && node->fixed) errnum = EPERM;
  const NodePtr target = errnum == 0 ? table_.find_child(dir, to) : nullptr;
  if (target != nullptr) {
    if ((flags & kRenameNoReplace) != 0)
      errnum = EEXIST;
    else if (target->fixed)
      errnum = EPERM;
    else if (target->cls->is_dir() != node->cls->is_dir())
      errnum = EISDIR;
  }
  if (errnum != 0) return void(send(request.unique(), errnum));
  if (target == node) return op_ok(request);
  if (node->published) return rename_published(request, node, dir, std::string(to));
  if (node->staged && !is_staging_name(to, false)) {
    return rename_staged(request, node, dir, std::string(to));
  }
  // A file nobody has committed yet under another temporary or first name.
  if (target != nullptr && target->published) {
    return rename_staged(request, node, dir, std::string(to));
  }
  table_.move(node, dir, to);
  op_ok(request);
}

Handle* Server::dirty_handle(const NodePtr& node) {
  for (auto& [id, file] : handles_) {
    if (file.node == node && file.dirty) return &file;
  }
  return nullptr;
}

void Server::move_handles(const NodePtr& from, const NodePtr& to) {
  for (auto& [id, file] : handles_) {
    if (file.node != from) continue;
    file.node = to;
    --from->open_count;
    ++to->open_count;
  }
  if (from->writer != 0) to->writer = std::exchange(from->writer, 0);
}

// The temporary file takes the name: `from` disappears into whoever holds the name, or becomes it.
void Server::settle_staged(const NodePtr& staged, const NodePtr& dir, const std::string& to,
                           std::string& data) {
  const NodePtr holder = table_.find_child(dir, to);
  NodePtr node = staged;
  if (holder != nullptr && holder != staged) {
    move_handles(staged, holder);
    table_.alias(staged, holder);
    table_.remove(staged);
    node = holder;
  } else if (!staged->removed) {
    table_.move(staged, dir, to);
    staged->staged = false;
  }
  if (data.empty()) return;
  committed(node, 0, data);
}

void Server::rename_staged(const Request& request, const NodePtr& node, const NodePtr& dir,
                           const std::string& to) {
  if (dirty_handle(node) != nullptr) {
    // clang renames before it closes: the bytes are judged at the flush that follows.
    std::string none;
    settle_staged(node, dir, to, none);
    return op_ok(request);
  }
  const NodePtr target = table_.find_child(dir, to);
  const NodeClass* cls = target != nullptr ? target->cls : node->cls;
  auto bytes = std::make_shared<std::string>(node->content ? *node->content : "");
  Question question{ControlOp::kCommit,
                    target != nullptr ? target : node,
                    table_.path_of(*dir) + "/" + to,
                    cls->name,
                    *bytes,
                    {}};
  ask(request, std::move(question),
      [this, node, dir, to, bytes](uint64_t unique, int errnum, std::string&) {
        if (errnum == 0) settle_staged(node, dir, to, *bytes);
        send(unique, errnum);
      });
}

void Server::rename_published(const Request& request, const NodePtr& node, const NodePtr& dir,
                              const std::string& to) {
  const std::string path = table_.path_of(*node);
  if (is_staging_name(to, false)) {
    // An editor's backup copy: the name goes, the bytes stay for a while.
    Question question{ControlOp::kUnlink, node, path, node->cls->name, {}, {}};
    ask(request, std::move(question),
        [this, node, dir, to](uint64_t unique, int errnum, std::string&) {
          if (errnum == 0) {
            const std::shared_ptr<const std::string> bytes = node->content;
            table_.remove(node);
            const NodePtr old = table_.find_child(dir, to);
            if (old != nullptr) table_.remove(old);
            const NodePtr backup = table_.add_child(dir, to, node->cls);
            backup->content = bytes;
            backup->staged = true;
            backup->staged_at = Clock::now();
            staged_.push_back(backup);
          }
          send(unique, errnum);
        });
    return;
  }
  Question question{ControlOp::kRename, node, path,
                    node->cls->name,    {},   table_.path_of(*dir) + "/" + to};
  ask(request, std::move(question),
      [this, node, dir, to](uint64_t unique, int errnum, std::string&) {
        if (errnum == 0 && !node->removed) table_.move(node, dir, to);
        send(unique, errnum);
      });
}

}  // namespace bpftime::fuse
