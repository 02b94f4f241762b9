// SPDX-License-Identifier: MIT
// UnwindTables: the unwind tables of one process' modules, as its session knows them, and where the
// daemon keeps those of all processes. docs/adr/0029-unwind-tables.md.
//
// Only the tracer thread comes here.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../abi/unwind.h"
#include "../base/result.h"
#include "../base/scoped_fd.h"
#include "../unwind/elf_module.h"
#include "proc_maps.h"

namespace bpftime::target {

/// How our memory files of this kind begin in /proc/<pid>/maps.
constexpr const char* kUnwindPath = "/memfd:bpftime-unwind";

/// One table, for all processes whose module has the same .eh_frame.
struct UnwindTable {
  ScopedFd file;  // read-only
  uint64_t bytes = 0;
};

/// The table of a module's unwind information: made now, or found. Null: it has none.
Result<std::shared_ptr<UnwindTable>> unwind_table_of(const unwind::ElfModule& module);

/// What one process may have us read, and map: it may load modules without end.
constexpr uint64_t kUnwindBytesMax = uint64_t{512} << 20;
constexpr size_t kUnwindTablesMax = 4096;

/// An executable mapping, and where the first page of its file is mapped.
struct CodeMapping {
  uint64_t start = 0, end = 0, file_off = 0, inode = 0, file_start = 0;
  bool operator==(const CodeMapping&) const = default;
};

/// Those among the mappings of a process that may have unwind information, at most
/// UNWIND_MODULES_MAX.
std::vector<CodeMapping> code_mappings(const std::vector<Region>& regions);

struct UnwindTables {
  struct Module {
    CodeMapping mapping;
    unwind_module entry{};
  };
  struct Mapped {
    std::shared_ptr<UnwindTable> table;
    uint64_t addr = 0;
  };
  uint64_t index = 0;  // struct unwind_index in the target; 0: nobody has asked for stacks
  uint32_t generation = 0;
  std::vector<Module> modules;  // as the index has them
  std::vector<Mapped> mapped;   // stay until we leave
  uint64_t read_bytes = 0;      // of unwind information, since we came

  /// 0: it is not mapped.
  [[nodiscard]] uint64_t address_of(const UnwindTable* table) const;
};

}  // namespace bpftime::target
