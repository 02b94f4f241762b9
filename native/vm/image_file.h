// SPDX-License-Identifier: MIT
// Compiled programs in a file (.bvi): machine code, what a process must supply to run it, and the
// maps that it names. A file says what it was made from, by which build and for which processor;
// whoever reads it compiles anew when one of these is another, and takes no file that is not whole.
//
// A digest keeps accidents away, not people: who can write to an image decides what is run. Nothing
// but a person's own `bpftimefs vm run` reads one; the daemon compiles what it puts into processes.
//
// Layout: FileHeader, then maps and programs one behind the other, counted strings and arrays,
// little endian. Every length is checked, although the digest was right.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "../base/result.h"
#include "image.h"
#include "sha256.h"

namespace bpftime {

inline constexpr size_t kImageFileBytesMax = 256u << 20;

/// What a program array holds.
struct ImageTail {
  uint32_t index = 0;
  uint32_t program = 0;  // place in ImageFile::programs
};

/// A map as it is created, and what its first value begins with.
struct ImageMap {
  uint32_t type = 0, key_size = 0, value_size = 0, max_entries = 0, flags = 0;
  uint32_t bloom_hashes = 0;
  bool is_frozen = false;
  std::string name;
  std::vector<uint8_t> value;  // empty: zeroes
  std::vector<ImageTail> programs;
};

struct ImageProgram {
  std::string name, section;
  uint32_t type = 0;   // BPF_PROG_TYPE_*
  ProgramImage image;  // map references are places in ImageFile::maps
};

struct ImageFile {
  Digest source{};         // of the bytes that it was made from
  uint32_t cpu_count = 0;  // for which its maps were laid out; whoever makes maps compares it
  std::vector<ImageMap> maps;
  std::vector<ImageProgram> programs;
};

[[nodiscard]] std::vector<uint8_t> write_image_file(const ImageFile& file);

/// EINVAL: no image, of another build, for another processor, or damaged; ESTALE: made from
/// something else than `source` (null: whatever it was made from).
Result<ImageFile> read_image_file(std::span<const uint8_t> bytes, const Digest* source);

/// What tells builds of this library apart: it is part of every file.
[[nodiscard]] const Digest& build_digest();

}  // namespace bpftime
