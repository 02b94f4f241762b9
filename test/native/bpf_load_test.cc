// SPDX-License-Identifier: MIT
// Objects from clang through libbpf and our bpf(2). argv[1]: rounds of mutation per object.
#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "abi/frame.h"
#include "bpf/elf_check.h"
#include "bpf/loader.h"
#include "bpf/objects.h"
#include "bpf/prog_array.h"
#include "bpf/syscall.h"
#include "bpf/test_run.h"
#include "tap.h"
#include "vm/rt/helpers.h"
#include "vm/rt/map.h"
#include "vm/rt/ring.h"

using namespace bpftime;
using tap::equal;
using tap::ok;

static std::vector<uint8_t> read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

static std::shared_ptr<ProgObject> prog_named(const LoadedObject& object, const char* name) {
  for (const auto& prog : object.programs) {
    if (prog->name == name) return prog;
  }
  return nullptr;
}
static std::shared_ptr<MapObject> map_named(const LoadedObject& object, const std::string& name) {
  for (const auto& map : object.maps) {
    if (map->name == name) return map;
  }
  return nullptr;
}

static int run(const LoadedObject& object, const char* name, u64 a = 0, u64 b = 0, u64 c = 0) {
  const auto prog = prog_named(object, name);
  if (prog == nullptr) return -9999;
  probe_regs regs{};
  regs.di = a;
  regs.si = b;
  regs.dx = c;
  regs.ax = a;
  TestRun how;
  how.ctx = {reinterpret_cast<const uint8_t*>(&regs), sizeof(regs)};
  int results[2];
  for (const Engine engine : {Engine::kInterpreter, Engine::kJit}) {
    how.engine = engine;
    Result<TestResult> result = test_run(*prog, how);
    if (!result) {
      std::printf("# %s: %s\n", name, result.error().reason);
      return -9998;
    }
    results[static_cast<int>(engine)] = static_cast<int>(result->retval);
  }
  // Programs with side effects run twice; the JIT ran last.
  return results[static_cast<int>(Engine::kJit)];
}

static int keep(void* arg, const void* data, u32 len) {
  static_cast<std::string*>(arg)->assign(static_cast<const char*>(data), len);
  return 0;
}

static void test_maps(const std::string& dir) {
  std::string log;
  Result<LoadedObject> loaded = load_object("maps", read_file(dir + "/maps.bpf.o"), log);
  if (!ok(loaded.ok(), "maps.bpf.o loads")) {
    std::printf("# %s\n# %s\n", loaded.error().reason, log.c_str());
    return;
  }
  const LoadedObject& object = *loaded;
  equal(object.programs.size(), 6, "six programs");
  ok(log.empty(), "without a warning");
  std::printf("# %s\n", log.c_str());
  ok(prog_named(object, "custom")->type == BPF_PROG_TYPE_KPROBE, "unknown sections are probes");
  ok(prog_named(object, "custom")->section == "syscall/openat/enter", "and keep their name");
  ok(!object.btf.empty(), "BTF is handed out");
  equal(run(object, "count", 5, 10), 20, "hash: inserted, then added");
  const auto counts = map_named(object, "counts");
  u32 key = 5;
  u64 value = 0;
  equal(rt_map_read(&counts->view, &key, &value), 0, "the daemon sees the entry");
  equal(value, 20, "with its value");
  ok(counts->btf_key_type != 0 && counts->btf_value_type != 0, "map types are known");
  equal(run(object, "arrays", 2), 14, "array: stepped twice by a constant in .rodata");
  equal(run(object, "arrays", 9), -1, "array: out of range");
  equal(run(object, "globals"), 114, "globals in .data");
  ok(map_named(object, "maps.bss") != nullptr || map_named(object, ".bss") != nullptr, ".bss");
  for (const auto& map : object.maps) {
    std::printf("# map %s type %u frozen %d\n", map->name.c_str(), map->view.type,
                map->frozen ? 1 : 0);
  }
  equal(run(object, "emit", reinterpret_cast<u64>("/etc/hostname-and-more")), 1, "emit");
  const auto events = map_named(object, "events");
  rt_ring_cursor cursor{};
  std::string record;
  equal(rt_ring_consume(&events->view, 0, &cursor, 10, keep, &record), 2, "two ring records");
  ok(record.size() == 40 && record.substr(16, 15) == "/etc/hostname-a", "with the string read");
  equal(run(object, "custom"), 42, "custom section");
}

