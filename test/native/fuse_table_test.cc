// SPDX-License-Identifier: MIT
// The node table: names appear, are forgotten, removed, renamed, and die with their process.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fuse/node_table.h"
#include "tap.h"

using namespace bpftime::fuse;
using tap::ok;

static ClassSpec dir(const char* name, std::vector<std::pair<std::string, std::string>> children) {
  ClassSpec spec;
  spec.name = name;
  spec.kind = NodeKind::kDir;
  spec.children = std::move(children);
  return spec;
}

static ClassSpec file(const char* name, NodeKind kind) {
  ClassSpec spec;
  spec.name = name;
  spec.kind = kind;
  return spec;
}

static std::vector<ClassSpec> specs() {
  ClassSpec procs = dir("procs", {{"self", "link"}});
  procs.provider = Provider::kProcs;
  procs.child_class = "proc";
  ClassSpec files = dir("files", {{"README", "text"}});
  files.create_class = "payload";
  return {dir("root", {{"status", "text"}, {"procs", "procs"}, {"files", "files"}}),
          procs,
          files,
          dir("proc", {{"events", "stream"}, {"files", "files"}}),
          file("text", NodeKind::kSnapshot),
          file("link", NodeKind::kSymlink),
          file("stream", NodeKind::kStream),
          file("payload", NodeKind::kPayload)};
}

static void names(NodeTable& table) {
  const auto root = table.root();
  tap::equal(root->id, uint64_t{1}, "the root is node 1");
  const auto status = table.find_child(root, "status");
  ok(status != nullptr && status->fixed, "a fixed name");
  ok(table.find_child(root, "nothing") == nullptr, "no such name");
  const uint64_t id = status->id;
  const uint64_t ino = status->ino;
  table.count_lookup(status);
  table.forget(id, 1);
  ok(table.by_id(id) == nullptr, "forgotten nodes go");
  const auto again = table.find_child(root, "status");
  ok(again->id != id, "a node number is never used twice");
  tap::equal(again->ino, ino, "the inode number stays");
  table.collect(again);
  table.forget(12345, 7);
  ok(true, "forgetting what never was does nothing");
}

static void removal(NodeTable& table) {
  const auto files = table.find_path("/files");
  table.count_lookup(files);  // as the kernel's entry of a directory that is in use
  const NodeClass* payload = table.find_class("payload");
  const auto first = table.add_child(files, "a", payload);
  first->published = true;
  table.count_lookup(first);
  table.remove(first);
  ok(first->removed && table.find_path("/files/a") == nullptr, "removed from the tree");
  ok(table.by_id(first->id) == first, "the kernel may still name it");
  ok(table.reattach(first) == first && !first->removed, "it can come back");
  table.remove(first);
  const auto second = table.add_child(files, "a", payload);
  second->published = true;
  ok(table.reattach(first) == second, "unless the name is taken");
  table.forget(first->id, 1);
  ok(table.by_id(first->id) == nullptr, "until it forgets");

  const auto staged = table.add_child(files, "a-12345678.tmp", payload);
  table.count_lookup(staged);
  const uint64_t staged_id = staged->id;
  table.alias(staged, second);
  table.remove(staged);
  ok(table.by_id(staged_id) == second, "a renamed file answers under both numbers");
  table.move(second, files, "b");
  ok(table.find_path("/files/b") == second && table.find_path("/files/a") == nullptr, "moved");
  tap::equal(table.path_of(*second), "/files/b", "its path");
  table.remove(second);
  table.forget(staged_id, 1);
  ok(table.by_id(staged_id) == nullptr && table.by_id(second->id) == nullptr, "all numbers gone");
}

static void processes(NodeTable& table, int* watched) {
  const pid_t pid = fork();
  if (pid == 0) {
    pause();
    _exit(0);
  }
  const std::string path = "/procs/" + std::to_string(pid);
  const auto events = table.find_path(path + "/events");
  ok(events != nullptr && events->proc->pid == pid, "a live process has a directory");
  tap::equal(*watched, 1, "its death is watched");
  const auto stream = table.stream_of(events);
  stream->append("x\n");
  table.collect(events);
  ok(table.find_path(path + "/events") == events, "a file with content stays");
  const std::shared_ptr<Proc> proc = events->proc;
  table.remove_proc(proc);
  ok(events->removed && stream->closed() && proc->dead, "dead: removed, streams end");
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  ok(table.find_path(path) == nullptr, "no directory for a pid that is not there");
  for (const char* name : {"0", "01", "-1", "1x", "4294967297", "self/x", ""}) {
    const std::string bad = std::string("/procs/") + name + "/events";
    ok(table.find_path(bad) == nullptr, bad.c_str());
  }
}

int main() {
  int watched = 0;
  NodeTable table(std::make_shared<Waker>(), [&](const std::shared_ptr<Proc>&) { ++watched; });
  ok(table.init(specs(), "root").ok(), "the table is sound");
  names(table);
  removal(table);
  processes(table, &watched);
  NodeTable broken(std::make_shared<Waker>(), [](const std::shared_ptr<Proc>&) {});
  ok(!broken.init({dir("root", {{"x", "nowhere"}})}, "root").ok(), "an unknown class is refused");
  return tap::done();
}
