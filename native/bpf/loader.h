// SPDX-License-Identifier: MIT
// eBPF object files: libbpf parses and relocates them, our bpf(2) takes what it loads.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "registry.h"

namespace bpftime {

/// What one object file became. Programs keep the maps they use alive by themselves.
struct LoadedObject {
  std::vector<std::shared_ptr<MapObject>> maps;
  std::vector<std::shared_ptr<ProgObject>> programs;
  std::vector<uint8_t> btf;  // raw .BTF, empty when the object has none
};

/// Loads every program of the object. Any thread. `log` gets libbpf's warnings and the
/// validator's. ENOEXEC (and the reason), EFBIG, ENOMEM, EIO: libbpf is not bound to us.
Result<LoadedObject> load_object(const std::string& name, std::span<const uint8_t> file,
                                 std::string& log);

}  // namespace bpftime
