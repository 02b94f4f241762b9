// SPDX-License-Identifier: MIT
// Which names may be created, and which of them are some tool's temporary ones.
#include <algorithm>

#include "node.h"

namespace bpftime::fuse {
namespace {

bool is_alnum(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool is_lower_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

bool all_alnum(std::string_view text) { return std::all_of(text.begin(), text.end(), is_alnum); }

// LLVM's TempFile: STEM-%%%%%%%%EXT.tmp, where EXT is the extension of the output, if any.
bool is_clang_temporary(std::string_view name) {
  if (!name.ends_with(".tmp")) return false;
  name.remove_suffix(4);
  const size_t dash = name.rfind('-');
  if (dash == std::string_view::npos || dash == 0) return false;
  const std::string_view rest = name.substr(dash + 1);
  if (rest.size() < 8 || (rest.size() > 8 && rest[8] != '.')) return false;
  return std::all_of(rest.begin(), rest.begin() + 8, is_lower_hex);
}

// .NAME.XXXXXX of rsync and mkstemp users; .NAME.swp, .swo, .swpx of vim.
bool is_dot_temporary(std::string_view name) {
  if (name.size() < 4 || name[0] != '.') return false;
  const size_t dot = name.rfind('.');
  if (dot == 0) return false;
  const std::string_view suffix = name.substr(dot + 1);
  if (suffix.size() == 6 && all_alnum(suffix)) return true;
  return (suffix.size() == 3 || suffix == "swpx") && suffix.starts_with("sw");
}

}  // namespace

bool is_staging_name(std::string_view name, bool exclusive) {
  if (is_clang_temporary(name) || is_dot_temporary(name)) return true;
  if (name.size() > 1 && name.back() == '~') return true;
  if (!exclusive) return false;
  if (name.size() == 9 && name.starts_with("sed")) return all_alnum(name.substr(3));
  return name.size() == 8 && name.starts_with("st") && all_alnum(name.substr(2));
}

bool is_valid_name(std::string_view name) {
  if (name.empty() || name.size() > 255) return false;
  size_t i = 0;
  while (i < name.size()) {
    const auto byte = static_cast<unsigned char>(name[i]);
    if (byte < 0x20 || byte == 0x7f || byte == '/') return false;
    const size_t extra = byte < 0x80 ? 0 : byte >= 0xf0 ? 3 : byte >= 0xe0 ? 2 : 1;
    if (byte >= 0x80 && (byte < 0xc2 || byte > 0xf4)) return false;
    if (i + extra >= name.size()) return false;
    for (size_t k = 1; k <= extra; ++k) {
      if ((static_cast<unsigned char>(name[i + k]) & 0xc0) != 0x80) return false;
    }
    i += extra + 1;
  }
  return true;
}

}  // namespace bpftime::fuse
