// SPDX-License-Identifier: MIT
// Session, the part that gives programs which ask for stacks what they need to find callers:
// tables of the modules' unwind information, and an index of the modules (docs/adr/0029).
//
// Nothing of it is unmapped before we leave: programs read it without a lock.
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <iterator>

#include "session.h"
#include "session_parts.h"

namespace bpftime::target {

namespace {

constexpr uint32_t kHelperGetStackid = 27, kHelperGetStack = 67;

bool walks_stack(const ProgObject& program) {
  const auto& got = program.image.got;
  return std::any_of(got.begin(), got.end(), [](const GotSlot& slot) {
    return slot.kind == GotKind::kHelper &&
           (slot.index == kHelperGetStackid || slot.index == kHelperGetStack);
  });
}

}  // namespace

// A child has what was mapped when it was forked, and uses it until we make it an index of its own.
// What the parent mapped since may be anything here.
void Session::drop_parents_unwind(const Session& parent) {
  std::erase_if(orphans_, [&](const auto& range) {
    const bool is_table = std::any_of(parent.unwind_.mapped.begin(), parent.unwind_.mapped.end(),
                                      [&](const auto& one) { return one.addr == range.first; });
    const Region* region = region_at(regions_, range.first);
    return is_table && (region == nullptr || !region->path.starts_with(kUnwindPath));
  });
}

Result<void> Session::follow_modules() {
  const bool is_wanted = std::any_of(images_.begin(), images_.end(), [](const auto& one) {
    return one.second.program != nullptr && walks_stack(*one.second.program);
  });
  if (!is_wanted) return {};
  const Result<void> alive = check_alive();
  if (!alive) return alive;
  Result<std::vector<Region>> regions = read_regions(any_thread());
  if (!regions) return regions.error();
  regions_ = std::move(regions.value());
  const Result<void> done = update_unwind();
  save();
  return done;
}

Result<void> Session::ensure_unwind(uint32_t prog_id) {
  const Image& first = images_.at(prog_id);
  const bool walks =
      walks_stack(*first.program) ||
      std::any_of(first.reach.begin(), first.reach.end(), [this](uint32_t id) {
        const auto next = images_.find(id);
        return next != images_.end() && next->second.program && walks_stack(*next->second.program);
      });
  return walks ? update_unwind() : Result<void>();
}

// Brings tables and index in line with regions_.
Result<void> Session::update_unwind() {
  const std::vector<CodeMapping> mappings = code_mappings(regions_);
  std::vector<UnwindTables::Module>& known = unwind_.modules;
  const bool is_same =
      unwind_.index != 0 &&
      std::equal(mappings.begin(), mappings.end(), known.begin(), known.end(),
                 [](const CodeMapping& a, const auto& b) { return a == b.mapping; });
  if (is_same) return {};
  std::vector<UnwindTables::Module> modules;
  std::vector<std::shared_ptr<UnwindTable>> tables;
  for (const CodeMapping& mapping : mappings) {
    const auto same = std::find_if(known.begin(), known.end(),
                                   [&](const auto& one) { return one.mapping == mapping; });
    modules.push_back(same != known.end() ? *same : UnwindTables::Module{mapping, {}});
    tables.emplace_back();
    if (same != known.end()) continue;
    Result<std::shared_ptr<UnwindTable>> table = read_module(&modules.back());
    if (!table) return table.error();
    tables.back() = std::move(*table);
  }
  Result<void> step = map_tables(tables);
  if (!step) return step;
  for (size_t i = 0; i < modules.size(); ++i) {
    if (tables[i] != nullptr) modules[i].entry.table = unwind_.address_of(tables[i].get());
  }
  return write_index(std::move(modules));
}

// Fills a module's entry but for where its table is mapped.
Result<std::shared_ptr<UnwindTable>> Session::read_module(UnwindTables::Module* module) {
  const CodeMapping& mapping = module->mapping;
  unwind_module& entry = module->entry;
  entry.start = mapping.start;
  entry.end = mapping.end;
  entry.file_off = mapping.file_off;
  const auto read = [this](uint64_t addr, void* out, size_t size) {
    return get(addr, out, size).ok();
  };
  const uint64_t left = kUnwindBytesMax - std::min(kUnwindBytesMax, unwind_.read_bytes);
  ScopedFd opened;
  const auto file = [&](uint64_t off, void* out, size_t size) {
    const Region* region = region_at(regions_, mapping.file_start);
    if (!opened.valid() && region != nullptr) opened = open_text_file(*region);
    return pread(opened.get(), out, size, static_cast<off_t>(off)) == static_cast<ssize_t>(size);
  };
  const Result<unwind::ElfModule> elf =
      unwind::read_elf_module(mapping.file_start, read, left, file);
  // Code that is no module has frame pointers or nothing.
  if (!elf) return std::shared_ptr<UnwindTable>();
  unwind_.read_bytes += elf.value().eh_frame.size();
  entry.bias = elf.value().bias;
  std::copy(std::begin(elf.value().build_id), std::end(elf.value().build_id), entry.build_id);
  return unwind_table_of(elf.value());
}

Result<void> Session::map_tables(const std::vector<std::shared_ptr<UnwindTable>>& tables) {
  std::vector<std::shared_ptr<UnwindTable>> fresh;
  std::vector<MapWant> wants;
  for (const auto& table : tables) {
    if (table == nullptr || unwind_.address_of(table.get()) != 0) continue;
    if (std::find(fresh.begin(), fresh.end(), table) != fresh.end()) continue;
    if (unwind_.mapped.size() + fresh.size() >= kUnwindTablesMax) break;
    fresh.push_back(table);
    wants.push_back(MapWant::shared(table->file.get(), table->bytes, PROT_READ));
  }
  if (unwind_.index == 0) wants.push_back(MapWant::anon(sizeof(unwind_index), PROT_READ, 0));
  const Result<void> mapped = map_all(&wants);
  if (!mapped) return mapped;
  for (size_t i = 0; i < fresh.size(); ++i) {
    unwind_.mapped.push_back({fresh[i], wants[i].addr});
    orphans_.emplace_back(wants[i].addr, wants[i].addr + fresh[i]->bytes);
  }
  if (unwind_.index != 0) return {};
  unwind_.index = wants.back().addr;
  orphans_.emplace_back(unwind_.index, unwind_.index + sizeof(unwind_index));
  return {};
}

// The half that nobody reads, then the word that says that it counts.
Result<void> Session::write_index(std::vector<UnwindTables::Module> modules) {
  std::vector<unwind_module> entries;
  for (const UnwindTables::Module& module : modules) entries.push_back(module.entry);
  const uint32_t next = unwind_.generation + 1;
  const uint32_t half = next & 1;
  const auto count = static_cast<uint32_t>(entries.size());
  const uint32_t version = UNWIND_V1;
  const uint64_t at = unwind_.index;
  Result<void> step =
      put(at + offsetof(unwind_index, modules) + half * UNWIND_MODULES_MAX * sizeof(unwind_module),
          entries.data(), entries.size() * sizeof(unwind_module));
  if (step.ok()) step = put(at + offsetof(unwind_index, counts) + half * 4, &count, sizeof count);
  if (step.ok()) step = put(at, &version, sizeof version);
  if (step.ok()) step = put(at + offsetof(unwind_index, generation), &next, sizeof next);
  const uint64_t env = agent_ + header_.env_off + offsetof(rt_env, unwind_index);
  if (step.ok()) step = put(env, &at, sizeof at);
  if (!step) return step;
  unwind_.generation = next;
  unwind_.modules = std::move(modules);
  return {};
}

}  // namespace bpftime::target
