// SPDX-License-Identifier: MIT
#include "mounts.h"

#include <map>
#include <mutex>

namespace bpftime::fuse {
namespace {

struct Registry {
  std::mutex mutex;
  std::map<int, std::shared_ptr<Server>> servers;
  int next = 1;
};

// Never destroyed: threads of other parts may ask while the process exits.
Registry& registry() {
  static auto* const instance = new Registry;
  return *instance;
}

}  // namespace

int register_mount(std::shared_ptr<Server> server) {
  Registry& all = registry();
  const std::lock_guard<std::mutex> guard(all.mutex);
  const int mount = all.next++;
  all.servers[mount] = std::move(server);
  return mount;
}

std::shared_ptr<Server> find_mount(int mount) {
  Registry& all = registry();
  const std::lock_guard<std::mutex> guard(all.mutex);
  const auto it = all.servers.find(mount);
  return it == all.servers.end() ? nullptr : it->second;
}

void drop_mount(int mount) {
  std::shared_ptr<Server> dropped;  // destroyed after the lock
  Registry& all = registry();
  const std::lock_guard<std::mutex> guard(all.mutex);
  const auto it = all.servers.find(mount);
  if (it == all.servers.end()) return;
  dropped = std::move(it->second);
  all.servers.erase(it);
}

bool let_out(int tid) {
  std::vector<std::shared_ptr<Server>> servers;
  {
    Registry& all = registry();
    const std::lock_guard<std::mutex> guard(all.mutex);
    for (const auto& [mount, server] : all.servers) servers.push_back(server);
  }
  for (const auto& server : servers) {
    if (server->let_out(tid)) return true;
  }
  return false;
}

std::shared_ptr<Stream> find_stream(int mount, std::string_view path) {
  const std::shared_ptr<Server> server = find_mount(mount);
  return server == nullptr ? nullptr : server->stream_at(path);
}

void serve_readers(int mount) {
  if (const std::shared_ptr<Server> server = find_mount(mount)) server->serve_readers();
}

}  // namespace bpftime::fuse