static void test_replacement(const std::string& dir) {
  std::string log;
  const std::vector<uint8_t> file = read_file(dir + "/maps.bpf.o");
  Result<LoadedObject> first = load_object("maps", file, log);
  if (!ok(first.ok(), "loads")) return;
  run(*first, "count", 5, 10);
  run(*first, "globals");
  FormerMaps former;
  former.maps = first->maps;
  Result<LoadedObject> second = load_object("maps", file, log, former);
  if (!ok(second.ok(), "loads with the maps of another")) return;
  ok(log.empty(), "without a warning");
  ok(map_named(*second, "counts") == map_named(*first, "counts"), "a hash is the same map");
  ok(map_named(*second, "samples") == map_named(*first, "samples"), "so are perf buffers");
  ok(map_named(*second, "maps.data") == map_named(*first, "maps.data"), "and variables");
  ok(map_named(*second, "maps.rodata") != map_named(*first, "maps.rodata"), "not constants");
  ok(second->map_types.size() == second->maps.size(), "types of every map are known");
  equal(run(*second, "count", 5, 1), 22, "counting goes on: 20, and twice one");
  equal(run(*second, "globals"), 128, "so do variables");
  former.same_file = true;
  Result<LoadedObject> third = load_object("maps", file, log, former);
  ok(third.ok() && map_named(*third, "maps.rodata") == map_named(*first, "maps.rodata"),
     "the same file again: constants, too");
  MapSpec wider{BPF_MAP_TYPE_HASH, 4, 16, 1024, 0, "counts"};
  Result<std::shared_ptr<MapObject>> other = create_map(wider);
  former.maps = {*other};
  former.same_file = false;
  Result<LoadedObject> fourth = load_object("maps", file, log, former);
  ok(fourth.ok() && map_named(*fourth, "counts") != *other, "a map of another size stays away");
}

static std::string texts(const vm_map& view) {
  std::string all;
  u64 cursor = 0, value = 0;
  while (rt_map_iterate(&view, &cursor, nullptr, &value) == 0) all += std::to_string(value) + " ";
  return all;
}

static void test_kinds(const std::string& dir) {
  std::string log;
  const std::vector<uint8_t> file = read_file(dir + "/kinds.bpf.o");
  Result<LoadedObject> loaded = load_object("kinds", file, log);
  if (!ok(loaded.ok(), "kinds.bpf.o loads")) {
    std::printf("# %s\n# %s\n", loaded.error().reason, log.c_str());
    return;
  }
  const LoadedObject& object = *loaded;
  equal(run(object, "enqueue", 7, 1), 0, "two jobs (each engine runs a program once)");
  equal(run(object, "enqueue", 8, 1), -E2BIG, "the queue takes three");
  equal(run(object, "dequeue", 0), -1, "too heavy: it stays");
  equal(rt_map_count(&map_named(object, "jobs")->view), 3, "in the queue");
  equal(run(object, "dequeue", 1), 7, "first in, first out");
  equal(run(object, "dequeue", 1), -ENOENT, "one is left, and then none");
  equal(run(object, "remember", 5), 5, "a stack has the newest on top");
  equal(run(object, "remember", 6), 6, "and lets the oldest go");
  ok(texts(map_named(object, "recent")->view) == "5 6 6 ", "5 5 6 6 without the first");
  const auto seen = map_named(object, "seen");
  equal(seen->view.elem_stride, 3, "map_extra: three hashes");
  equal(run(object, "first_time", 4), 0, "seen before: the other engine was first");
  const struct {
    u32 len;
    u8 data[4];
  } ten{8, {10, 0, 0, 0}}, ten_one{16, {10, 1, 0, 0}};
  u32 value = 100;
  const auto routes = map_named(object, "routes");
  rt_map_write(&routes->view, &ten, &value, BPF_ANY);
  value = 200;
  rt_map_write(&routes->view, &ten_one, &value, BPF_ANY);
  equal(run(object, "route", 0x0a010203), 200, "the longer prefix");
  equal(run(object, "route", 0x0a020203), 100, "the shorter one");
  equal(run(object, "route", 0x0b020203), -1, "none");
  FormerMaps former;
  former.maps = object.maps;
  Result<LoadedObject> second = load_object("kinds", file, log, former);
  ok(second.ok() && map_named(*second, "seen") == seen, "a replacement goes on with all of them");
  MapSpec other{BPF_MAP_TYPE_BLOOM_FILTER, 0, 4, 100, 0, "seen"};
  other.bloom_hashes = 4;
  former.maps = {*create_map(other)};
  Result<LoadedObject> third = load_object("kinds", file, log, former);
  ok(third.ok() && map_named(*third, "seen") != former.maps[0], "not with another filter");
  other.bloom_hashes = 0;  // as a journal has it
  Result<std::shared_ptr<MapObject>> adopted =
      adopt_map(other, ScopedFd(dup(former.maps[0]->storage.get())));
  ok(adopted.ok() && (*adopted)->view.elem_stride == 4, "one that is adopted keeps its hashes");
}

