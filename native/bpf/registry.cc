// SPDX-License-Identifier: MIT
// Objects by id and by the inode of their memfd. Holds weak references only.
#include "registry.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <map>
#include <mutex>

#include "objects.h"
#include "registry_table.h"

namespace bpftime {

namespace {

struct Table {
  std::mutex mutex;
  std::map<uint32_t, std::weak_ptr<void>> by_id[3];
  std::map<std::pair<uint64_t, uint64_t>, ObjectRef> by_inode;  // (device, inode)
  uint32_t last_id[3] = {0, 0, 0};
};

Table& table() {
  static Table* instance = new Table;  // objects may outlive static destructors
  return *instance;
}

thread_local LoadSession* current_session = nullptr;

bool inode_of(int fd, std::pair<uint64_t, uint64_t>& key) {
  struct stat st;
  if (fstat(fd, &st) != 0) return false;
  key = {st.st_dev, st.st_ino};
  return true;
}

std::shared_ptr<void> find(ObjectKind kind, uint32_t id) {
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  auto& ids = t.by_id[static_cast<int>(kind)];
  const auto it = ids.find(id);
  return it == ids.end() ? nullptr : it->second.lock();
}

std::shared_ptr<void> find_fd(ObjectKind kind, int fd) {
  std::pair<uint64_t, uint64_t> key;
  if (!inode_of(fd, key)) return nullptr;
  ObjectRef ref;
  {
    Table& t = table();
    const std::lock_guard lock(t.mutex);
    const auto it = t.by_inode.find(key);
    if (it == t.by_inode.end()) return nullptr;
    ref = it->second;
  }
  return ref.kind == kind ? find(kind, ref.id) : nullptr;
}

void forget(ObjectKind kind, uint32_t id, int fd) {
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  t.by_id[static_cast<int>(kind)].erase(id);
  std::pair<uint64_t, uint64_t> key;
  if (inode_of(fd, key)) t.by_inode.erase(key);
}

}  // namespace

uint32_t reserve_id(ObjectKind kind) {
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  return ++t.last_id[static_cast<int>(kind)];
}

void register_object(ObjectRef ref, int fd, const std::shared_ptr<void>& object) {
  std::pair<uint64_t, uint64_t> key;
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  t.by_id[static_cast<int>(ref.kind)][ref.id] = object;
  if (inode_of(fd, key)) t.by_inode[key] = ref;
}

void keep_for_descriptors(std::shared_ptr<void> object) {
  if (current_session != nullptr) {
    current_session->kept_.push_back(std::move(object));
    return;
  }
  static std::mutex ambient_mutex;
  static auto* ambient = new std::vector<std::shared_ptr<void>>;
  const std::lock_guard lock(ambient_mutex);
  ambient->push_back(std::move(object));
}

LoadSession::LoadSession() : outer_(current_session) { current_session = this; }
LoadSession::~LoadSession() { current_session = outer_; }

std::shared_ptr<MapObject> find_map(uint32_t id) {
  return std::static_pointer_cast<MapObject>(find(ObjectKind::kMap, id));
}
std::shared_ptr<ProgObject> find_prog(uint32_t id) {
  return std::static_pointer_cast<ProgObject>(find(ObjectKind::kProg, id));
}
std::shared_ptr<BtfObject> find_btf(uint32_t id) {
  return std::static_pointer_cast<BtfObject>(find(ObjectKind::kBtf, id));
}
std::shared_ptr<MapObject> map_of_fd(int fd) {
  return std::static_pointer_cast<MapObject>(find_fd(ObjectKind::kMap, fd));
}
std::shared_ptr<ProgObject> prog_of_fd(int fd) {
  return std::static_pointer_cast<ProgObject>(find_fd(ObjectKind::kProg, fd));
}
std::shared_ptr<BtfObject> btf_of_fd(int fd) {
  return std::static_pointer_cast<BtfObject>(find_fd(ObjectKind::kBtf, fd));
}

uint32_t next_id(ObjectKind kind, uint32_t after) {
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  auto& ids = t.by_id[static_cast<int>(kind)];
  for (auto it = ids.upper_bound(after); it != ids.end(); ++it) {
    if (!it->second.expired()) return it->first;
  }
  return 0;
}

MapObject::~MapObject() {
  if (id != 0) forget(ObjectKind::kMap, id, storage.get());
  if (view.base != nullptr) munmap(view.base, view.storage_bytes);
}
ProgObject::~ProgObject() {
  if (id != 0) forget(ObjectKind::kProg, id, text.get());
}
BtfObject::~BtfObject() {
  if (id != 0) forget(ObjectKind::kBtf, id, fd.get());
}

}  // namespace bpftime
