// SPDX-License-Identifier: MIT
// Names and attributes: answered from the node table, without JavaScript.
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proc_info.h"
#include "server.h"

namespace bpftime::fuse {
namespace {

// Fixed names never go away before their directory does, and the walk to that is never cached.
constexpr uint64_t kFixedEntrySeconds = 3600;
// One kernel tick: a stat() of a path costs one request instead of two.
constexpr uint32_t kAttributeNanoseconds = 1'000'000;

uint32_t type_bits(NodeKind kind) {
  if (kind == NodeKind::kDir) return S_IFDIR;
  return kind == NodeKind::kSymlink ? S_IFLNK : S_IFREG;
}

bool is_growing(const Node& node) {
  return node.cls->kind == NodeKind::kLog || node.cls->kind == NodeKind::kStream ||
         node.cls->kind == NodeKind::kPayload;
}

bool is_dead(const Proc& proc) {
  if (proc.dead) return true;
  pollfd fd = {proc.pidfd.get(), POLLIN, 0};
  return poll(&fd, 1, 0) > 0;
}

}  // namespace

fuse_attr Server::attributes(const Node& node) const {
  fuse_attr attr = {};
  attr.ino = node.ino;
  attr.mode = type_bits(node.cls->kind) | node.cls->mode;
  attr.nlink = node.cls->is_dir() ? 2 : 1;
  attr.uid = node.proc ? node.proc->uid : getuid();
  attr.gid = node.proc ? node.proc->gid : getgid();
  attr.blksize = 4096;
  if (const auto it = handles_.find(node.writer); node.writer != 0 && it != handles_.end()) {
    attr.size = it->second.buf.size();
  } else if (node.cls->kind == NodeKind::kLog) {
    attr.size = node.stream ? node.stream->size_bytes() : 0;
  } else if (node.content != nullptr) {
    attr.size = node.content->size();
  } else if (node.cls->content != nullptr) {
    attr.size = node.cls->content->size();
  }
  attr.blocks = (attr.size + 511) / 512;
  const auto since = node.changed.time_since_epoch();
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(since);
  attr.atime = attr.mtime = attr.ctime = static_cast<uint64_t>(seconds.count());
  attr.mtimensec = static_cast<uint32_t>((since - seconds).count());
  attr.atimensec = attr.ctimensec = attr.mtimensec;
  return attr;
}

void Server::reply_entry(uint64_t unique, const NodePtr& node) {
  fuse_entry_out out = {};
  out.nodeid = node->id;
  out.entry_valid = node->fixed ? kFixedEntrySeconds : 0;
  out.attr_valid_nsec = is_growing(*node) ? 0 : kAttributeNanoseconds;
  out.attr = attributes(*node);
  if (send(unique, 0, &out, sizeof(out)))
    table_.count_lookup(node);
  else
    table_.collect(node);
}

int Server::process_permission(const Request& request, const Node& node, Touch touch) const {
  if (node.proc == nullptr) return 0;
  if (is_dead(*node.proc)) return ESRCH;
  return check_access(request.caller(), node.proc->pid, touch);
}

// ESRCH when the process is gone, EACCES when the caller may not touch it or the file's mode
// forbids it: nobody writes a read-only attribute, not even root.
int Server::permission(const Request& request, const NodePtr& node, bool write) {
  const Touch touch = write ? Touch::kChange : Touch::kSee;
  if (const int denied = process_permission(request, *node, touch)) return denied;
  if (node->removed && !node->commit_failed) return ENOENT;
  if (write && !node->cls->is_dir() && (node->cls->mode & 0222) == 0) return EACCES;
  if (node->proc != nullptr) return 0;
  const uint32_t uid = request.header->uid;
  if (uid == 0 || uid == getuid()) return 0;
  return (node->cls->mode & (write ? 0002 : 0004)) != 0 ? 0 : EACCES;
}

bool Server::drop_if_dead(const NodePtr& node) {
  if (node->proc == nullptr || !is_dead(*node->proc)) return false;
  proc_died(node->proc);
  return true;
}

// A process that ended, or a number that is nobody's: JavaScript finds the words.
void Server::refuse_gone(const Request& request, const Node& procs, std::string_view pid) {
  Question question{ControlOp::kLookup, nullptr, table_.path_of(procs) + "/" + std::string(pid),
                    procs.cls->name,    {},      {}};
  ask(request, std::move(question), [this](uint64_t unique, int errnum, std::string&) {
    if (unique != 0) send(unique, errnum != 0 ? errnum : ESRCH);
  });
}

void Server::op_lookup(const Request& request) {
  const NodePtr dir = table_.by_id(request.header->nodeid);
  const std::string_view name = request.name();
  if (dir == nullptr) return void(send(request.unique(), ENOENT));
  // Somebody's working directory, of whom nothing is left.
  if (dir->removed && dir->proc != nullptr && is_dead(*dir->proc)) {
    const Node* process = dir.get();
    while (process->parent->proc != nullptr) process = process->parent.get();
    return refuse_gone(request, *process->parent, process->name);
  }
  if (dir->removed) return void(send(request.unique(), ENOENT));
  if (name.size() > 255) return void(send(request.unique(), ENAMETOOLONG));
  NodePtr node = table_.find_child(dir, name);
  if (node != nullptr && drop_if_dead(node)) node = table_.find_child(dir, name);
  if (node != nullptr) {
    // The way into a process: whoever passes here may see what is below.
    if (node->proc != nullptr && dir->proc == nullptr) {
      const int denied = check_access(request.caller(), node->proc->pid, Touch::kSee);
      if (denied == ESRCH) refuse_gone(request, *dir, name);
      if (denied != 0) {
        if (denied != ESRCH) send(request.unique(), denied);
        table_.collect(node);
        return;
      }
    }
    return reply_entry(request.unique(), node);
  }
  if (dir->cls->provider == Provider::kProcs && parse_pid(name) > 0) {
    return refuse_gone(request, *dir, name);
  }
  if (dir->cls->provider != Provider::kLookup || !is_valid_name(name) ||
      is_staging_name(name, false)) {
    return void(send(request.unique(), ENOENT));
  }
  Question question{ControlOp::kLookup, nullptr, table_.path_of(*dir) + "/" + std::string(name),
                    dir->cls->name,     {},      {}};
  ask(request, std::move(question),
      [this, dir, name = std::string(name)](uint64_t unique, int errnum, std::string&) {
        if (unique == 0) return;
        if (errnum != 0) return void(send(unique, errnum));
        if (dir->removed) return void(send(unique, ENOENT));
        NodePtr node = table_.find_child(dir, name);
        if (node == nullptr) node = table_.add_child(dir, name, dir->cls->child_class);
        reply_entry(unique, node);
      });
}

void Server::op_getattr(const Request& request) {
  const NodePtr node = table_.by_id(request.header->nodeid);
  if (node == nullptr) return void(send(request.unique(), ESTALE));
  if (node->removed && node->open_count == 0) return void(send(request.unique(), ENOENT));
  fuse_attr_out out = {};
  out.attr_valid_nsec = is_growing(*node) ? 0 : kAttributeNanoseconds;
  out.attr = attributes(*node);
  send(request.unique(), 0, &out, sizeof(out));
}

void Server::op_setattr(const Request& request) {
  const auto& in = request.arg<fuse_setattr_in>();
  const NodePtr node = table_.by_id(request.header->nodeid);
  if (node == nullptr) return void(send(request.unique(), ESTALE));
  const bool takes_copies =
      node->cls->kind == NodeKind::kPayload || node->cls->kind == NodeKind::kLine;
  int errnum = takes_copies || node->made_by_mkdir ? 0 : EPERM;
  if (errnum == 0 && !node->removed) errnum = permission(request, node, true);
  if (errnum == 0 && (in.valid & FATTR_SIZE) != 0) {
    Handle* file = (in.valid & FATTR_FH) != 0 ? handle(in.fh) : nullptr;
    if (file != nullptr && file->node->cls->kind == NodeKind::kPayload) {
      errnum = resize_payload(*file, in.size);
    } else if (file != nullptr && in.size == 0) {
      file->replaces = true;
    } else if (in.size != 0) {
      errnum = EINVAL;
    }
  }
  if (errnum != 0) return void(send(request.unique(), errnum));
  fuse_attr_out out = {};
  out.attr = attributes(*node);
  send(request.unique(), 0, &out, sizeof(out));
}

void Server::op_readlink(const Request& request) {
  const NodePtr node = table_.by_id(request.header->nodeid);
  if (node == nullptr) return void(send(request.unique(), ESTALE));
  std::string target;
  if (node->content != nullptr) {
    target = *node->content;
  } else if (const int tgid = tgid_of(request.caller().tid); tgid != 0) {
    target = std::to_string(tgid);  // procs/self
  }
  if (target.empty()) return void(send(request.unique(), ENOENT));
  send(request.unique(), 0, target.data(), target.size());
}

void Server::op_access(const Request& request) {
  const NodePtr node = table_.by_id(request.header->nodeid);
  if (node == nullptr) return void(send(request.unique(), ESTALE));
  const uint32_t mask = request.arg<fuse_access_in>().mask;
  int errnum = permission(request, node, false);
  if (errnum == 0 && (mask & W_OK) != 0) errnum = permission(request, node, true);
  if (errnum == 0 && (mask & X_OK) != 0 && (node->cls->mode & 0111) == 0) errnum = EACCES;
  send(request.unique(), errnum);
}

void Server::list_procs(const Request& request, const NodePtr& dir, std::vector<DirEntry>* out) {
  const Caller caller = request.caller();
  std::vector<int> pids;
  mutex_.unlock();  // /proc of a large machine takes milliseconds
  for (const int pid : list_proc_pids()) {
    const std::optional<ProcStat> stat = read_proc_stat(pid);
    if (!stat || stat->kernel_thread || stat->has_ended()) continue;
    if (check_access(caller, pid, Touch::kSee) == 0) pids.push_back(pid);
  }
  mutex_.lock();
  for (const int pid : pids) {
    const std::string name = std::to_string(pid);
    const auto it = dir->children.find(name);
    out->push_back(
        {name, it != dir->children.end() ? it->second->ino : static_cast<uint64_t>(pid), DT_DIR});
  }
}

std::vector<DirEntry> Server::list(const Request& request, const NodePtr& dir) {
  std::vector<DirEntry> out;
  const auto dirent_type = [](NodeKind kind) -> uint32_t { return type_bits(kind) >> 12; };
  out.push_back({".", dir->ino, DT_DIR});
  out.push_back({"..", dir->parent ? dir->parent->ino : dir->ino, DT_DIR});
  for (const auto& [name, cls] : dir->cls->children) {
    const auto it = dir->children.find(name);
    out.push_back({name, it != dir->children.end() ? it->second->ino : dir->ino + out.size(),
                   dirent_type(cls->kind)});
  }
  if (dir->cls->provider == Provider::kProcs) {
    list_procs(request, dir, &out);
    return out;
  }
  for (const auto& [name, node] : dir->children) {
    if (!node->published || node->fixed || node->staged) continue;
    out.push_back({name, node->ino, dirent_type(node->cls->kind)});
  }
  return out;
}

void Server::op_opendir(const Request& request) {
  const NodePtr node = table_.by_id(request.header->nodeid);
  if (node == nullptr) return void(send(request.unique(), ESTALE));
  if (const int errnum = permission(request, node, false)) {
    return void(send(request.unique(), errnum));
  }
  Handle& file = open_handle(node, O_RDONLY | O_DIRECTORY);
  fuse_open_out out = {};
  out.fh = file.id;
  if (!send(request.unique(), 0, &out, sizeof(out))) close_handle(file.id);
}

void Server::op_readdir(const Request& request) {
  const auto& in = request.arg<fuse_read_in>();
  const uint64_t id = in.fh;
  const uint64_t offset = in.offset;
  const size_t size_bytes = in.size;
  Handle* file = handle(id);
  if (file == nullptr) return void(send(request.unique(), EBADF));
  if (offset == 0) {
    const NodePtr dir = file->node;
    std::vector<DirEntry> entries = list(request, dir);
    file = handle(id);
    if (file == nullptr) return void(send(request.unique(), EBADF));
    file->entries = std::move(entries);
  }
  std::string out;
  for (uint64_t i = offset; i < file->entries.size(); ++i) {
    const DirEntry& entry = file->entries[i];
    const size_t name_at = offsetof(fuse_dirent, name);
    const size_t len = FUSE_DIRENT_ALIGN(name_at + entry.name.size());
    if (out.size() + len > size_bytes) break;
    fuse_dirent header = {};
    header.ino = entry.ino;
    header.off = i + 1;
    header.namelen = static_cast<uint32_t>(entry.name.size());
    header.type = entry.type;
    const size_t start = out.size();
    out.append(reinterpret_cast<const char*>(&header), name_at);
    out.append(entry.name);
    out.resize(start + len, '\0');
  }
  send(request.unique(), 0, out.data(), out.size());
}

void Server::op_releasedir(const Request& request) {
  close_handle(request.arg<fuse_release_in>().fh);
  send(request.unique(), 0);
}

}  // namespace bpftime::fuse
