// SPDX-License-Identifier: MIT
// .eh_frame to unwind tables: what entries become, and damaged ones, which may become less but
// never a table that leads outside of itself, nor take time or memory out of proportion.
#include <elf.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "tap.h"
#include "unwind/eh_frame.h"
#include "unwind/elf_module.h"
#include "vm/rt/unwind.h"

namespace {

using namespace bpftime;
using Bytes = std::vector<uint8_t>;

constexpr uint64_t kSection = 0x8000, kText = 0x1000, kTextEnd = 0x7000;

void append(Bytes* to, const void* from, size_t size) {
  const auto* bytes = static_cast<const uint8_t*>(from);
  to->insert(to->end(), bytes, bytes + size);
}
void put32(Bytes* to, uint32_t value) { append(to, &value, sizeof value); }

// An entry with its length, padded by DW_CFA_nop.
void put_entry(Bytes* section, Bytes body) {
  while (body.size() % 8 != 4) body.push_back(0);
  put32(section, static_cast<uint32_t>(body.size()));
  append(section, body.data(), body.size());
}

// zR (or zRS), data -8, return address 16, pcrel sdata4; CFA rsp+8, return address at CFA-8.
void put_cie(Bytes* section, bool signal = false) {
  Bytes body = {0, 0, 0, 0, 1, 'z', 'R'};
  if (signal) body.push_back('S');
  body.insert(body.end(), {0, 1, 0x78, 16, 1, 0x1b, 0x0c, 7, 8, 0x90, 1});
  put_entry(section, body);
}

void put_fde(Bytes* section, uint64_t start, uint32_t size, const Bytes& program,
             size_t cie_at = 0) {
  Bytes body;
  put32(&body, static_cast<uint32_t>(section->size() + 4 - cie_at));
  put32(&body, static_cast<uint32_t>(start - (kSection + section->size() + 8)));
  put32(&body, size);
  body.push_back(0);
  append(&body, program.data(), program.size());
  put_entry(section, body);
}

unwind::UnwindRows read(const Bytes& section) {
  unwind::EhFrameInput input;
  input.bytes = section;
  input.vaddr = kSection;
  input.text_start = kText;
  input.text_end = kTextEnd;
  auto rows = unwind::read_eh_frame(input);
  return rows.ok() ? rows.value() : unwind::UnwindRows{};
}

// One line for each row: `start kind offset [bp slot]`.
std::string shown(const unwind::UnwindRows& in) {
  static const char* const kNames[] = {"none", "end", "sp", "bp", "plt", "signal", "wide", "?"};
  std::string text;
  for (const unwind_row& row : in.rows) {
    char line[120];
    const u32 kind = UNWIND_KIND(row.rule);
    snprintf(line, sizeof line, "%x %s", row.start, kNames[kind]);
    text += line;
    if (kind == UNWIND_SP || kind == UNWIND_BP) {
      snprintf(line, sizeof line, "+%u", 8 * UNWIND_OFFSET(row.rule));
      text += line;
    }
    if (kind == UNWIND_PLT) text += " " + std::to_string(UNWIND_OFFSET(row.rule));
    if (kind == UNWIND_WIDE) {
      const unwind_wide& wide = in.wides[UNWIND_OFFSET(row.rule)];
      snprintf(line, sizeof line, " r%u%+d%s%+d bp%u:r%u%+d", wide.cfa_reg, wide.cfa_off,
               wide.cfa_deref != 0 ? " deref" : "", wide.cfa_add, wide.bp_kind, wide.bp_reg,
               wide.bp_off);
      text += line;
    }
    if (UNWIND_BP_SLOT(row.rule) != 0 && kind != UNWIND_WIDE) {
      text += " bp-" + std::to_string(8 * UNWIND_BP_SLOT(row.rule));
    }
    text += "; ";
  }
  return text;
}

void shapes() {
  Bytes section;
  put_cie(&section);
  // push rbp; mov rbp, rsp; ...; pop: remember and restore around an early return.
  put_fde(&section, 0x2000, 0x40,
          {0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6, 0x48, 0x0a, 0x0c, 7, 8, 0xc6, 0x41, 0x0b});
  put_fde(&section, 0x1000, 0x10, {0x44, 0x0e, 48, 0x47, 0x0e, 8});
  put_fde(&section, 0x3000, 0x10, {0x07, 16});
  put_fde(&section, 0x3010, 0x20,
          {0x0f, 11, 0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22});
  // main() with an aligned frame: CFA = r10, then *(rbp - 8), and rbp is where rbp points to.
  put_fde(&section, 0x3030, 0x20,
          {0x44, 0x0c, 10, 0, 0x44, 0x0f, 3, 0x76, 0x78, 0x06, 0x10, 6, 2, 0x76, 0});
  put_fde(&section, 0x3050, 0x10, {0x0f, 6, 0x77, 0xc8, 0, 0x06, 0x23, 8});
  put_fde(&section, 0x3060, 0x10, {0x0f, 2, 0x9c, 0x06});   // DW_OP_call_frame_cfa: not ours
  put_fde(&section, 0x3070, 0x10, {0x41, 0x0e, 16, 0x3f});  // no such instruction
  put_fde(&section, 0x3080, 0x10, {0x51, 0x0e, 16});        // beyond its end
  put_fde(&section, 0x3084, 0x20, {0x0e, 64});              // overlaps
  put_fde(&section, 0x6ff0, 0x20, {0x0e, 64});              // goes beyond the text
  const size_t signal_at = section.size();
  put_cie(&section, true);
  put_fde(&section, 0x4000, 9, {}, signal_at);
  put32(&section, 0);
  put_fde(&section, 0x5000, 0x10, {0x0e, 64});  // behind the end mark
  const unwind::UnwindRows rows = read(section);
  tap::equal(shown(rows),
             "1000 sp+8; 1004 sp+48; 100b sp+8; 1010 none; "
             "2000 sp+8; 2001 sp+16 bp-16; 2004 bp+16 bp-16; 200c sp+8; 200d bp+16 bp-16; "
             "2040 none; 3000 end; 3010 plt 11; 3030 sp+8; 3034 wide r10+0+0 bp0:r0+0; "
             "3038 wide r6-8 deref+0 bp2:r6+0; 3050 wide r7+72 deref+8 bp0:r0+0; 3060 none; "
             "3080 sp+8; 3090 none; 4000 signal; 4009 none; ",
             "entries become rows");
  tap::equal(rows.unknown, 2, "what is not understood is counted");
  tap::ok(!rows.is_relocated, "the bytes are the same in every process");
}

// What the runtime finds, against a search through all rows.
bool lookups_agree(const unwind::UnwindRows& rows, uint64_t from, uint64_t to, uint64_t stride) {
  const Bytes table = unwind::build_table(rows);
  unwind_module module{};
  module.table = reinterpret_cast<u64>(table.data());
  module.bias = 0x10000;
  size_t row = 0;
  for (uint64_t at = from; at < to; at += stride) {
    while (row < rows.rows.size() && rows.rows[row].start <= at) ++row;
    const u32 want = row == 0 ? u32{UNWIND_NONE} : rows.rows[row - 1].rule;
    if (rt_unwind_rule(&module, at + module.bias) != want) {
      std::printf("# at %#lx: %#x, not %#x\n", at, rt_unwind_rule(&module, at + module.bias), want);
      return false;
    }
  }
  return true;
}

bool read_file(const char* path, uint64_t at, void* out, size_t size) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  const ssize_t got = pread(fd, out, size, static_cast<off_t>(at));
  close(fd);
  return got == static_cast<ssize_t>(size);
}

