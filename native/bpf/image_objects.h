// SPDX-License-Identifier: MIT
// Loaded objects as image files (native/vm/image_file.h), and back.
#pragma once

#include <span>

#include "../vm/image_file.h"
#include "loader.h"

namespace bpftime {

/// EOPNOTSUPP: it has maps of maps.
Result<ImageFile> image_of_object(const LoadedObject& object, const Digest& source);

/// New maps, and programs that can be run as machine code only. What create_map says; EINVAL: a
/// value of a map cannot be set.
Result<LoadedObject> object_of_image(ImageFile file);

}  // namespace bpftime
