// SPDX-License-Identifier: MIT
#include "elf_module.h"

#include <elf.h>

#include <algorithm>
#include <cstring>

#include "byte_reader.h"

namespace bpftime::unwind {

namespace {

constexpr uint32_t kPhdrsMax = 128, kSectionsMax = 4096;
constexpr char kEhFrameName[] = ".eh_frame";
constexpr uint64_t kNotesBytesMax = 4096;
constexpr uint64_t kAddrEnd = uint64_t{1} << 47;
constexpr uint64_t kPage = 4096;
constexpr size_t kChunkBytes = 1 << 20;
// Of .eh_frame_hdr: version, three encodings, then where .eh_frame is, from here.
constexpr uint8_t kHdrVersion = 1, kPcRelSdata4 = 0x1b;
constexpr uint64_t kEhFramePtrAt = 4;

Result<std::vector<Elf64_Phdr>> read_headers(uint64_t start, const MemoryReader& read) {
  Elf64_Ehdr ehdr{};
  const auto refuse = fail(ENOEXEC, "it is no ELF file for this processor");
  if (!read(start, &ehdr, sizeof ehdr)) return refuse;
  if (memcmp(ehdr.e_ident, ELFMAG, SELFMAG) != 0 || ehdr.e_ident[EI_CLASS] != ELFCLASS64 ||
      ehdr.e_ident[EI_DATA] != ELFDATA2LSB || ehdr.e_machine != EM_X86_64 ||
      ehdr.e_phentsize != sizeof(Elf64_Phdr) || ehdr.e_phnum == 0 || ehdr.e_phnum > kPhdrsMax ||
      ehdr.e_phoff > kAddrEnd) {
    return refuse;
  }
  std::vector<Elf64_Phdr> headers(ehdr.e_phnum);
  if (!read(start + ehdr.e_phoff, headers.data(), headers.size() * sizeof(Elf64_Phdr))) {
    return refuse;
  }
  for (const Elf64_Phdr& one : headers) {
    if (one.p_vaddr > kAddrEnd || one.p_memsz > kAddrEnd || one.p_filesz > kAddrEnd ||
        one.p_offset > kAddrEnd) {
      return refuse;
    }
  }
  return headers;
}

void read_build_id(const Elf64_Phdr& notes, const MemoryReader& read, ElfModule* out) {
  std::vector<uint8_t> bytes(std::min<uint64_t>(notes.p_filesz, kNotesBytesMax));
  if (!read(out->bias + notes.p_vaddr, bytes.data(), bytes.size())) return;
  ByteReader in(bytes);
  while (!in.at_end()) {
    const auto note = in.number<Elf64_Nhdr>();
    const auto name = in.take((uint64_t{note.n_namesz} + 3) & ~uint64_t{3});
    const auto desc = in.take((uint64_t{note.n_descsz} + 3) & ~uint64_t{3});
    if (!in.ok()) return;
    if (note.n_type != NT_GNU_BUILD_ID || note.n_namesz != 4 || note.n_descsz == 0) continue;
    if (memcmp(name.data(), ELF_NOTE_GNU, 4) != 0) continue;
    memcpy(out->build_id, desc.data(), std::min<size_t>(note.n_descsz, sizeof out->build_id));
    return;
  }
}

// Reads on to a length of zero, which ends the section.
class SectionReader {
 public:
  SectionReader(const MemoryReader& read, uint64_t addr, uint64_t size)
      : read_(read), addr_(addr), size_(size) {}

  /// Empty: it does not end within what may be read.
  std::vector<uint8_t> whole() {
    uint64_t at = 0;
    for (;;) {
      uint32_t length = 0;
      uint64_t long_length = 0;
      if (at == size_ && at != 0) break;  // a section without a mark, of which the size is known
      if (!get(at, &length, sizeof length)) return {};
      at += sizeof length;
      if (length == 0) break;
      if (length != UINT32_MAX) {
        at += length;
        continue;
      }
      if (!get(at, &long_length, sizeof long_length) || long_length > size_) return {};
      at += sizeof long_length + long_length;
    }
    bytes_.resize(at);
    return std::move(bytes_);
  }

 private:
  bool get(uint64_t at, void* out, size_t size) {
    if (at > size_ || size > size_ - at) return false;
    while (bytes_.size() < at + size) {
      const size_t have = bytes_.size();
      const auto chunk = static_cast<size_t>(std::min<uint64_t>(kChunkBytes, size_ - have));
      bytes_.resize(have + chunk);
      if (!read_(addr_ + have, &bytes_[have], chunk)) return false;
    }
    memcpy(out, &bytes_[at], size);
    return true;
  }