bool read_here(uint64_t addr, void* out, size_t size) {
  return read_file("/proc/self/mem", addr, out, size);
}

extern const char image_start[] __asm__("__executable_start");

// This program's own section, as it is mapped.
unwind::ElfModule own_module() {
  auto module = unwind::read_elf_module(reinterpret_cast<uint64_t>(image_start), read_here);
  return module.ok() ? module.value() : unwind::ElfModule{};
}

// The same program as if its linker had made no .eh_frame_hdr.
unwind::ElfModule headless_module(const char* path) {
  const auto start = reinterpret_cast<uint64_t>(image_start);
  const auto without = [&](uint64_t addr, void* out, size_t size) {
    if (!read_here(addr, out, size)) return false;
    if (addr != start + sizeof(Elf64_Ehdr)) return true;
    for (size_t at = 0; at + sizeof(Elf64_Phdr) <= size; at += sizeof(Elf64_Phdr)) {
      auto* header = reinterpret_cast<Elf64_Phdr*>(static_cast<char*>(out) + at);
      if (header->p_type == PT_GNU_EH_FRAME) header->p_type = PT_NULL;
    }
    return true;
  };
  const auto file = [&](uint64_t at, void* out, size_t size) {
    return read_file(path, at, out, size);
  };
  auto module = unwind::read_elf_module(start, without, unwind::kEhFrameBytesMax, file);
  return module.ok() ? module.value() : unwind::ElfModule{};
}

