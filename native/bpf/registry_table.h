// SPDX-License-Identifier: MIT
// How new objects enter the registry; for the files that create them, nobody else.
#pragma once

#include "objects.h"

namespace bpftime {

struct ObjectRef {
  ObjectKind kind = ObjectKind::kMap;
  uint32_t id = 0;
};

/// Ids start at 1 and are never used twice.
uint32_t reserve_id(ObjectKind kind);
/// Makes the object findable by id and by any descriptor of `fd`'s file.
void register_object(ObjectRef ref, int fd, const std::shared_ptr<void>& object);

}  // namespace bpftime
