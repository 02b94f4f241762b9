// SPDX-License-Identifier: MIT
// Questions to JavaScript: sent, ordered per node, answered late, cancelled or never answered.
#include "proc_info.h"
#include "server.h"

namespace bpftime::fuse {
namespace {

// A question that waits behind others of its node may wait for several of them.
constexpr int kQueuedDeadlines = 6;
// What was carried out must not be called interrupted: who asks again (libuv does, at any signal
// that has a handler) is told that it is not there. Enough for nearly all, short for a person.
constexpr std::chrono::milliseconds kInterruptGrace{250};

}  // namespace

void Server::ask(const Request& request, Question question, Completion done) {
  const uint64_t id = next_question_++;
  Pending& pending = pending_[id];
  pending.unique = request.unique();
  pending.node = question.serial_node;
  pending.done = std::move(done);
  pending.request.id = id;
  pending.request.op = question.op;
  pending.request.path = std::move(question.path);
  pending.request.cls = std::move(question.cls);
  pending.request.data = std::move(question.data);
  pending.request.to = std::move(question.to);
  pending.request.truncate = question.truncate;
  pending.request.caller = request.caller();
  const int tid = pending.request.caller.tid;
  const int tgid = tgid_of(tid);
  if (tgid != 0) pending.request.caller.tid = tgid;
  pending.written = question.written;
  const bool is_self =
      pending.node != nullptr && pending.node->proc != nullptr && pending.node->proc->pid == tgid;
  if (is_self) pending.request.self_tid = pending.self_tid = tid;
  if (pending.node != nullptr && pending.node->busy) {
    pending.node->waiting_requests.push_back(id);
    pending.deadline =
        Clock::now() + kQueuedDeadlines * std::chrono::milliseconds(options_.deadline_ms);
  } else {
    deliver(pending);
  }
  if (keeper_idle_) wake_keeper();
}

void Server::deliver(Pending& pending) {
  pending.sent = true;
  pending.deadline = Clock::now() + std::chrono::milliseconds(options_.deadline_ms);
  if (pending.node != nullptr) pending.node->busy = true;
  const bool wake = outbox_.empty();
  outbox_.push_back(std::move(pending.request));
  pending.request.path = outbox_.back().path;  // for a later cancel
  pending.request.id = outbox_.back().id;
  if (wake) sink_->requests_ready();
}

void Server::finish(uint64_t id, int errnum, std::string& data) {
  const auto it = pending_.find(id);
  if (it == pending_.end()) return;
  Pending pending = std::move(it->second);
  pending_.erase(it);
  pending.done(pending.unique, errnum, data);
  if (pending.node != nullptr) next_question(pending.node);
}

void Server::next_question(const NodePtr& node) {
  node->busy = false;
  while (!node->waiting_requests.empty()) {
    const auto it = pending_.find(node->waiting_requests.front());
    node->waiting_requests.pop_front();
    if (it == pending_.end()) continue;  // given up while it waited
    deliver(it->second);
    return;
  }
  table_.collect(node);
}

// A process that changes itself waits in its own request and cannot be stopped in it.
bool Server::let_out(int tid) {
  const std::lock_guard<std::mutex> guard(mutex_);
  for (auto& [id, pending] : pending_) {
    if (pending.self_tid == tid && pending.unique != 0) return answer_early(pending);
  }
  return false;
}

bool Server::answer_early(Pending& pending) {
  fuse_write_out out = {};
  out.size = pending.written;
  const uint64_t unique = std::exchange(pending.unique, 0);
  return send(unique, 0, &out, pending.written != 0 ? sizeof(out) : 0);
}

// A signal came, whichever: the kernel does not say. Before JavaScript heard of it nothing
// happened.
void Server::interrupt(Pending& pending) {
  if (!pending.sent) return give_up(pending, EINTR);
  pending.is_interrupted = true;
  pending.deadline = std::min(pending.deadline, Clock::now() + kInterruptGrace);
  wake_keeper();
}

void Server::give_up(Pending& pending, int errnum) {
  send(pending.unique, errnum);
  pending.unique = 0;
  if (!pending.sent) {
    const uint64_t id = pending.request.id;
    pending_.erase(id);
    return;
  }
  // It stays pending: JavaScript may have changed something already, and says so when it answers.
  ControlRequest cancel;
  cancel.id = pending.request.id;
  cancel.op = ControlOp::kCancel;
  cancel.path = pending.request.path;
  const bool wake = outbox_.empty();
  outbox_.push_back(std::move(cancel));
  if (wake) sink_->requests_ready();
}

}  // namespace bpftime::fuse
