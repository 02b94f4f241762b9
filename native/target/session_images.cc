// SPDX-License-Identifier: MIT
// Session, programs: their text, tables of addresses and views of maps in the target.
#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "../bpf/objects.h"
#include "../bpf/prog_array.h"
#include "../rewrite/clobbers.h"
#include "../vm/rt/map.h"
#include "../vm/verify/context.h"
#include "session.h"
#include "session_parts.h"

namespace bpftime::target {

namespace {

constexpr uint32_t kBpfFlagRdonlyProg = 1u << 7;  // BPF_F_RDONLY_PROG

uint64_t align_up(uint64_t value, uint64_t to) { return (value + to - 1) & ~(to - 1); }

}  // namespace

/// A program, and those that it makes tail calls to: all of them are there before one is called.
Result<void> Session::ensure_program(uint32_t prog_id) {
  if (images_.contains(prog_id)) return {};
  const std::shared_ptr<ProgObject> program = find_prog(prog_id);
  if (program == nullptr) return fail(ENOENT, "no such program");
  std::vector<std::shared_ptr<ProgObject>> all = reachable_programs(*program);
  all.push_back(program);
  std::vector<uint32_t> fresh;
  Result<void> step;
  for (const auto& one : all) {
    if (images_.contains(one->id)) continue;
    step = map_image(one);
    if (!step) break;
    fresh.push_back(one->id);
  }
  for (const uint32_t id : fresh) {
    if (!step) break;
    step = fill_image(&images_.at(id));
  }
  for (const uint32_t id : fresh) {
    unsaved_.images.insert(id);
    if (step.ok()) continue;
    const Image& image = images_.at(id);
    orphans_.emplace_back(image.base, image.base + image.bytes);
    images_.erase(id);
  }
  return step;
}

/// Its text and its maps, and room for the rest.
Result<void> Session::map_image(const std::shared_ptr<ProgObject>& program) {
  if (!verify::context_of(program->type).is_frame) {
    return fail(EOPNOTSUPP, "it is no probe of a function: what it was verified for is not there");
  }
  Image image;
  image.program = program;
  const uint64_t text_bytes = program->image.got_off();
  uint64_t words = program->image.got.size() + 1;
  uint64_t views = 0;
  for (const auto& map : program->maps) {
    views += views_of(*program, *map).size();
    if (rt_map_is_programs(&map->view) == 0) continue;
    std::vector<uint32_t>& tails = image.tails[map->id];
    for (const auto& next : programs_of(*map)) tails.push_back(next != nullptr ? next->id : 0);
    words += tails.size();
  }
  for (const auto& next : reachable_programs(*program)) image.reach.insert(next->id);
  const uint64_t got_bytes = align_up(words * 8 + views * sizeof(vm_map), ABI_PAGE_BYTES);
  image.bytes = text_bytes + got_bytes;
  // One range for both; the text then goes over its first pages.
  std::vector<MapWant> range;
  range.push_back(MapWant::anon(image.bytes, PROT_READ, 0));
  std::vector<const MapObject*> fresh_maps;
  std::vector<ScopedFd> read_only;  // until they are mapped
  for (const auto& map : program->maps) {
    if (map_addrs_.contains(map->id)) continue;
    fresh_maps.push_back(map.get());
    const uint64_t map_bytes = map->view.storage_bytes;
    if (!map->frozen || (map->view.map_flags & kBpfFlagRdonlyProg) == 0) {
      range.push_back(MapWant::shared(map->storage.get(), map_bytes, PROT_READ | PROT_WRITE));
      continue;
    }
    // The verifier relies on these values. Of such a descriptor mprotect makes nothing writable.
    Result<ScopedFd> constants = reopen(map->storage.get(), O_RDONLY);
    if (!constants) return constants.error();
    range.push_back(MapWant::shared(constants->get(), map_bytes, PROT_READ));
    read_only.push_back(std::move(*constants));
  }
  Result<void> step = map_all(&range);
  if (!step) return step;
  image.base = range[0].addr;
  // An orphan until the image is complete.
  orphans_.emplace_back(image.base, image.base + image.bytes);
  for (size_t i = 0; i < fresh_maps.size(); ++i) {
    map_addrs_[fresh_maps[i]->id] = range[i + 1].addr;
    map_bytes_[fresh_maps[i]->id] = fresh_maps[i]->view.storage_bytes;
    unsaved_.maps[range[i + 1].addr] = fresh_maps[i]->id;
  }
  std::vector<MapWant> text;
  text.push_back(
      MapWant::shared(program->text.get(), text_bytes, PROT_READ | PROT_EXEC, image.base));
  step = map_all(&text);
  if (!step) return step;
  orphans_.pop_back();
  images_.emplace(program->id, std::move(image));
  return {};
}

Result<void> Session::fill_image(Image* image) {
  const ProgramImage& code = image->program->image;
  Result<std::vector<uint8_t>> got = make_got(*image);
  if (!got) return got.error();
  const Result<void> wrote = put(image->base + code.got_off(), got->data(), got->size());
  if (!wrote) return wrote;
  image->clobbers = rewrite::clobbered_words(code.text);
  learn_code(image);
  return {};
}

/// What tail calls through a program array lead to, behind its view.
void Session::put_tails(const Image& image, uint32_t map_id, std::vector<uint8_t>* bytes) const {
  const auto tails = image.tails.find(map_id);
  if (tails == image.tails.end()) return;
  for (const uint32_t id : tails->second) {
    const auto next = images_.find(id);
    const bool is_there = next != images_.end() && next->second.program != nullptr;
    const uint64_t entry = is_there ? next->second.base + next->second.program->image.tail_off : 0;
    const auto* raw = reinterpret_cast<const uint8_t*>(&entry);
    bytes->insert(bytes->end(), raw, raw + sizeof entry);
  }
}

/// Its tail calls, or those of a program that it goes on with, leave frames on the stack.
bool Session::leaves_stack(uint32_t prog_id) const {
  std::set<uint32_t> all{prog_id};
  const auto first = images_.find(prog_id);
  if (first != images_.end()) all.insert(first->second.reach.begin(), first->second.reach.end());
  return std::any_of(all.begin(), all.end(), [this](uint32_t id) {
    const auto image = images_.find(id);
    return image != images_.end() && image->second.program != nullptr &&
           image->second.program->image.tail_nests;
  });
}

/// It, or a program that it goes on with, calls bpf_override_return somewhere.
bool Session::overrides(const Image& image) const {
  return image.program->overrides ||
         std::any_of(image.reach.begin(), image.reach.end(), [this](uint32_t id) {
           const auto next = images_.find(id);
           return next != images_.end() && next->second.program != nullptr &&
                  next->second.program->overrides;
         });
}

// The table of addresses behind an image's text, then its maps as the process sees them.
Result<std::vector<uint8_t>> Session::make_got(const Image& image) const {
  const ProgObject& program = *image.program;
  const uint64_t got = image.base + program.image.got_off();
  std::vector<uint8_t> bytes(align_up(program.image.got.size() * 8, 8));
  std::unordered_map<uint32_t, uint64_t> view_at;
  for (const auto& map : program.maps) {
    view_at[map->id] = got + bytes.size();
    for (vm_map view : views_of(program, *map)) {
      const auto at = map_addrs_.find(view.id);
      if (at == map_addrs_.end()) return fail(EIO, "a map of a program is not mapped");
      view.base = reinterpret_cast<u8*>(at->second);
      const auto tails = image.tails.find(view.id);
      if (tails != image.tails.end()) view.cpu_count = static_cast<u32>(tails->second.size());
      const auto* raw = reinterpret_cast<const uint8_t*>(&view);
      bytes.insert(bytes.end(), raw, raw + sizeof view);
    }
    put_tails(image, map->id, &bytes);
  }
  for (size_t i = 0; i < program.image.got.size(); ++i) {
    const GotSlot& slot = program.image.got[i];
    uint64_t value = 0;
    if (slot.kind == GotKind::kHelper) {
      if (slot.index >= AGENT_HELPERS_MAX || header_.helpers[slot.index] == 0) {
        return fail(ENOEXEC, "the program calls a helper that targets do not offer");
      }
      value = agent_fn(header_.helpers[slot.index]);
    } else if (slot.kind == GotKind::kMap) {
      value = view_at[slot.index];
    } else {
      const auto map = std::find_if(program.maps.begin(), program.maps.end(),
                                    [&](const auto& m) { return m->id == slot.index; });
      if (map == program.maps.end()) return fail(EIO, "a program names a map that it does not own");
      value = map_addrs_.find(slot.index)->second + (*map)->view.data_off + slot.offset;
    }
    memcpy(bytes.data() + i * 8, &value, sizeof value);
  }
  return bytes;
}

// What of a program can stand in a body: small ones that call nothing.
void Session::learn_code(Image* image) const {
  const ProgramImage& program = image->program->image;
  const uint64_t entry = image->base + program.entry_off;
  const uint64_t stub = agent_fn(header_.ret_stub);
  image->code.reset();
  if (image->program->role == ProgRole::kReplace) return;
  // Bodies compare the lower half of what the slot holds.
  if (program.entry_off != 0 || static_cast<uint32_t>(entry) == static_cast<uint32_t>(stub)) return;
  Result<std::vector<uint8_t>> got = make_got(*image);
  if (!got) return;
  std::vector<uint64_t> slots(program.got.size());
  memcpy(slots.data(), got->data(), slots.size() * sizeof(uint64_t));
  image->code = rewrite::inline_code(program.text, program.got_off(), slots);
}

}  // namespace bpftime::target
