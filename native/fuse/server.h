// SPDX-License-Identifier: MIT
// Server: one mount. Its serving thread answers the kernel; its keeper thread ends what takes too
// long, notices dying processes and completes waiting reads; JavaScript decides what commits,
// lines and unlinks mean and may be busy for as long as it likes.
//
// One mutex guards all state. The serving thread never waits for anything but /dev/fuse.
// Must not be here: sentences, text grammars, anything about eBPF.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "../base/result.h"
#include "node_table.h"
#include "wire.h"

namespace bpftime::fuse {

enum class ControlOp { kLookup, kRead, kLine, kCommit, kUnlink, kRename, kMkdir, kRmdir, kCancel };

/// A question to JavaScript: FuseRequest in src/native.ts.
struct ControlRequest {
  uint64_t id = 0;
  ControlOp op = ControlOp::kRead;
  std::string path;
  std::string cls;
  std::string data;
  std::string to;
  bool truncate = false;
  Caller caller;     // tid is replaced by the thread group
  int self_tid = 0;  // the calling thread, when it wants to change its own process
};

/// Where requests go. Called from any thread, with the server's mutex held: must only wake.
class RequestSink {
 public:
  virtual ~RequestSink() = default;
  virtual void requests_ready() = 0;
  virtual void ended() = 0;
  /// Whether we ourselves interrupted the thread `tid`, and it must be let out of its request.
  virtual bool claim_interrupted(int tid) = 0;
};

struct ServerOptions {
  std::string mountpoint;
  bool allow_other = false;
  std::string root_class;
  std::vector<ClassSpec> classes;
  uint64_t deadline_ms = 10'000;
};

struct ServerStats {
  uint64_t requests = 0;
  uint64_t open_files = 0;
  uint64_t pending_requests = 0;
};

class Server {
 public:
  /// Mounts and starts to serve. `sink` must outlive stop().
  static Result<std::shared_ptr<Server>> start(ServerOptions options, RequestSink* sink);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  std::vector<ControlRequest> take_requests();
  void answer(uint64_t id, int errnum, std::string data);
  /// Answers the request in which `tid`, which has been interrupted, waits for a change of its own
  /// process: it stops on the way out of the system call. What fails after that is told to it by
  /// other means. False when it waits for no such thing.
  bool let_out(int tid);
  struct Publication {
    std::string path, cls;
    std::optional<std::string> content, symlink;
  };
  Result<void> publish(Publication node);
  Result<void> unpublish(std::string_view path);
  Result<void> append(std::string_view path, std::string_view text);
  std::shared_ptr<Stream> stream_at(std::string_view path);
  /// See stream.h. Not for who holds a lock that a request may wait for.
  void serve_readers();
  ServerStats stats();
  /// Unmounts and joins the threads; idempotent. Not to be called from them.
  void stop();

 private:
  using Clock = std::chrono::steady_clock;
  using NodePtr = std::shared_ptr<Node>;
  /// Runs with the mutex held. `unique` is 0 when the kernel has its answer already.
  using Completion = std::function<void(uint64_t unique, int errnum, std::string& data)>;

  struct Pending {
    uint64_t unique = 0;
    NodePtr node;  // whose queue it is in; null when it needs no order
    ControlRequest request;
    Clock::time_point deadline;
    bool sent = false;
    bool is_out = false;  // answered early
    bool is_interrupted = false;
    int self_tid = 0;      // as in the request
    uint32_t written = 0;  // body of a successful answer to write(2); 0: none
    Completion done;
  };
  struct Waiter {
    uint64_t unique;
    uint64_t handle;
    uint32_t size_bytes;
  };
  struct Operation;
  static const Operation kOperations[];

  Server(ServerOptions options, RequestSink* sink);

  // server.cc: the loop, replies
  void serve();
  void dispatch(const Request& request);
  bool send(uint64_t unique, int errnum, const void* a = nullptr, size_t a_len = 0,
            const void* b = nullptr, size_t b_len = 0);
  void op_init(const Request& request);
  void op_forget(const Request& request);
  void op_batch_forget(const Request& request);
  void op_interrupt(const Request& request);
  void op_statfs(const Request& request);
  void op_ok(const Request& request);
  void op_not_permitted(const Request& request);
  void op_silent(const Request& request);

  // server_questions.cc: what JavaScript is asked
  struct Question {
    ControlOp op;
    NodePtr serial_node;  // keep the order among the questions of this node
    std::string path;
    std::string cls;
    std::string data;
    std::string to;
    bool truncate = false;
    uint32_t written = 0;
  };
  void ask(const Request& request, Question question, Completion done);
  void deliver(Pending& pending);
  void finish(uint64_t id, int errnum, std::string& data);
  void next_question(const NodePtr& node);
  /// The kernel gets its answer now; JavaScript is told to stop.
  void give_up(Pending& pending, int errnum);
  void interrupt(Pending& pending);
  bool answer_early(Pending& pending);