static void test_tools(const std::string& dir) {
  std::string log;
  Result<LoadedObject> loaded = load_object("tool", read_file(dir + "/tool.bpf.o"), log);
  if (!ok(loaded.ok(), "an object like those of libbpf-tools loads")) {
    std::printf("# %s\n# %s\n", loaded.error().reason, log.c_str());
    return;
  }
  const auto stacks = map_named(*loaded, "stackmap");
  equal(stacks->view.value_size, 127 * 8, "a stack trace map without sizes has room for 127");
  equal(stacks->view.max_entries, 1024, "addresses of 1024 stacks");
  equal(run(*loaded, "trace", 1), 1, "what its constants leave out may name cgroups");
  const int cgroups = map_named(*loaded, "cgroup_map")->storage.get();
  u32 key = 0, value = 0;
  equal(bpf_map_update_elem(cgroups, &key, &value, BPF_ANY), -EOPNOTSUPP, "none can be put in");
  equal(bpf_map_lookup_elem(cgroups, &key, &value), -EOPNOTSUPP, "or looked up");
}

static void test_absent_kinds(const std::string& dir) {
  std::string log;
  const Result<LoadedObject> loaded = load_object("jumps", read_file(dir + "/jumps.bpf.o"), log);
  equal(loaded.ok() ? 0 : loaded.error().errnum, ENOEXEC, "a kind of map that is not here");
  equal(log,
        "map jumps is of kind sockmap, which exists in the kernel only (use a hash or an array)\n",
        "is named, and what to do");
}

static void test_tails(const std::string& dir) {
  std::string log;
  const std::vector<uint8_t> file = read_file(dir + "/dispatch.bpf.o");
  Result<LoadedObject> loaded = load_object("dispatch", file, log);
  if (!ok(loaded.ok(), "dispatch.bpf.o loads")) {
    std::printf("# %s\n# %s\n", loaded.error().reason, log.c_str());
    return;
  }
  const auto programs = map_named(*loaded, "programs");
  const auto dispatch = prog_named(*loaded, "dispatch");
  const auto third = prog_named(*loaded, "third");
  const int fd = programs->storage.get();
  equal(reachable_programs(*dispatch).size(), 4, "what it goes on with, directly or not");
  equal(reachable_programs(*third).size(), 0, "nothing, without tail calls");
  ok(holds_program(*programs, *third) && !holds_program(*programs, *dispatch), "who lies in it");
  u32 key = 1, id = 0;
  equal(bpf_map_lookup_elem(fd, &key, &id), 0, "bpf(2) looks an entry up");
  equal(id, third->id, "and finds the program's id");
  key = 3;
  equal(bpf_map_lookup_elem(fd, &key, &id), -ENOENT, "an empty one");
  key = 5;
  equal(bpf_map_lookup_elem(fd, &key, &id), -ENOENT, "one beyond the end");
  const int program = third->text.get();
  equal(bpf_map_update_elem(fd, &key, &program, BPF_ANY), -E2BIG, "nothing is put there");
  key = 3;
  equal(bpf_map_update_elem(fd, &key, &program, BPF_NOEXIST), -EINVAL, "flags mean nothing here");
  equal(bpf_map_update_elem(fd, &key, &fd, BPF_ANY), -EBADF, "a map is no program");
  equal(bpf_map_update_elem(fd, &key, &program, BPF_ANY), 0, "an entry is filled");
  equal(bpf_map_delete_elem(fd, &key), 0, "and emptied");
  equal(bpf_map_delete_elem(fd, &key), -ENOENT, "once");
  // Whoever can write to the map leads programs to others of the table, or nowhere.
  u32* const number = reinterpret_cast<u32*>(programs->view.base + 8);
  const u32 before = *number;
  for (const u32 scribbled : {0u, 6u, 7u, 0x80000000u, ~0u}) {
    *number = scribbled;
    equal(run(*loaded, "dispatch", 1), 0, "a scribbled number");
  }
  *number = before;
  ProgSpec spec;
  spec.type = BPF_PROG_TYPE_TRACEPOINT;
  const uint64_t insns[] = {0xb7, 0x95};
  spec.insns = insns;
  Result<std::shared_ptr<ProgObject>> other = create_prog(spec, log);
  ok(other.ok() && put_program(programs.get(), &key, *other, BPF_ANY) == -EINVAL,
     "a program of another kind is not put in");
}

