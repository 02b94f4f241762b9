// SPDX-License-Identifier: MIT
// Program arrays: what bpf_tail_call goes on with.
//
// The storage of a program array holds, under each index, the number of a program (a place in
// MapObject::programs, from 1 on). What the numbers lead to, each process has in private, read-only
// memory behind its view of the map, laid down when a program is mapped there: the programs that
// were in the map then. So entries can be changed while programs run, to others of these.
#pragma once

#include <memory>
#include <vector>

#include "registry.h"

namespace bpftime {

/// A program that may be gone on with: in none of the entries yet. EINVAL: its kind is not that of
/// the programs that make the tail calls, or of those that are there.
Result<void> add_program(MapObject* map, const std::shared_ptr<ProgObject>& program);

/// Puts it into an entry, as BPF_MAP_UPDATE_ELEM. Negative errno.
long put_program(MapObject* map, const void* key, const std::shared_ptr<ProgObject>& program,
                 uint64_t flags);

/// The same for a program that is in reach of those that run: -ENOENT if it is not.
long put_known_program(MapObject* map, const void* key, uint32_t prog_id);
/// Takes out what is in an entry. -E2BIG: no such entry; -ENOENT: nothing is in it.
long take_program(MapObject* map, const void* key);

/// What a number that was read from the storage stands for; null: nothing.
std::shared_ptr<ProgObject> program_at(const MapObject& map, uint32_t number);

/// Whether an entry has the program.
bool holds_program(const MapObject& map, const ProgObject& program);

/// By number - 1; null: it is gone.
std::vector<std::shared_ptr<ProgObject>> programs_of(const MapObject& map);

/// What a program makes tail calls to, and what these do, itself left out.
std::vector<std::shared_ptr<ProgObject>> reachable_programs(const ProgObject& program);

/// A program that uses the map is of the kind that makes tail calls through it. EINVAL as above.
Result<void> bind_program_kind(MapObject* map, const ProgObject& program);

}  // namespace bpftime