bool is_sound(const unwind::UnwindRows& rows, const unwind::EhFrameInput& input) {
  for (size_t i = 0; i < rows.rows.size(); ++i) {
    const unwind_row& row = rows.rows[i];
    if (i != 0 && row.start <= rows.rows[i - 1].start) return false;
    if (row.start < input.text_start || row.start > input.text_end) return false;
    if (UNWIND_KIND(row.rule) == UNWIND_WIDE && UNWIND_OFFSET(row.rule) >= rows.wides.size()) {
      return false;
    }
  }
  for (const unwind_wide& wide : rows.wides) {
    if (wide.cfa_reg > 15 || wide.bp_reg > 15) return false;
  }
  return true;
}

void hostile(const unwind::ElfModule& module) {
  uint64_t state = 11;
  const auto random = [&] {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<uint32_t>(state >> 33);
  };
  bool sound = true, agree = true;
  for (int round = 0; round < 400 && sound; ++round) {
    unwind::ElfModule damaged = module;
    if (damaged.eh_frame.size() > 30'000) damaged.eh_frame.resize(30'000);
    const uint32_t changes = 1 + random() % 60;
    for (uint32_t i = 0; i < changes; ++i) {
      static constexpr uint8_t kNasty[] = {0, 1, 0x7f, 0x80, 0xff, 0x0f, 0x0a, 0x0b};
      const uint8_t byte =
          random() % 2 != 0 ? kNasty[random() % 8] : static_cast<uint8_t>(random());
      damaged.eh_frame[random() % damaged.eh_frame.size()] = byte;
    }
    if (random() % 4 == 0) damaged.eh_frame.resize(random() % damaged.eh_frame.size());
    const auto rows = unwind::read_eh_frame(damaged.input());
    if (!rows) continue;
    sound = is_sound(rows.value(), damaged.input());
    agree = agree && lookups_agree(rows.value(), module.text_start, module.text_end, 509);
  }
  tap::ok(sound, "damaged sections give sound rows");
  tap::ok(agree, "and tables that say what the rows say");
}

// As much work as a section of a few MiB can ask for.
void greedy() {
  Bytes section;
  put_cie(&section);
  // States that are remembered and never left; advances of nothing; a factor that overflows.
  for (int i = 0; i < 2000; ++i) {
    Bytes program(1000, i % 2 != 0 ? 0x0a : 0x40);
    put_fde(&section, 0x1000, 0x5000, program);
  }
  const size_t odd_at = section.size();
  Bytes odd = {0, 0, 0, 0, 1, 'z', 'R', 0};
  odd.insert(odd.end(), {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1});  // code factor
  odd.insert(odd.end(), {0x78, 16, 1, 0x1b, 0x0c, 7, 8, 0x90, 1});
  put_entry(&section, odd);
  for (int i = 0; i < 2000; ++i) {
    Bytes program;
    for (int k = 0; k < 100; ++k)
      program.insert(program.end(), {0x41, 0x0e, static_cast<uint8_t>(k)});
    put_fde(&section, 0x6000 + i % 16, 0x100, program, odd_at);
  }
  timespec begin{}, end{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
  const unwind::UnwindRows rows = read(section);
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
  unwind::EhFrameInput input;
  input.text_start = kText;
  input.text_end = kTextEnd;
  tap::ok(is_sound(rows, input), "greedy sections give sound rows");
  tap::ok(end.tv_sec - begin.tv_sec < 2, "soon");
}

}  // namespace

int main() {
  shapes();
  const unwind::ElfModule module = own_module();
  tap::ok(module.eh_frame.size() > 1000, "a mapped module's section is found by its headers");
  tap::ok(module.build_id[0] != 0 || module.build_id[1] != 0, "and its build-id");
  const unwind::ElfModule headless = headless_module("/proc/self/exe");
  tap::ok(headless.vaddr == module.vaddr && headless.eh_frame == module.eh_frame,
          "where a linker left those out its sections are looked at");
  tap::ok(headless_module("/dev/zero").eh_frame.empty(), "if the file has any");
  const auto rows = unwind::read_eh_frame(module.input());
  tap::ok(rows.ok() && rows.value().pieces.size() > 50, "its functions have rows");
  tap::equal(rows.value().unknown, 0, "all of which are understood");
  tap::ok(lookups_agree(rows.value(), module.text_start, module.text_end, 1),
          "each address has the rule that its row says");
  hostile(module);
  greedy();
  const auto nothing = [](uint64_t, void* out, size_t size) {
    memset(out, 0x5a, size);
    return true;
  };
  tap::ok(!unwind::read_elf_module(0x1000, nothing).ok(), "what is no ELF file is refused");
  return tap::done();
}