static void test_nested(const std::string& dir) {
  std::string log;
  const std::vector<uint8_t> file = read_file(dir + "/nested.bpf.o");
  Result<LoadedObject> loaded = load_object("nested", file, log);
  if (!ok(loaded.ok(), "nested.bpf.o loads")) {
    std::printf("# %s\n# %s\n", loaded.error().reason, log.c_str());
    return;
  }
  const LoadedObject& object = *loaded;
  equal(run(object, "count", 0, 7), 2, "the first inner map (each engine counts once)");
  equal(run(object, "count", 2, 7), 2, "another one");
  equal(run(object, "count", 1, 7), -1, "no map is there");
  equal(run(object, "count", 9, 7), -1, "nor beyond the end");
  u32 key = 7;
  u64 value = 0;
  equal(rt_map_read(&map_named(object, "writes")->view, &key, &value), 0, "it is the map itself");
  equal(value, 2, "that was written");
  equal(run(object, "total", 0), 10, "a hash of maps: twice five");
  equal(run(object, "total", 1), -1, "no such name");
  const auto outer = map_named(object, "by_kind");
  const int fd = outer->storage.get();
  u32 id = 0;
  key = 2;
  equal(bpf_map_lookup_elem(fd, &key, &id), 0, "bpf(2) gives an inner map's");
  equal(id, map_named(object, "writes")->id, "id");
  key = 1;
  equal(bpf_map_lookup_elem(fd, &key, &id), -ENOENT, "nothing is in a place");
  int small = map_named(object, "small")->storage.get();
  equal(bpf_map_update_elem(fd, &key, &small, BPF_ANY), -EINVAL, "another kind is refused");
  key = 0;
  equal(bpf_map_delete_elem(fd, &key), 0, "taken out");
  equal(run(object, "count", 0, 7), -1, "is not found any more");
  // A target may write anything into its own storage.
  const u32 wild[] = {3, 4096, 0xffffffff, 0x80000000};
  for (const u32 number : wild) {
    rt_map_write(&outer->view, &key, &number, BPF_ANY);
    equal(run(object, "count", 0, 7), -1, "a number of no map is none");
  }
  LIBBPF_OPTS(bpf_map_create_opts, options, .inner_map_fd = static_cast<u32>(fd));
  equal(bpf_map_create(BPF_MAP_TYPE_HASH_OF_MAPS, "deep", 4, 4, 1, &options), -ENOTSUP,
        "one level only, as in the kernel");
  equal(bpf_map_create(BPF_MAP_TYPE_HASH_OF_MAPS, "none", 4, 4, 1, nullptr), -EBADF,
        "what is in it has to be said");
}

static void test_lifetime(const std::string& dir) {
  uint32_t prog_id = 0, map_id = 0;
  std::shared_ptr<ProgObject> kept;
  {
    std::string log;
    Result<LoadedObject> loaded = load_object("maps", read_file(dir + "/maps.bpf.o"), log);
    if (!ok(loaded.ok(), "loads again")) return;
    kept = prog_named(*loaded, "count");
    prog_id = kept->id;
    map_id = map_named(*loaded, "counts")->id;
  }
  ok(find_prog(prog_id) != nullptr && find_map(map_id) != nullptr, "a program keeps its maps");
  kept.reset();
  ok(find_prog(prog_id) == nullptr && find_map(map_id) == nullptr, "and nothing is left after it");
}

