// SPDX-License-Identifier: MIT
// Open files. Reads of anything published, of streams and of payload bytes need no JavaScript.
// Writes follow what tools really send: text is judged inside write(2), payloads at the first
// flush that follows new bytes, an empty flush and O_TRUNC alone mean nothing.
#include <fcntl.h>
#include <poll.h>

#include "server.h"

namespace bpftime::fuse {
namespace {

constexpr uint64_t kDefaultMaxBytes = 16 << 20;
// All buffers of payloads that are open for writing, together: a limit against hostile writers.
constexpr uint64_t kMaxStagedBytes = 512 << 20;
constexpr size_t kMaxHandles = 65536;

bool wants_write(uint32_t flags) { return (flags & O_ACCMODE) != O_RDONLY; }
bool wants_read(uint32_t flags) { return (flags & O_ACCMODE) != O_WRONLY; }

uint64_t limit_of(const Node& node) {
  return node.cls->max_bytes != 0 ? node.cls->max_bytes : kDefaultMaxBytes;
}

bool is_asked(const Node& node) {
  return node.cls->kind == NodeKind::kSnapshot || node.cls->kind == NodeKind::kGenerated ||
         node.cls->kind == NodeKind::kLine;
}

}  // namespace

Handle* Server::handle(uint64_t id) {
  const auto it = handles_.find(id);
  return it == handles_.end() ? nullptr : &it->second;
}

Handle& Server::open_handle(const NodePtr& node, uint32_t flags) {
  const uint64_t id = next_handle_++;
  Handle& file = handles_[id];
  file.id = id;
  file.node = node;
  file.flags = flags;
  ++node->open_count;
  file.content = node->content != nullptr ? node->content : node->cls->content;
  if (node->cls->kind == NodeKind::kStream) {
    table_.stream_of(node);
    if (node->stream != nullptr) {
      file.cursor = node->stream->open_reader();
      file.is_reader = true;
    }
  } else if (node->cls->kind == NodeKind::kLog) {
    table_.stream_of(node);
  } else if (wants_write(flags) && (flags & O_TRUNC) != 0) {
    file.replaces = true;
    if (node->cls->kind == NodeKind::kPayload) {
      file.own_copy = true;
      node->writer = id;
    }
  }
  return file;
}

void Server::close_handle(uint64_t id) {
  const auto it = handles_.find(id);
  if (it == handles_.end()) return;
  Handle file = std::move(it->second);
  handles_.erase(it);
  const NodePtr node = file.node;
  staged_bytes_ -= file.buf.size();
  if (node->writer == id) node->writer = 0;
  if (file.is_reader) {
    if (file.poll_armed) node->stream->stop_waiting();
    node->stream->close_reader();
  }
  --node->open_count;
  if (node->staged) node->staged_at = Clock::now();
  // A new name whose first commit never came leaves no trace.
  const bool half_made = !node->published && !node->fixed && !node->staged && !node->busy;
  if (node->open_count == 0 && half_made && node->cls->kind == NodeKind::kPayload) {
    table_.remove(node);
  }
  table_.collect(node);
}

uint32_t Server::open_flags(const Handle& file) {
  const NodeKind kind = file.node->cls->kind;
  const bool commits =
      wants_write(file.flags) && (kind == NodeKind::kPayload || kind == NodeKind::kLine);
  return FOPEN_DIRECT_IO | (commits ? FOPEN_PARALLEL_DIRECT_WRITES : FOPEN_NOFLUSH);
}

void Server::reply_open(uint64_t unique, Handle& opened) {
  fuse_open_out out = {};
  out.fh = opened.id;
  out.open_flags = open_flags(opened);
  if (!send(unique, 0, &out, sizeof(out))) close_handle(opened.id);
}

void Server::op_open(const Request& request) {
  const uint32_t flags = request.arg<fuse_open_in>().flags;
  const NodePtr node = table_.by_id(request.header->nodeid);
  if (node == nullptr) return void(send(request.unique(), ESTALE));
  int errnum = 0;
  if (wants_read(flags)) errnum = permission(request, node, false);
  if (errnum == 0 && wants_write(flags)) errnum = permission(request, node, true);
  if (errnum == 0 && handles_.size() >= kMaxHandles) errnum = ENFILE;
  if (errnum != 0) return void(send(request.unique(), errnum));
  const bool has_content = node->content != nullptr || node->cls->content != nullptr;
  if (!is_asked(*node) || has_content || wants_write(flags)) {
    return reply_open(request.unique(), open_handle(node, flags));
  }
  Question question{ControlOp::kRead, nullptr, table_.path_of(*node), node->cls->name, {}, {}};
  ask(request, std::move(question),
      [this, node, flags](uint64_t unique, int failed, std::string& data) {
        if (unique == 0) return;
        if (failed != 0) return void(send(unique, failed));
        Handle& file = open_handle(node, flags);
        file.content = std::make_shared<const std::string>(std::move(data));
        reply_open(unique, file);
      });
}

void Server::reply_slice(const Request& request, std::string_view content) {
  const auto& in = request.arg<fuse_read_in>();
  if (in.offset >= content.size()) return void(send(request.unique(), 0));
  const std::string_view slice = content.substr(in.offset, in.size);
  send(request.unique(), 0, slice.data(), slice.size());
}

void Server::op_read(const Request& request) {
  const auto& in = request.arg<fuse_read_in>();
  Handle* file = handle(in.fh);
  if (file == nullptr) return void(send(request.unique(), EBADF));
  const Node& node = *file->node;
  if (node.cls->kind == NodeKind::kStream) return read_stream(request, *file);
  if (node.proc != nullptr && node.proc->dead) return void(send(request.unique(), ESRCH));
  if (node.cls->kind == NodeKind::kLog) {
    const std::string data = node.stream ? node.stream->read_at(in.offset, in.size) : "";
    return void(send(request.unique(), 0, data.data(), data.size()));
  }
  if (file->own_copy) return reply_slice(request, file->buf);
  if (file->content != nullptr) return reply_slice(request, *file->content);
  if (!is_asked(node)) return void(send(request.unique(), 0));
  // Opened for reading and writing: the content is asked for when somebody reads it.
  Question question{ControlOp::kRead, nullptr, table_.path_of(node), node.cls->name, {}, {}};
  ask(request, std::move(question),
      [this, fh = in.fh, offset = in.offset, size = in.size](uint64_t unique, int errnum,
                                                             std::string& data) {
        Handle* opened = handle(fh);
        if (opened == nullptr) return void(send(unique, EBADF));
        if (errnum != 0) return void(send(unique, errnum));
        opened->content = std::make_shared<const std::string>(std::move(data));
        const std::string_view all = *opened->content;
        const std::string_view slice = offset < all.size() ? all.substr(offset, size) : "";
        send(unique, 0, slice.data(), slice.size());
      });
}

void Server::read_stream(const Request& request, Handle& file) {
  const auto& in = request.arg<fuse_read_in>();
  Stream* stream = file.node->stream.get();
  if (stream == nullptr) return void(send(request.unique(), 0));
  is_burst_ = false;  // who follows a stream wants our processor rather than our haste
  for (;;) {
    const Piece piece = stream->take(&file.cursor, in.size);
    const std::string_view data = piece.view();
    if (!data.empty()) return void(send(request.unique(), 0, data.data(), data.size()));
    if (stream->closed()) return void(send(request.unique(), 0));
    if ((in.flags & O_NONBLOCK) != 0) return void(send(request.unique(), EAGAIN));
    if (!stream->start_waiting(file.cursor)) continue;
    waiters_.push_back({request.unique(), file.id, in.size});
    return;
  }
}

void Server::op_write(const Request& request) {
  const auto& in = request.arg<fuse_write_in>();
  Handle* file = handle(in.fh);
  if (file == nullptr) return void(send(request.unique(), EBADF));
  const size_t given = request.size_bytes - sizeof(fuse_write_in);
  const std::string_view data(request.body + sizeof(fuse_write_in),
                              std::min<size_t>(in.size, given));
  if (file->node->proc != nullptr && file->node->proc->dead) {
    return void(send(request.unique(), ESRCH));
  }
  if (file->node->cls->kind == NodeKind::kLine) return write_line(request, *file, data);
  const int errnum = write_payload(*file, in.offset, (in.flags & O_APPEND) != 0, data);
  if (errnum != 0) return void(send(request.unique(), errnum));
  fuse_write_out out = {};
  out.size = static_cast<uint32_t>(data.size());
  send(request.unique(), 0, &out, sizeof(out));
}

void Server::own_copy(Handle& file) {
  if (file.own_copy) return;
  file.own_copy = true;
  if (file.content != nullptr) file.buf = *file.content;
  staged_bytes_ += file.buf.size();
}

// The next flush reports it again, instead of a commit.
int Server::refuse(Handle& file, int errnum) {
  file.refused = errnum;
  file.dirty = true;
  return errnum;
}

int Server::write_payload(Handle& file, uint64_t offset, bool append, std::string_view data) {
  own_copy(file);
  if (append) offset = file.buf.size();
  const uint64_t limit = limit_of(*file.node);
  if (offset > limit || data.size() > limit - offset) return refuse(file, EFBIG);
  const uint64_t end = offset + data.size();
  if (end > file.buf.size()) {
    if (staged_bytes_ + (end - file.buf.size()) > kMaxStagedBytes) return refuse(file, ENOSPC);
    staged_bytes_ += end - file.buf.size();
    file.buf.resize(end, '\0');
  }
  memcpy(file.buf.data() + offset, data.data(), data.size());
  file.dirty = true;
  file.node->writer = file.id;
  return 0;
}

int Server::resize_payload(Handle& file, uint64_t size_bytes) {
  if (size_bytes > limit_of(*file.node)) return refuse(file, EFBIG);
  own_copy(file);
  if (size_bytes > file.buf.size() &&
      staged_bytes_ + (size_bytes - file.buf.size()) > kMaxStagedBytes) {
    return refuse(file, ENOSPC);
  }
  // Emptying a file is how copying tools begin: it changes nothing until bytes follow.
  if (size_bytes != 0 && size_bytes != file.buf.size()) file.dirty = true;
  if (size_bytes == 0) file.refused = 0;
  staged_bytes_ += size_bytes - file.buf.size();
  file.buf.resize(size_bytes, '\0');
  file.node->writer = file.id;
  return 0;
}

void Server::write_line(const Request& request, Handle& file, std::string_view data) {
  if (file.partial.size() + data.size() > limit_of(*file.node)) {
    file.partial.clear();
    return void(send(request.unique(), EFBIG));
  }
  const size_t newline = data.rfind('\n');
  if (newline == std::string_view::npos) {
    file.partial += data;
    fuse_write_out out = {};
    out.size = static_cast<uint32_t>(data.size());
    return void(send(request.unique(), 0, &out, sizeof(out)));
  }
  std::string lines = std::exchange(file.partial, {});
  lines += data.substr(0, newline + 1);
  file.partial = data.substr(newline + 1);
  ask_line(request, file, std::move(lines), static_cast<uint32_t>(data.size()));
}

// `written` is the answer to write(2); 0 stands for a flush, whose answer has no body.
void Server::ask_line(const Request& request, Handle& file, std::string lines, uint32_t written) {
  const NodePtr node = file.node;
  if (const int denied = process_permission(request, *node, Touch::kChange)) {
    return void(send(request.unique(), denied));
  }
  Question question{ControlOp::kLine, node, table_.path_of(*node), node->cls->name,
                    std::move(lines), {},   file.replaces};
  question.written = written;
  ask(request, std::move(question),
      [this, node, written, fh = file.id](uint64_t unique, int errnum, std::string&) {
        Handle* opened = handle(fh);
        if (errnum != 0) {
          if (opened != nullptr) opened->partial.clear();
          return void(send(unique, errnum));
        }
        if (opened != nullptr) opened->replaces = false;
        node->changed = std::chrono::system_clock::now();
        if (!node->fixed && !node->removed) node->published = true;
        fuse_write_out out = {};
        out.size = written;
        send(unique, 0, &out, written != 0 ? sizeof(out) : 0);
      });
}

void Server::op_flush(const Request& request) {
  Handle* file = handle(request.arg<fuse_flush_in>().fh);
  if (file == nullptr) return void(send(request.unique(), EBADF));
  if (file->node->cls->kind == NodeKind::kLine && !file->partial.empty()) {
    return ask_line(request, *file, std::exchange(file->partial, {}) + "\n", 0);
  }
  if (file->node->cls->kind != NodeKind::kPayload || !file->dirty) {
    return void(send(request.unique(), 0));
  }
  commit(request, *file);
}

void Server::commit(const Request& request, Handle& file) {
  NodePtr node = file.node;
  file.dirty = false;
  // Again: the target may have become another user's since this file was opened.
  if (const int denied = process_permission(request, *node, Touch::kChange)) {
    return void(send(request.unique(), denied));
  }
  if (node->removed && node->commit_failed) {
    const NodePtr holder = table_.reattach(node);
    if (holder != node) {
      --node->open_count;
      ++holder->open_count;
      file.node = holder;
      table_.collect(node);
      node = holder;
    }
  }
  if (node->removed) return void(send(request.unique(), ENOENT));  // rm while it was written
  // Tools close what they could not write to the end; a part of an object is never armed.
  const bool too_big = file.refused == EFBIG && !node->staged;
  if (file.refused != 0 && !too_big) return void(send(request.unique(), file.refused));
  if (node->staged) {
    node->content = std::make_shared<const std::string>(file.buf);
    node->changed = std::chrono::system_clock::now();
    return void(send(request.unique(), 0));
  }
  Question question{ControlOp::kCommit, node, table_.path_of(*node), node->cls->name, file.buf, {}};
  if (too_big) question.data.clear();
  question.truncate = too_big;  // JavaScript has the sentence
  auto bytes = std::make_shared<std::string>(file.buf);
  ask(request, std::move(question), [this, node, bytes](uint64_t unique, int errnum, std::string&) {
    committed(node, errnum, *bytes);
    send(unique, errnum);
  });
}

// The state of a name after JavaScript has judged a commit: the new bytes, or the former ones, or
// no such name.
void Server::committed(const NodePtr& node, int errnum, std::string& data) {
  if (errnum == 0) {
    node->content = std::make_shared<const std::string>(std::move(data));
    node->changed = std::chrono::system_clock::now();
    if (node->removed && !node->commit_failed) return;
    const NodePtr holder = table_.reattach(node);
    holder->commit_failed = false;
    holder->published = true;
    holder->content = node->content;
    return;
  }
  if (node->published || node->fixed || node->removed || !node->waiting_requests.empty()) return;
  node->commit_failed = true;
  table_.remove(node);
}

void Server::op_release(const Request& request) {
  close_handle(request.arg<fuse_release_in>().fh);
  send(request.unique(), 0);
}

void Server::op_create(const Request& request) {
  const uint32_t flags = request.arg<fuse_create_in>().flags;
  const uint32_t mode = request.arg<fuse_create_in>().mode;
  const std::string name(request.name(sizeof(fuse_create_in)));
  const NodePtr dir = table_.by_id(request.header->nodeid);
  int errnum = dir == nullptr ? ESTALE : permission(request, dir, true);
  if (errnum == 0 && name.size() > 255) errnum = ENAMETOOLONG;
  if (errnum == 0 && !is_valid_name(name)) errnum = EINVAL;
  NodePtr node = errnum == 0 ? table_.find_child(dir, name) : nullptr;
  if (errnum == 0 && node == nullptr && dir->cls->create_class == nullptr) errnum = EACCES;
  if (errnum == 0 && node != nullptr && (flags & O_EXCL) != 0) errnum = EEXIST;
  if (errnum == 0 && node != nullptr) errnum = permission(request, node, wants_write(flags));
  if (errnum == 0 && handles_.size() >= kMaxHandles) errnum = ENFILE;
  if (errnum != 0) return void(send(request.unique(), errnum));
  if (node == nullptr) {
    node = table_.add_child(dir, name, dir->cls->create_class);
    const bool like_mkstemp =
        (flags & O_EXCL) != 0 && (flags & O_ACCMODE) == O_RDWR && (mode & 0777) == 0600;
    node->staged = is_staging_name(name, like_mkstemp);
    if (node->staged) {
      node->staged_at = Clock::now();
      staged_.push_back(node);
      if (keeper_idle_) wake_keeper();
    }
  }
  Handle& file = open_handle(node, flags);
  struct {
    fuse_entry_out entry;
    fuse_open_out open;
  } out = {};
  out.entry.nodeid = node->id;
  out.entry.attr = attributes(*node);
  out.open.fh = file.id;
  out.open.open_flags = open_flags(file);
  if (send(request.unique(), 0, &out, sizeof(out))) {
    table_.count_lookup(node);
  } else {
    close_handle(file.id);
  }
}

void Server::op_poll(const Request& request) {
  const auto& in = request.arg<fuse_poll_in>();
  Handle* file = handle(in.fh);
  fuse_poll_out out = {};
  if (file == nullptr || !file->is_reader) {
    out.revents = in.events & (POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM);
    return void(send(request.unique(), 0, &out, sizeof(out)));
  }
  Stream& stream = *file->node->stream;
  const bool arm = (in.flags & FUSE_POLL_SCHEDULE_NOTIFY) != 0;
  bool ready = stream.readable(file->cursor);
  if (!ready && arm) {
    file->poll_key = in.kh;
    if (!file->poll_armed) {
      file->poll_armed = stream.start_waiting(file->cursor);
      ready = !file->poll_armed;
      if (file->poll_armed) armed_polls_.push_back(file->id);
    }
  }
  if (ready) out.revents = POLLIN | POLLRDNORM;
  if (stream.closed()) out.revents |= POLLHUP;
  send(request.unique(), 0, &out, sizeof(out));
}

}  // namespace bpftime::fuse
