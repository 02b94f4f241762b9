// SPDX-License-Identifier: MIT
// What helpers demand and give: one row each, the only place that says so. Ids and meaning are the
// kernel's (man 7 bpf-helpers). A row does not make a helper exist: the runtime's list does.
#pragma once

#include <cstdint>

namespace bpftime::verify {

enum class Arg : uint8_t {
  kNone,
  kAny,             // anything that was set
  kIndex,           // a number
  kMaybe,           // anything, set or not
  kCtx,             // the context itself
  kMap,             // a map
  kKey,             // memory with a key of the map in r1
  kValue,           // memory with a value of that map
  kValueOut,        // memory that gets a value of that map
  kValueOrNull,     // memory with a value of that map, or null
  kTask,            // the thread that runs
  kNumberOut,       // memory that gets eight bytes
  kRead,            // memory that is read; its size is the next argument
  kReadOrNull,      // the same, or null with size 0
  kWrite,           // memory that is wholly written; its size is the next argument
  kWriteOrNull,     // the same, or null with size 0
  kSize,            // at least 1; sizes are 32 bits wide, what is above means nothing
  kSizeOrZero,      //
  kWideSizeOrZero,  // 64 bits wide
  kText,            // constant text with its final zero, in .rodata
  kRecordBytes,     // a constant: how much to reserve
  kRecord,          // a reserved record, at its beginning; the program loses it
  kFunction,        // a function of the program
  kFunctionData,    // what that function gets: memory on the stack, or null
};

enum class Gives : uint8_t {
  kNothing,
  kNumber,
  kLength,       // a negative errno, or at most the size that was passed
  kCpu,          // the number of a CPU
  kValueOrNull,  // of a map of maps: a map
  kRecordOrNull,
  kTask,  // the thread that runs; never null
};

/// How often and with what a helper calls the function it was given.
enum class Calls : uint8_t { kNever, kLoop, kEachEntry };

struct Contract {
  uint32_t id = 0;
  const char* name = "";  // without bpf_
  Arg args[5] = {};
  Gives gives = Gives::kNumber;
  uint64_t map_types = 0;    // bit t: r1 (or the map argument) may be a map of type t; 0: any
  bool needs_frame = false;  // looks behind the registers of a probe's context
  Calls calls = Calls::kNever;
  bool changes_map = false;  // refused on maps that are read-only for programs

  [[nodiscard]] uint32_t arity() const {
    uint32_t count = 0;
    while (count < 5 && args[count] != Arg::kNone) ++count;
    return count;
  }
};

/// Null: no row.
[[nodiscard]] const Contract* contract_of(uint32_t helper_id);

/// Where contracts come from, when it is not the table above.
struct Contracts {
  const Contract* (*find)(void* user, uint32_t helper_id) = nullptr;  // null: contract_of()
  void* user = nullptr;
  [[nodiscard]] const Contract* operator()(uint32_t helper_id) const {
    return find != nullptr ? find(user, helper_id) : contract_of(helper_id);
  }
};

}  // namespace bpftime::verify