// Needs the kernel's BTF, as CO-RE does.
static void test_core(const std::string& dir) {
  std::string log;
  Result<LoadedObject> usdt = load_object("usdt", read_file(dir + "/usdt.bpf.o"), log);
  if (ok(usdt.ok(), "usdt.bpf.o loads")) {
    equal(run(*usdt, "relocated"), 4, "CO-RE against the kernel's types");
  } else {
    std::printf("# %s\n", log.c_str());
  }
}

static void test_other_objects(const std::string& dir) {
  std::string log;
  Result<LoadedObject> kprobe = load_object("kprobe", read_file(dir + "/kprobe.bpf.o"), log);
  if (ok(kprobe.ok(), "kprobe.bpf.o loads")) {
    equal(run(*kprobe, "three", 1, 2, 3), 123, "BPF_KPROBE arguments");
    equal(run(*kprobe, "second", 1, 8), 8, "second program of the section");
    equal(run(*kprobe, "result", 41), 42, "BPF_KRETPROBE");
  } else {
    std::printf("# %s\n", log.c_str());
  }
  log.clear();
  if (access("/sys/kernel/btf/vmlinux", R_OK) == 0) test_core(dir);
  log.clear();
  Result<LoadedObject> broken = load_object("broken", read_file(dir + "/broken.bpf.o"), log);
  ok(!broken.ok() && broken.error().errnum == ENOEXEC, "an unknown helper is refused");
  ok(log.find("insn 1: ") != std::string::npos, "the log names the instruction");
  std::printf("# %s\n", broken.ok() ? "" : broken.error().reason);
}

static void expect_reason(std::vector<uint8_t> file, const char* part) {
  const Result<void> result = check_bpf_object(file);
  const bool found = !result.ok() && std::strstr(result.error().reason, part) != nullptr;
  if (!ok(found, part)) std::printf("# got: %s\n", result.ok() ? "ok" : result.error().reason);
}

static void test_refusals(const std::string& dir, const char* self) {
  const auto good = read_file(dir + "/maps.bpf.o");
  expect_reason({}, "empty file");
  expect_reason({'#', '!', '/', 'b'}, "not an ELF file");
  expect_reason(read_file(self), "x86-64 object, want eBPF");
  auto file = good;
  file.resize(40);
  expect_reason(file, "truncated ELF file");
  file = good;
  file.resize(good.size() / 2);
  expect_reason(file, "truncated object");
  file = good;
  file[5] = 2;
  expect_reason(file, "big-endian");
  file = good;
  file[4] = 1;
  expect_reason(file, "32-bit");
  file = good;
  file[18] = 183;
  expect_reason(file, "arm64");
}

// Bytes flipped anywhere: refused or loaded, never a crash. The seed is fixed.
static void test_mutations(const std::string& path, int rounds) {
  const auto good = read_file(path);
  std::mt19937 random(11);
  int loaded = 0;
  for (int i = 0; i < rounds; i++) {
    auto file = good;
    const int flips = 1 + random() % 4;
    for (int k = 0; k < flips; k++) {
      const size_t at = random() % 5 == 0 ? random() % 64 : random() % file.size();
      file[at] = static_cast<uint8_t>(random());
    }
    if (random() % 20 == 0) file.resize(random() % file.size());
    std::string log;
    if (load_object("m", file, log).ok()) loaded++;
  }
  ok(true, "mutated objects are survived");
  std::printf("# %d of %d still load\n", loaded, rounds);
}

int main(int argc, char** argv) {
  const std::string dir = BPF_OBJECT_DIR;
  ok(libbpf_is_ours(), "libbpf's bpf(2) is ours");
  test_maps(dir);
  test_replacement(dir);
  test_kinds(dir);
  test_tools(dir);
  test_absent_kinds(dir);
  test_tails(dir);
  test_nested(dir);
  test_lifetime(dir);
  test_other_objects(dir);
  test_refusals(dir, argv[0]);
  for (const char* name : {"/maps.bpf.o", "/kprobe.bpf.o", "/usdt.bpf.o", "/types.bpf.o",
                           "/kinds.bpf.o", "/nested.bpf.o"}) {
    test_mutations(dir + name, argc > 1 ? std::atoi(argv[1]) : 100);
  }
  return tap::done();
}
