// SPDX-License-Identifier: MIT
#include "image_objects.h"

#include <linux/bpf.h>

#include <algorithm>

#include "../vm/rt/map.h"
#include "objects.h"
#include "prog_array.h"

namespace bpftime {

namespace {

Result<ImageMap> image_of_map(const MapObject& map) {
  ImageMap image;
  const vm_map& view = map.view;
  if (rt_map_is_nested(&view)) return fail(EOPNOTSUPP, "maps of maps are not kept in images");
  image.type = view.type;
  image.key_size = view.key_size;
  image.value_size = view.value_size;
  image.max_entries = view.max_entries;
  image.flags = view.map_flags;
  image.bloom_hashes = view.type == BPF_MAP_TYPE_BLOOM_FILTER ? view.elem_stride : 0;
  image.is_frozen = map.frozen;
  image.name = map.name;
  if (map.initial.size() == view.value_size) image.value = map.initial;
  return image;
}

std::vector<ImageTail> tails_of(const LoadedObject& object, const MapObject& map) {
  std::vector<ImageTail> tails;
  for (uint32_t index = 0; index < map.view.max_entries; ++index) {
    uint32_t number = 0;
    rt_map_read(&map.view, &index, &number);
    const auto& all = object.programs;
    const auto at = std::find(all.begin(), all.end(), program_at(map, number));
    if (at != all.end()) tails.push_back({index, static_cast<uint32_t>(at - all.begin())});
  }
  return tails;
}

Result<std::shared_ptr<MapObject>> map_of_image(const ImageMap& image) {
  MapSpec spec;
  spec.type = image.type;
  spec.key_size = image.key_size;
  spec.value_size = image.value_size;
  spec.max_entries = image.max_entries;
  spec.flags = image.flags;
  spec.name = image.name.c_str();
  spec.bloom_hashes = image.bloom_hashes;
  Result<std::shared_ptr<MapObject>> map = create_map(spec);
  if (!map || image.value.empty()) return map;
  const uint32_t key = 0;
  if (image.key_size != sizeof key || rt_map_is_percpu(&(*map)->view) != 0 ||
      rt_map_write(&(*map)->view, &key, image.value.data(), BPF_ANY) != 0) {
    return fail(EINVAL, "a value of a map cannot be set");
  }
  (*map)->initial = image.value;
  (*map)->frozen = image.is_frozen;
  return map;
}

}  // namespace

Result<ImageFile> image_of_object(const LoadedObject& object, const Digest& source) {
  ImageFile file;
  file.source = source;
  file.cpu_count = possible_cpu_count();
  std::vector<uint32_t> ids;  // of the maps, in the file's order
  for (const auto& prog : object.programs) {
    for (const auto& map : prog->maps) {
      if (std::find(ids.begin(), ids.end(), map->id) != ids.end()) continue;
      Result<ImageMap> image = image_of_map(*map);
      if (!image) return image.error();
      file.maps.push_back(std::move(*image));
      ids.push_back(map->id);
    }
  }
  for (ImageMap& map : file.maps) {
    const auto at = static_cast<size_t>(&map - file.maps.data());
    if (map.type == BPF_MAP_TYPE_PROG_ARRAY) map.programs = tails_of(object, *find_map(ids[at]));
  }
  for (const auto& prog : object.programs) {
    ImageProgram program{prog->name, prog->section, prog->type, prog->image};
    for (GotSlot& slot : program.image.got) {
      if (slot.kind == GotKind::kHelper) continue;
      const auto at = std::find(ids.begin(), ids.end(), slot.index);
      slot.index = static_cast<uint32_t>(at - ids.begin());
    }
    file.programs.push_back(std::move(program));
  }
  return file;
}

Result<LoadedObject> object_of_image(ImageFile file) {
  if (file.cpu_count != possible_cpu_count()) {
    return fail(EINVAL, "it was made for another number of processors");
  }
  LoadedObject object;
  for (const ImageMap& image : file.maps) {
    Result<std::shared_ptr<MapObject>> map = map_of_image(image);
    if (!map) return map.error();
    object.maps.push_back(std::move(*map));
    object.map_types.push_back({});
  }
  for (ImageProgram& image : file.programs) {
    ProgSpec spec;
    spec.name = image.name;
    spec.type = image.type;
    for (GotSlot& slot : image.image.got) {
      if (slot.kind != GotKind::kHelper) slot.index = object.maps[slot.index]->id;
    }
    Result<std::shared_ptr<ProgObject>> prog =
        create_compiled_prog(spec, std::move(image.image), object.maps);
    if (!prog) return prog.error();
    (*prog)->section = image.section;
    object.programs.push_back(std::move(*prog));
  }
  for (size_t i = 0; i < file.maps.size(); ++i) {
    for (const ImageTail& tail : file.maps[i].programs) {
      const auto& program = object.programs[tail.program];
      if (put_program(object.maps[i].get(), &tail.index, program, BPF_ANY) != 0) {
        return fail(EINVAL, "an entry of a program array cannot be set");
      }
    }
  }
  return object;
}

}  // namespace bpftime