  // server_lookup.cc: names and attributes
  void op_lookup(const Request& request);
  void op_getattr(const Request& request);
  void op_setattr(const Request& request);
  void op_readlink(const Request& request);
  void op_access(const Request& request);
  void op_opendir(const Request& request);
  void op_readdir(const Request& request);
  void op_releasedir(const Request& request);
  fuse_attr attributes(const Node& node) const;
  void reply_entry(uint64_t unique, const NodePtr& node);
  int process_permission(const Request& request, const Node& node, Touch touch) const;
  int permission(const Request& request, const NodePtr& node, bool write);
  bool drop_if_dead(const NodePtr& node);
  void refuse_gone(const Request& request, const Node& procs, std::string_view pid);
  std::vector<DirEntry> list(const Request& request, const NodePtr& dir);
  void list_procs(const Request& request, const NodePtr& dir, std::vector<DirEntry>* out);

  // server_files.cc: open files
  void op_open(const Request& request);
  void op_read(const Request& request);
  void op_write(const Request& request);
  void op_flush(const Request& request);
  void op_release(const Request& request);
  void op_create(const Request& request);
  void op_poll(const Request& request);
  Handle* handle(uint64_t id);
  Handle& open_handle(const NodePtr& node, uint32_t flags);
  void close_handle(uint64_t id);
  void reply_open(uint64_t unique, Handle& opened);
  void reply_slice(const Request& request, std::string_view content);
  void read_stream(const Request& request, Handle& file);
  void write_line(const Request& request, Handle& file, std::string_view data);
  void ask_line(const Request& request, Handle& file, std::string lines, uint32_t written);
  static int refuse(Handle& file, int errnum);
  int write_payload(Handle& file, uint64_t offset, bool append, std::string_view data);
  int resize_payload(Handle& file, uint64_t size_bytes);
  void own_copy(Handle& file);
  void commit(const Request& request, Handle& file);
  void committed(const NodePtr& node, int errnum, std::string& data);
  static uint32_t open_flags(const Handle& file);

  // server_changes.cc: unlink, rename, mkdir, rmdir
  void op_unlink(const Request& request);
  void op_rmdir(const Request& request);
  void op_mkdir(const Request& request);
  void op_rename(const Request& request);
  void op_rename2(const Request& request);
  void rename(const Request& request, uint64_t to_dir, uint32_t flags, std::string_view from,
              std::string_view to);
  void rename_staged(const Request& request, const NodePtr& node, const NodePtr& dir,
                     const std::string& to);
  void rename_published(const Request& request, const NodePtr& node, const NodePtr& dir,
                        const std::string& to);
  void settle_staged(const NodePtr& staged, const NodePtr& dir, const std::string& to,
                     std::string& data);
  void move_handles(const NodePtr& from, const NodePtr& to);
  Handle* dirty_handle(const NodePtr& node);

  // keeper.cc: time, death, waiting readers
  void keep();
  void watch(const std::shared_ptr<Proc>& proc);
  void serve_waiters();
  void wake_pollers();
  void tell_gone(const std::vector<std::pair<uint64_t, std::string>>& gone);
  void proc_died(const std::shared_ptr<Proc>& proc);
  Clock::time_point expire(Clock::time_point now);
  void wake_keeper();

  const ServerOptions options_;
  RequestSink* const sink_;
  ScopedFd fd_;
  ScopedFd epoll_;
  std::shared_ptr<Waker> waker_ = std::make_shared<Waker>();
  std::thread server_thread_, keeper_thread_;
  std::atomic<bool> stopping_{false}, served_out_{false};

  // The serving thread's: the request at hand is likely to be followed by another at once.
  bool is_burst_ = false;

  std::mutex mutex_;  // guards everything below
  NodeTable table_;
  std::unordered_map<uint64_t, Handle> handles_;
  std::unordered_map<uint64_t, Pending> pending_;
  std::vector<ControlRequest> outbox_;
  std::vector<Waiter> waiters_;
  std::vector<uint64_t> armed_polls_;                   // handle ids
  std::vector<std::pair<uint64_t, std::string>> gone_;  // directory and name, for the kernel
  std::unordered_map<uint64_t, std::weak_ptr<Proc>> watched_;
  std::vector<std::weak_ptr<Node>> staged_;
  uint64_t next_handle_ = 1, next_question_ = 1, next_watch_ = 1;
  uint64_t staged_bytes_ = 0;  // in the buffers of all open payloads
  uint64_t request_count_ = 0;
  bool keeper_idle_ = true;
};

}  // namespace bpftime::fuse
