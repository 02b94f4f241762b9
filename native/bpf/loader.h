// SPDX-License-Identifier: MIT
// eBPF object files: libbpf parses and relocates them, our bpf(2) takes what it loads.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "registry.h"

struct bpf_object;

namespace bpftime {

/// What one object file became. Programs keep the maps they use alive by themselves.
struct LoadedObject {
  std::vector<std::shared_ptr<MapObject>> maps;
  // What their keys and values are, as type ids in this object's BTF; a map that was there before
  // may have another object's. 0 = none.
  struct MapTypes {
    uint32_t key = 0, value = 0;
  };
  std::vector<MapTypes> map_types;
  std::vector<std::shared_ptr<ProgObject>> programs;
  std::vector<uint8_t> btf;  // raw .BTF, empty when the object has none
};

/// Collects libbpf's messages of this thread while it exists.
class LogCapture {
 public:
  explicit LogCapture(std::string& log);
  ~LogCapture();
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;
};

struct CloseObject {
  void operator()(bpf_object* object) const;
};
using ObjectPtr = std::unique_ptr<bpf_object, CloseObject>;

/// Checks the file's shape and opens it with libbpf: every program is to be loaded, those of
/// sections that libbpf does not know as probes. Within a LogCapture. ENOEXEC, EFBIG, EIO.
/// Programs of SEC("replace/..."), or all if `replaces`, are loaded as kAttachReplace.
Result<ObjectPtr> open_object(const std::string& name, std::span<const uint8_t> file,
                              bool replaces = false);

/// A sentence about the first map of a kind that does not exist here; "" if there is none.
std::string absent_map(const bpf_object* object);

/// What rings carry is declared for our readers; libbpf would have its size refused.
void forget_ring_types(bpf_object* object);

/// Maps that a new object goes on with instead of making its own: those of the same name, type,
/// sizes and flags. Global variables (.data, .bss) only if they begin with the same values in both
/// objects, constants (.rodata) never: a changed number in a source file must arrive.
struct FormerMaps {
  std::vector<std::shared_ptr<MapObject>> maps;
  bool same_file = false;  // they were made for these very bytes: constants, too
};

/// Loads every program of the object. Any thread. `log` gets libbpf's warnings and the
/// verifier's. ENOEXEC (and the reason), EFBIG, ENOMEM, EIO: libbpf is not bound to us.
Result<LoadedObject> load_object(const std::string& name, std::span<const uint8_t> file,
                                 std::string& log, const FormerMaps& former = {},
                                 bool replaces = false);

}  // namespace bpftime
