// SPDX-License-Identifier: MIT
// The code of an eBPF object file, for machines that have neither maps nor BTF: code sections are
// put behind each other and their calls bound. Hostile files yield a sentence. The daemon's objects
// go through libbpf (native/bpf/loader.h) instead.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace bpftime {

/// The number of the helper of a name, or a negative number.
using HelperByName = std::function<int64_t(const std::string& name)>;

/// Slots with the section `main_name` in front ("": the first one with a program). Empty, and `why`
/// has a sentence, when the file is none, is damaged, has no such section, or refers to anything
/// but code and helpers.
std::vector<uint64_t> text_of_elf(std::span<const uint8_t> file, const std::string& main_name,
                                  const HelperByName& helper, std::string& why);

}  // namespace bpftime
