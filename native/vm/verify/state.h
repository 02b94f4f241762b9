// SPDX-License-Identifier: MIT
// What is known at one point of one path: registers, stack, what is held. Plain data.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "../isa.h"
#include "scalar.h"

namespace bpftime::verify {

inline constexpr uint32_t kRegs = 11;
inline constexpr uint32_t kSlotBytes = 8;
inline constexpr uint32_t kSlots = 512 / kSlotBytes;  // of each frame
inline constexpr uint32_t kNone = ~0u;                // no index

/// A place that holds a value: register `index` of a frame, or (from kRegs on) one of its slots.
using Place = uint16_t;
[[nodiscard]] constexpr Place place_of_reg(uint32_t frame, uint32_t reg) {
  return static_cast<Place>(frame * (kRegs + kSlots) + reg);
}
[[nodiscard]] constexpr Place place_of_slot(uint32_t frame, uint32_t slot) {
  return static_cast<Place>(frame * (kRegs + kSlots) + kRegs + slot);
}

/// From which places of the last checkpoint a number was made. Few are kept by name; more than that
/// means "any of them".
class Origins {
 public:
  static constexpr uint32_t kMax = 7;
  void add(Place place) {
    for (uint32_t i = 0; i < count(); ++i) {
      if (places_[i] == place) return;
    }
    if (count_ == kMax) count_ = kEverything;
    if (count_ < kMax) places_[count_++] = place;
  }
  void add(const Origins& other) {
    if (other.is_everything()) count_ = kEverything;
    for (uint32_t i = 0; i < other.count(); ++i) add(other.places_[i]);
  }
  void clear() { count_ = 0; }
  [[nodiscard]] bool is_everything() const { return count_ == kEverything; }
  [[nodiscard]] uint32_t count() const { return is_everything() ? 0 : count_; }
  [[nodiscard]] Place at(uint32_t i) const { return places_[i]; }

 private:
  static constexpr uint16_t kEverything = kMax + 1;
  uint16_t count_ = 0;
  std::array<Place, kMax> places_{};
};

enum class Kind : uint8_t {
  kUnset,     // was never set, or lost in a call
  kGone,      // pointed into a record that was given back
  kNumber,    // num
  kCtx,       // the context, num is the offset; so with all that follow
  kStack,     // r10 of `frame`
  kMap,       // a map itself, of id `map`
  kMapValue,  // `bytes` of a value of map `map`
  kRecord,    // `bytes` of a record of a ring buffer, held as `ref`
  kKey,       // `bytes` of a key, which may not be written
  kFunction,  // function that begins at slot `map`
  kPacket,    // packet data; what is behind it is known by `id`
  kPacketEnd,
  kTask,  // the thread that runs: nothing but an argument
};

struct Reg {
  Kind kind = Kind::kUnset;
  bool maybe_null = false;
  uint8_t frame = 0;
  uint32_t id = 0;       // not 0: the same number, or the same pointer that may be null
  uint32_t low_id = 0;   // not 0: numbers whose lower halves are the same
  uint32_t high_id = 0;  // not 0: the upper half is the lower half of those, the lower one is 0
  uint32_t ref = 0;      // not 0: the record that was reserved under this number
  uint32_t map = 0;
  uint32_t bytes = 0;
  Scalar num;
  Origins origins;  // of num, if kind is kNumber

  [[nodiscard]] bool is_set() const { return kind != Kind::kUnset && kind != Kind::kGone; }
  [[nodiscard]] bool is_number() const { return kind == Kind::kNumber; }
  [[nodiscard]] bool is_pointer() const { return is_set() && !is_number(); }
  [[nodiscard]] bool is_const(uint64_t v) const {
    return is_number() && num.is_const() && num.const_value() == v;
  }
  /// Forgets what it has to do with other numbers.
  void unlink() { id = low_id = high_id = 0; }
  static Reg number(const Scalar& num) {
    Reg reg;
    reg.kind = Kind::kNumber;
    reg.num = num;
    return reg;
  }
  static Reg pointer(Kind kind) {
    Reg reg;
    reg.kind = kind;
    reg.num = Scalar::constant(0);
    return reg;
  }
};

/// Eight bytes of stack. Bytes of kind kSpilled are the lowest `spilled_bytes` of `spill`.
struct Slot {
  enum Byte : uint8_t { kEmpty, kData, kZero, kSpilled };
  std::array<Byte, kSlotBytes> bytes{};
  uint8_t spilled_bytes = 0;  // 0: nothing is spilled here
  Reg spill;

