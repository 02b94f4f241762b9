// SPDX-License-Identifier: MIT
#include "prog_array.h"

#include <linux/bpf.h>

#include <algorithm>
#include <cerrno>

#include "../vm/rt/map.h"

namespace bpftime {
namespace {

constexpr size_t kProgramsMax = 4096;  // of one program array

/// Under the map's lock. 0: it cannot be added.
uint32_t number_of(MapObject* map, const std::shared_ptr<ProgObject>& program) {
  auto& all = map->programs;
  const auto found = std::find_if(all.begin(), all.end(),
                                  [&](const auto& known) { return known.lock() == program; });
  const auto number = static_cast<uint32_t>(found - all.begin()) + 1;
  if (found != all.end()) return number;
  if (all.size() >= kProgramsMax) return 0;
  all.push_back(program);
  return number;
}

/// Under the map's lock.
bool takes_kind(MapObject* map, const ProgObject& program) {
  // What one was verified for, the other is given.
  const auto role = static_cast<uint32_t>(program.role);
  if (map->prog_type == 0) {
    map->prog_type = program.type;
    map->prog_role = role;
  }
  return map->prog_type == program.type && map->prog_role == role;
}

}  // namespace

Result<void> bind_program_kind(MapObject* map, const ProgObject& program) {
  const std::lock_guard lock(map->inner_mutex);
  if (takes_kind(map, program)) return {};
  return fail(EINVAL, "a program array that it uses has programs of another kind");
}

Result<void> add_program(MapObject* map, const std::shared_ptr<ProgObject>& program) {
  const std::lock_guard lock(map->inner_mutex);
  if (!takes_kind(map, *program)) return fail(EINVAL, "the program is of another kind");
  if (number_of(map, program) == 0) return fail(E2BIG, "more than 4096 programs");
  return {};
}

long put_program(MapObject* map, const void* key, const std::shared_ptr<ProgObject>& program,
                 uint64_t flags) {
  if (flags != BPF_ANY) return -EINVAL;
  const std::lock_guard lock(map->inner_mutex);
  if (!takes_kind(map, *program)) return -EINVAL;
  const uint32_t number = number_of(map, program);
  return number == 0 ? -E2BIG : rt_map_write(&map->view, key, &number, BPF_ANY);
}

long put_known_program(MapObject* map, const void* key, uint32_t prog_id) {
  const std::lock_guard lock(map->inner_mutex);
  for (size_t i = 0; i < map->programs.size(); ++i) {
    const std::shared_ptr<ProgObject> program = map->programs[i].lock();
    if (program == nullptr || program->id != prog_id) continue;
    const auto number = static_cast<uint32_t>(i + 1);
    return rt_map_write(&map->view, key, &number, BPF_ANY);
  }
  return -ENOENT;
}

long take_program(MapObject* map, const void* key) {
  const std::lock_guard lock(map->inner_mutex);
  uint32_t number = 0;
  const long read = rt_map_read(&map->view, key, &number);
  if (read != 0 || number == 0) return read != 0 ? -E2BIG : -ENOENT;
  number = 0;
  return rt_map_write(&map->view, key, &number, BPF_ANY);
}

std::shared_ptr<ProgObject> program_at(const MapObject& map, uint32_t number) {
  const std::lock_guard lock(map.inner_mutex);
  return number - 1 < map.programs.size() ? map.programs[number - 1].lock() : nullptr;
}

bool holds_program(const MapObject& map, const ProgObject& program) {
  for (uint32_t index = 0; index < map.view.max_entries; ++index) {
    uint32_t number = 0;
    rt_map_read(&map.view, &index, &number);
    if (number != 0 && program_at(map, number).get() == &program) return true;
  }
  return false;
}

std::vector<std::shared_ptr<ProgObject>> programs_of(const MapObject& map) {
  const std::lock_guard lock(map.inner_mutex);
  std::vector<std::shared_ptr<ProgObject>> programs;
  for (const auto& program : map.programs) programs.push_back(program.lock());
  return programs;
}

std::vector<std::shared_ptr<ProgObject>> reachable_programs(const ProgObject& program) {
  std::vector<std::shared_ptr<ProgObject>> found;
  const auto visit = [&](const ProgObject& from) {
    for (const auto& map : from.maps) {
      if (rt_map_is_programs(&map->view) == 0 || !from.image.tail_calls) continue;
      for (auto& next : programs_of(*map)) {
        const bool is_new = next != nullptr && next.get() != &program &&
                            std::find(found.begin(), found.end(), next) == found.end();
        if (is_new) found.push_back(std::move(next));
      }
    }
  };
  visit(program);
  for (size_t i = 0; i < found.size(); ++i) {
    const std::shared_ptr<ProgObject> from = found[i];
    visit(*from);
  }
  return found;
}

}  // namespace bpftime
