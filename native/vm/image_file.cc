// SPDX-License-Identifier: MIT
#include "image_file.h"

#include <elf.h>
#include <link.h>
#include <linux/bpf.h>

#include <cstddef>
#include <cstring>

#include "vm.h"

namespace bpftime {
namespace {

constexpr uint64_t kMagic = 0x0a31495642465042;  // "BPFBVI1\n"
constexpr uint32_t kFormat = 2;
constexpr uint32_t kArchX86 = EM_X86_64;
constexpr uint32_t kCountMax = 4096;  // of maps, of programs
constexpr uint32_t kNameBytesMax = 4096;

struct FileHeader {
  uint64_t magic = kMagic;
  uint32_t format = kFormat;
  uint32_t arch = kArchX86;
  uint64_t file_bytes = 0;
  uint32_t cpu_features = 0;  // kCpu* that its code relies on
  uint32_t cpu_count = 0;
  Digest build{};
  Digest source{};
  Digest whole{};  // of the file with zeroes here
};
static_assert(sizeof(FileHeader) == 128);

class Writer {
 public:
  template <typename T>
  void number(T value) {
    raw(&value, sizeof value);
  }
  void text(const std::string& value) {
    number(static_cast<uint32_t>(value.size()));
    raw(value.data(), value.size());
  }
  void data(const std::vector<uint8_t>& value) {
    number(static_cast<uint64_t>(value.size()));
    raw(value.data(), value.size());
  }
  void raw(const void* from, size_t size) {
    const auto* begin = static_cast<const uint8_t*>(from);
    bytes.insert(bytes.end(), begin, begin + size);
  }
  std::vector<uint8_t> bytes;
};

/// After the first thing that does not fit all further ones are empty, and ok() is false.
class Reader {
 public:
  explicit Reader(std::span<const uint8_t> bytes) : left_(bytes) {}
  template <typename T>
  T number() {
    T value{};
    const auto from = take(sizeof value);
    if (!from.empty()) std::memcpy(&value, from.data(), sizeof value);
    return value;
  }
  uint32_t count(uint32_t max) {
    const auto value = number<uint32_t>();
    if (value > max) ok_ = false;
    return ok_ ? value : 0;
  }
  std::string text() {
    const auto from = take(count(kNameBytesMax));
    return {from.begin(), from.end()};
  }
  std::vector<uint8_t> data() {
    const auto from = take(number<uint64_t>());
    return {from.begin(), from.end()};
  }
  [[nodiscard]] bool ok() const { return ok_; }
  [[nodiscard]] bool at_end() const { return ok_ && left_.empty(); }
  [[nodiscard]] size_t left() const { return left_.size(); }

 private:
  std::span<const uint8_t> take(uint64_t size) {
    if (!ok_ || size > left_.size()) {
      ok_ = false;
      return {};
    }
    const auto taken = left_.first(size);
    left_ = left_.subspan(size);
    return taken;
  }
  std::span<const uint8_t> left_;
  bool ok_ = true;
};

void write_map(const ImageMap& map, Writer* out) {
  for (const uint32_t value : {map.type, map.key_size, map.value_size, map.max_entries, map.flags,
                               map.bloom_hashes, uint32_t{map.is_frozen}}) {
    out->number(value);
  }
  out->text(map.name);
  out->data(map.value);
  out->number(static_cast<uint32_t>(map.programs.size()));
  for (const ImageTail& tail : map.programs) {
    out->number(tail.index);
    out->number(tail.program);
  }
}

ImageMap read_map(Reader* in) {
  ImageMap map;
  for (uint32_t* value : {&map.type, &map.key_size, &map.value_size, &map.max_entries, &map.flags,
                          &map.bloom_hashes}) {
    *value = in->number<uint32_t>();
  }
  map.is_frozen = in->number<uint32_t>() != 0;
  map.name = in->text();
  map.value = in->data();
  const uint32_t tails = in->count(static_cast<uint32_t>(in->left() / sizeof(ImageTail)));
  for (uint32_t i = 0; i < tails; ++i) {
    const auto index = in->number<uint32_t>();
    map.programs.push_back({index, in->number<uint32_t>()});
  }
  return map;
}

void write_program(const ImageProgram& program, Writer* out) {
  const ProgramImage& image = program.image;
  out->text(program.name);
  out->text(program.section);
  for (const uint32_t value :
       {program.type, image.entry_off, image.tail_off, uint32_t{image.tail_calls},
        uint32_t{image.tail_nests}, image.insn_count, image.ctx_read_mask,
        uint32_t{image.escapes_ctx}, image.cpu_features, static_cast<uint32_t>(image.got.size())}) {
    out->number(value);
  }
  for (const GotSlot& slot : image.got) {
    out->number(static_cast<uint32_t>(slot.kind));
    out->number(slot.index);
    out->number(slot.offset);
  }
  out->data(image.text);
}

ImageProgram read_program(Reader* in) {
  ImageProgram program;
  ProgramImage& image = program.image;
  program.name = in->text();
  program.section = in->text();
  program.type = in->number<uint32_t>();
  image.entry_off = in->number<uint32_t>();
  image.tail_off = in->number<uint32_t>();
  image.tail_calls = in->number<uint32_t>() != 0;
  image.tail_nests = in->number<uint32_t>() != 0;
  image.insn_count = in->number<uint32_t>();
  image.ctx_read_mask = in->number<uint32_t>();
  image.escapes_ctx = in->number<uint32_t>() != 0;
  image.cpu_features = in->number<uint32_t>();
  const uint32_t slots = in->count(static_cast<uint32_t>(in->left() / sizeof(GotSlot)));
  for (uint32_t i = 0; i < slots; ++i) {
    const auto kind = static_cast<GotKind>(in->number<uint32_t>());
    const auto index = in->number<uint32_t>();
    image.got.push_back({kind, index, in->number<uint64_t>()});
  }
  image.text = in->data();
  return program;
}

/// Every reference leads to something that is there.
bool is_sound(const ImageFile& file) {
  for (const ImageMap& map : file.maps) {
    if (!map.value.empty() && map.value.size() != map.value_size) return false;
    for (const ImageTail& tail : map.programs) {
      const bool is_there = tail.index < map.max_entries && tail.program < file.programs.size();
      if (map.type != BPF_MAP_TYPE_PROG_ARRAY || !is_there) return false;
    }
  }
  for (const ImageProgram& program : file.programs) {
    const ProgramImage& image = program.image;
    if (image.entry_off >= image.text.size() || image.tail_off >= image.text.size()) return false;
    for (const GotSlot& slot : image.got) {
      const bool is_map = slot.kind == GotKind::kMap || slot.kind == GotKind::kMapValue;
      if (!is_map && slot.kind != GotKind::kHelper) return false;
      if (slot.index >= (is_map ? file.maps.size() : kHelperIdMax)) return false;
      if (slot.kind != GotKind::kMapValue) continue;
      const ImageMap& map = file.maps[slot.index];
      const uint64_t bytes = uint64_t{map.max_entries} * ((uint64_t{map.value_size} + 7) & ~7u);
      if (slot.offset >= bytes) return false;
    }
  }
  return true;
}

int find_build_id(dl_phdr_info* info, size_t /*size*/, void* found) {
  const auto here = reinterpret_cast<uintptr_t>(&find_build_id);
  std::span<const uint8_t> id;
  bool is_ours = false;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    const uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
    if (segment.p_type == PT_LOAD) is_ours |= here >= begin && here - begin < segment.p_memsz;
    if (segment.p_type != PT_NOTE) continue;
    for (size_t at = 0; at + sizeof(ElfW(Nhdr)) <= segment.p_memsz;) {
      const auto* note = reinterpret_cast<const ElfW(Nhdr)*>(begin + at);
      const size_t name_bytes = (note->n_namesz + 3u) & ~3u;
      const auto* desc = reinterpret_cast<const uint8_t*>(note + 1) + name_bytes;
      if (note->n_type == NT_GNU_BUILD_ID) id = {desc, note->n_descsz};
      at += sizeof *note + name_bytes + ((note->n_descsz + 3u) & ~3u);
    }
  }
  if (!is_ours) return 0;
  *static_cast<Digest*>(found) = sha256(id);
  return 1;
}

}  // namespace

