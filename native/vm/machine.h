// SPDX-License-Identifier: MIT
// What a bpftime_vm (include/bpftime/vm.h) is made of, for the files that implement the interface.
#pragma once

#include <map>
#include <memory_resource>
#include <optional>
#include <string>
#include <vector>

#include "include/bpftime/vm.h"
#include "interp.h"
#include "loaded_image.h"
#include "verify/verify.h"

namespace bpftime {

/// The embedder's allocator as containers want it.
class MachineMemory : public std::pmr::memory_resource {
 public:
  explicit MachineMemory(const bpftime_vm_allocator& hook) : hook_(hook) {}
  [[nodiscard]] const bpftime_vm_allocator& hook() const { return hook_; }

 private:
  void* do_allocate(size_t bytes, size_t alignment) override;
  void do_deallocate(void* memory, size_t bytes, size_t alignment) override;
  [[nodiscard]] bool do_is_equal(const memory_resource& other) const noexcept override {
    return this == &other;
  }
  bpftime_vm_allocator hook_;
};

/// A map as its machine keeps it; the machine's own helpers get its address in r1.
struct MachineMap {
  bpftime_vm_map map{};
  std::string name;
};

/// A section of data of an object.
struct MachineData {
  std::pmr::vector<uint64_t> words;  // aligned as programs expect it
  uint32_t bytes = 0;
  bool is_constant = false;
};

struct Helper {
  bpftime_vm_helper fn = nullptr;
  std::optional<verify::Contract> contract;
};

/// The context that programs are verified for.
struct MachineContext {
  verify::Context shape;
  std::vector<verify::ContextField> fields;
  uint32_t bytes = 0;
};

}  // namespace bpftime

struct bpftime_vm {
  explicit bpftime_vm(const bpftime_vm_allocator& hook)
      : memory(hook), helpers(&memory), maps(&memory), data(&memory), slots(&memory) {}

  bpftime::MachineMemory memory;
  std::pmr::map<uint32_t, bpftime::Helper> helpers;
  bpftime::HelperSet helper_set;  // those that exist
  bool has_own_map_helpers = true;
  std::pmr::map<uint32_t, bpftime::MachineMap> maps;
  std::pmr::map<uint32_t, bpftime::MachineData> data;  // by map id, from kDataIds on
  uint32_t data_id = 0;                                // of the loaded object; 0: it has none
  std::optional<bpftime::MachineContext> context;
  std::pmr::vector<uint64_t> slots;
  std::optional<bpftime::Program> program;
  uint32_t ctx_bytes_min = 0;  // what the program was verified for
  std::optional<bpftime::LoadedImage> image;
  bool is_budgeted = false;  // the image is
  size_t code_bytes = 0;
  std::string error;
  bpftime::verify::Outcome outcome;  // of the last verification
  bpftime_vm_refusal refusal{};
  bool is_refused = false;
};

namespace bpftime {

/// Map ids of data: two ranges of this many, of which loaded and new object take turns.
inline constexpr uint32_t kDataIds = 0x80000000;
inline constexpr uint32_t kDataIdsOfObject = 1u << 20;

/// Registers helpers 1 to 3 of the machine itself.
void add_own_map_helpers(bpftime_vm* vm);

/// bpftime_vm_load() of code that is in slots.
int load_slots(bpftime_vm* vm, std::span<const uint64_t> slots, uint32_t flags,
               const verify::DebugInfo& debug);

/// Verifies `slots`, or checks their form; fills in what bpftime_vm_refused() says. 0 or -errno.
int judge(bpftime_vm* vm, std::span<const uint64_t> slots, uint32_t flags,
          const verify::DebugInfo& debug);

}  // namespace bpftime
