// SPDX-License-Identifier: MIT
#include "unwind_tables.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <map>

#include "../vm/sha256.h"
#include "journal.h"

namespace bpftime::target {

namespace {

// What a table is made of. A process that lies about its module gets a table of its own.
Digest digest_of(const unwind::ElfModule& module) {
  const uint64_t places[] = {module.vaddr, module.text_start, module.text_end};
  std::vector<uint8_t> bytes(sizeof places);
  memcpy(bytes.data(), places, sizeof places);
  bytes.insert(bytes.end(), module.eh_frame.begin(), module.eh_frame.end());
  return sha256(bytes);
}

Result<std::shared_ptr<UnwindTable>> make_file(const std::vector<uint8_t>& bytes) {
  const auto no_memory = fail(ENOMEM, "no memory for unwind tables");
  const ScopedFd file(memfd_create("bpftime-unwind", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file.valid()) return no_memory;
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t wrote = write(file.get(), &bytes[at], bytes.size() - at);
    if (wrote <= 0) return no_memory;
    at += static_cast<size_t>(wrote);
  }
  // Of a descriptor that cannot write mprotect makes nothing writable.
  if (fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return no_memory;
  }
  Result<ScopedFd> readable = reopen(file.get(), O_RDONLY);
  if (!readable) return readable.error();
  auto table = std::make_shared<UnwindTable>();
  table->file = std::move(*readable);
  table->bytes = (bytes.size() + ABI_PAGE_BYTES - 1) & ~uint64_t{ABI_PAGE_BYTES - 1};
  return table;
}

std::map<Digest, std::weak_ptr<UnwindTable>>& known_tables() {
  static std::map<Digest, std::weak_ptr<UnwindTable>> tables;
  return tables;
}

}  // namespace

Result<std::shared_ptr<UnwindTable>> unwind_table_of(const unwind::ElfModule& module) {
  if (module.eh_frame.empty()) return std::shared_ptr<UnwindTable>();
  auto& known = known_tables();
  const Digest digest = digest_of(module);
  const auto same = known.find(digest);
  if (same != known.end()) {
    if (std::shared_ptr<UnwindTable> table = same->second.lock()) return table;
  }
  const Result<unwind::UnwindRows> rows = unwind::read_eh_frame(module.input());
  // Too much, or too far up: frame pointers are what is left.
  if (!rows || rows.value().rows.empty()) return std::shared_ptr<UnwindTable>();
  Result<std::shared_ptr<UnwindTable>> made = make_file(unwind::build_table(rows.value()));
  if (!made) return made.error();
  std::erase_if(known, [](const auto& one) { return one.second.expired(); });
  // Bytes that a loader relocated say other addresses elsewhere.
  if (!rows.value().is_relocated || module.bias == 0) known[digest] = made.value();
  return made;
}

std::vector<CodeMapping> code_mappings(const std::vector<Region>& regions) {
  std::vector<CodeMapping> found;
  std::map<std::pair<uint64_t, std::string>, uint64_t> starts;
  for (const Region& region : regions) {
    const bool is_vdso = region.path == "[vdso]";
    if (!is_vdso && region.inode == 0) continue;
    if (region.path.starts_with("/memfd:bpf")) continue;  // ours, and nothing to unwind
    const auto file = std::pair(region.inode, region.path);
    if (region.file_off == 0) starts[file] = region.start;
    const auto start = starts.find(file);
    if (!region.exec || start == starts.end()) continue;
    if (found.size() >= UNWIND_MODULES_MAX) break;
    found.push_back({region.start, region.end, region.file_off, region.inode, start->second});
  }
  return found;
}

uint64_t UnwindTables::address_of(const UnwindTable* table) const {
  for (const Mapped& one : mapped) {
    if (one.table.get() == table) return one.addr;
  }
  return 0;
}

}  // namespace bpftime::target