  const MemoryReader& read_;
  uint64_t addr_, size_;
  std::vector<uint8_t> bytes_;
};

void read_eh_frame_bytes(const std::vector<Elf64_Phdr>& headers, uint64_t hdr_vaddr, uint64_t limit,
                         const MemoryReader& read, ElfModule* out) {
  uint8_t hdr[kEhFramePtrAt + sizeof(int32_t)] = {};
  if (!read(out->bias + hdr_vaddr, hdr, sizeof hdr)) return;
  if (hdr[0] != kHdrVersion || hdr[1] != kPcRelSdata4) return;
  int32_t distance = 0;
  memcpy(&distance, &hdr[kEhFramePtrAt], sizeof distance);
  const uint64_t vaddr = hdr_vaddr + kEhFramePtrAt + static_cast<uint64_t>(int64_t{distance});
  for (const Elf64_Phdr& one : headers) {
    const bool is_inside =
        one.p_type == PT_LOAD && vaddr >= one.p_vaddr && vaddr - one.p_vaddr < one.p_filesz;
    if (!is_inside) continue;
    const uint64_t size = std::min(one.p_vaddr + one.p_filesz - vaddr, limit);
    out->vaddr = vaddr;
    out->eh_frame = SectionReader(read, out->bias + vaddr, size).whole();
    return;
  }
}

// By the section headers. What they say is believed as far as the module's memory goes.
void find_eh_frame_section(uint64_t start, uint64_t limit, const MemoryReader& read,
                           const MemoryReader& file, ElfModule* out) {
  Elf64_Ehdr ehdr{};
  if (!read(start, &ehdr, sizeof ehdr) || ehdr.e_shentsize != sizeof(Elf64_Shdr) ||
      ehdr.e_shnum > kSectionsMax || ehdr.e_shstrndx >= ehdr.e_shnum || ehdr.e_shoff > kAddrEnd) {
    return;
  }
  std::vector<Elf64_Shdr> sections(ehdr.e_shnum);
  if (!file(ehdr.e_shoff, sections.data(), sections.size() * sizeof(Elf64_Shdr))) return;
  const Elf64_Shdr& names = sections[ehdr.e_shstrndx];
  for (const Elf64_Shdr& one : sections) {
    char name[sizeof kEhFrameName] = {};
    if ((one.sh_flags & SHF_ALLOC) == 0 || one.sh_name >= names.sh_size) continue;
    if (names.sh_offset > kAddrEnd || one.sh_addr > kAddrEnd) continue;
    if (!file(names.sh_offset + one.sh_name, name, sizeof name)) continue;
    if (memcmp(name, kEhFrameName, sizeof name) != 0) continue;
    out->vaddr = one.sh_addr;
    const uint64_t size = std::min<uint64_t>(one.sh_size, limit);
    out->eh_frame = SectionReader(read, out->bias + one.sh_addr, size).whole();
    return;
  }
}

}  // namespace

Result<ElfModule> read_elf_module(uint64_t start, const MemoryReader& read, uint64_t limit,
                                  const MemoryReader& file) {
  Result<std::vector<Elf64_Phdr>> headers = read_headers(start, read);
  if (!headers) return headers.error();
  const Elf64_Phdr* first = nullptr;
  for (const Elf64_Phdr& one : headers.value()) {
    if (one.p_type == PT_LOAD && one.p_offset < kPage && first == nullptr) first = &one;
  }
  if (first == nullptr) return fail(ENOEXEC, "no segment of it begins with the file");
  ElfModule out;
  out.bias = start - (first->p_vaddr - first->p_offset);
  out.text_start = UINT64_MAX;
  for (const Elf64_Phdr& one : headers.value()) {
    if (one.p_type == PT_NOTE) read_build_id(one, read, &out);
    if (one.p_type != PT_LOAD || (one.p_flags & PF_X) == 0) continue;
    out.text_start = std::min(out.text_start, one.p_vaddr);
    out.text_end = std::max(out.text_end, one.p_vaddr + one.p_memsz);
  }
  if (out.text_end == 0) return fail(ENOEXEC, "it has no code");
  limit = std::min(limit, kEhFrameBytesMax);
  for (const Elf64_Phdr& one : headers.value()) {
    if (one.p_type != PT_GNU_EH_FRAME) continue;
    read_eh_frame_bytes(headers.value(), one.p_vaddr, limit, read, &out);
    return out;
  }
  if (file) find_eh_frame_section(start, limit, read, file, &out);
  return out;
}

}  // namespace bpftime::unwind