const Digest& build_digest() {
  static const Digest digest = [] {
    Digest found{};
    dl_iterate_phdr(find_build_id, &found);
    return found;
  }();
  return digest;
}

std::vector<uint8_t> write_image_file(const ImageFile& file) {
  FileHeader header;
  header.build = build_digest();
  header.source = file.source;
  header.cpu_count = file.cpu_count;
  for (const ImageProgram& program : file.programs) {
    header.cpu_features |= program.image.cpu_features;
  }
  Writer out;
  out.raw(&header, sizeof header);
  out.number(static_cast<uint32_t>(file.maps.size()));
  for (const ImageMap& map : file.maps) write_map(map, &out);
  out.number(static_cast<uint32_t>(file.programs.size()));
  for (const ImageProgram& program : file.programs) write_program(program, &out);
  header.file_bytes = out.bytes.size();
  std::memcpy(out.bytes.data(), &header, sizeof header);
  header.whole = sha256(out.bytes);
  std::memcpy(out.bytes.data(), &header, sizeof header);
  return std::move(out.bytes);
}

Result<ImageFile> read_image_file(std::span<const uint8_t> bytes, const Digest* source) {
  FileHeader header;
  if (bytes.size() < sizeof header) return fail(EINVAL, "it is shorter than an image's header");
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kMagic) return fail(EINVAL, "it is no image");
  if (header.format != kFormat) return fail(EINVAL, "it is of another version");
  if (bytes.size() > kImageFileBytesMax) return fail(EINVAL, "it is over 256 MiB");
  if (header.file_bytes != bytes.size()) return fail(EINVAL, "it is not whole: its length differs");
  std::vector<uint8_t> blank(bytes.begin(), bytes.end());
  std::memset(blank.data() + offsetof(FileHeader, whole), 0, sizeof(Digest));
  if (sha256(blank) != header.whole) return fail(EINVAL, "it is damaged: its digest differs");
  if (header.build != build_digest()) return fail(EINVAL, "another build of bpftimefs made it");
  if (header.arch != kArchX86 || (header.cpu_features & ~cpu_features_host()) != 0) {
    return fail(EINVAL, "it was made for another processor");
  }
  if (source != nullptr && header.source != *source) {
    return fail(ESTALE, "it was made from another object");
  }
  ImageFile file;
  file.source = header.source;
  file.cpu_count = header.cpu_count;
  Reader in(bytes.subspan(sizeof header));
  const uint32_t maps = in.count(kCountMax);
  for (uint32_t i = 0; i < maps && in.ok(); ++i) file.maps.push_back(read_map(&in));
  const uint32_t programs = in.count(kCountMax);
  for (uint32_t i = 0; i < programs && in.ok(); ++i) file.programs.push_back(read_program(&in));
  if (!in.at_end() || !is_sound(file)) return fail(EINVAL, "it makes no sense");
  return file;
}

}  // namespace bpftime