  /// What is left of a spilled value is data.
  void unspill() {
    for (Byte& byte : bytes) {
      if (byte == kSpilled) byte = spill.is_const(0) ? kZero : kData;
    }
    spilled_bytes = 0;
    spill = Reg{};
  }
};

/// Why a frame was entered.
enum class Entry : uint8_t { kCall, kLoopCallback, kEachCallback, kGlobal };

struct Frame {
  std::array<Reg, kRegs> regs;
  std::vector<Slot> stack;     // slot i holds the bytes [-8(i+1), -8i) below r10
  uint64_t written = ~0ull;    // bit i: slot i was wholly overwritten since the last checkpoint
  uint32_t subprog = 0;        // index in Flow::subprogs
  uint32_t call_slot = kNone;  // of the call that made it
  Entry entry = Entry::kCall;
  uint32_t held_before = 0;  // records that were held when it was entered
  uint32_t round_id = 0;     // of the call of it that calls back and is under way

  Slot& slot(uint32_t i) {
    if (stack.size() <= i) stack.resize(i + 1);
    return stack[i];
  }
};

/// A record that has to be given back.
struct Held {
  uint32_t ref = 0;
  uint32_t slot = 0;  // of the call that reserved it
};

struct State {
  std::vector<Frame> frames;
  std::vector<Held> held;
  uint32_t slot = 0;            // of the next instruction
  uint32_t checkpoint = kNone;  // last one on this path
  uint32_t trail = kNone;       // last branch on this path
  uint32_t walked = 0;          // instructions since the checkpoint
  bool is_called_back = false;  // a callback has just come back to the call at `slot`

  [[nodiscard]] uint32_t depth() const { return static_cast<uint32_t>(frames.size()) - 1; }
  Frame& frame() { return frames.back(); }
  Reg& reg(uint8_t r) { return frames.back().regs[r]; }

  template <typename Fn>
  void each_reg(Fn fn) {
    for (Frame& frame : frames) {
      for (Reg& reg : frame.regs) fn(reg);
      for (Slot& slot : frame.stack) {
        if (slot.spilled_bytes != 0) fn(slot.spill);
      }
    }
  }
  [[nodiscard]] uint64_t size_bytes() const {
    uint64_t bytes = sizeof(State);
    for (const Frame& frame : frames) bytes += sizeof(Frame) + frame.stack.size() * sizeof(Slot);
    return bytes;
  }
};

/// A set of places, of all frames.
struct Marks {
  struct OfFrame {
    uint16_t regs = 0;
    uint64_t slots = 0;
  };
  std::array<OfFrame, 8> frames{};

  /// Adds; true if it was not in yet.
  bool add(Place place) {
    OfFrame& frame = frames[place / (kRegs + kSlots)];
    const uint32_t index = place % (kRegs + kSlots);
    if (index < kRegs) {
      const auto bit = static_cast<uint16_t>(1u << index);
      const bool fresh = (frame.regs & bit) == 0;
      frame.regs |= bit;
      return fresh;
    }
    const uint64_t bit = uint64_t{1} << (index - kRegs);
    const bool fresh = (frame.slots & bit) == 0;
    frame.slots |= bit;
    return fresh;
  }
};

/// How a state is held against an earlier one: in what mattered to that, in everything, or whether
/// it is the same.
enum class Mode : uint8_t { kUsed, kIncluded, kSame };

/// A state that was walked from, kept to end other paths early. A path that arrives with no more
/// freedom than this one had in what mattered (`exact`, `read`) can do nothing new.
struct Checkpoint {
  State state;  // numbers' origins are places of the parent
  uint32_t parent = kNone;
  uint32_t open = 1;  // paths below that are not at their end yet
  Marks exact;        // numbers whose value decided something
  Marks read;         // slots whose contents were looked at (regs unused: liveness tells)
  uint32_t hits = 0;
  uint32_t misses = 0;
  bool is_loop = false;  // taken at a call that calls back: see Explorer::converge()
};

}  // namespace bpftime::verify
