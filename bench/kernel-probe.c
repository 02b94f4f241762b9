// SPDX-License-Identifier: MIT
// Attaches an eBPF object with the kernel's own uprobes and uretprobes, as the rival of our probes:
// system libbpf, bpf(2), perf_event_open(2). One process is probed, the one named, in one binary.
// Usage: kernel-probe BINARY PID    Commands on stdin, one answer line each:
//   attach OBJECT SYMBOL   -> ok | error: WHY    each program, at entry or return as its SEC()
//   says,
//                             and where its SEC() says if that names a function
//   detach                 -> ok LOST            LOST: first word of the object's .bss
// A ring buffer is read by a thread that waits in epoll, as tracing tools do.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kMaxLinks = 4, kPollMs = 50 };

static struct {
  struct bpf_object* object;
  struct bpf_link* links[kMaxLinks];
  int link_count;
  struct ring_buffer* ring;
  pthread_t reader;
  atomic_int reading;
} probe;

static int keep_quiet(enum libbpf_print_level level, const char* format, va_list args) {
  return level == LIBBPF_WARN ? vfprintf(stderr, format, args) : 0;
}

static int take_record(void* context, void* data, size_t size) {
  (void)context, (void)data, (void)size;
  return 0;
}

static void* read_ring(void* unused) {
  (void)unused;
  while (atomic_load(&probe.reading)) ring_buffer__poll(probe.ring, kPollMs);
  return NULL;
}

static void start_reader(void) {
  struct bpf_map* map;
  bpf_object__for_each_map(map, probe.object) {
    if (bpf_map__type(map) != BPF_MAP_TYPE_RINGBUF) continue;
    probe.ring = ring_buffer__new(bpf_map__fd(map), take_record, NULL, NULL);
    if (!probe.ring) return;
    atomic_store(&probe.reading, 1);
    pthread_create(&probe.reader, NULL, read_ring, NULL);
    return;
  }
}

static uint64_t first_bss_word(void) {
  struct bpf_map* map;
  uint64_t word = 0;
  bpf_object__for_each_map(map, probe.object) {
    const char* name = bpf_map__name(map);
    const size_t len = strlen(name);
    if (len < 4 || strcmp(name + len - 4, ".bss") != 0) continue;
    const uint32_t key = 0;
    char* value = calloc(1, bpf_map__value_size(map));
    if (value && bpf_map_lookup_elem(bpf_map__fd(map), &key, value) == 0) {
      memcpy(&word, value, sizeof word);
    }
    free(value);
  }
  return word;
}

static uint64_t detach(void) {
  for (int i = 0; i < probe.link_count; i++) bpf_link__destroy(probe.links[i]);
  if (probe.ring) {
    atomic_store(&probe.reading, 0);
    pthread_join(probe.reader, NULL);
    ring_buffer__free(probe.ring);
  }
  const uint64_t word = probe.object ? first_bss_word() : 0;
  bpf_object__close(probe.object);
  memset(&probe, 0, sizeof probe);
  return word;
}

// SEC("uprobe/BINARY:SYMBOL") says where; else where the command says.
static struct bpf_link* attach_program(struct bpf_program* program, const char* binary,
                                       const char* symbol, int pid) {
  const char* section = bpf_program__section_name(program);
  char own_binary[512];
  const char* slash = strchr(section, '/');
  const char* colon = strrchr(section, ':');
  if (slash && colon) {
    snprintf(own_binary, sizeof own_binary, "%.*s", (int)(colon - slash - 1), slash + 1);
    binary = own_binary;
    symbol = colon + 1;
  }
  LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = symbol,
              .retprobe = strstr(section, "uret") != NULL);
  return bpf_program__attach_uprobe_opts(program, pid, binary, 0, &options);
}

static int attach(const char* object, const char* symbol, const char* binary, int pid) {
  probe.object = bpf_object__open_file(object, NULL);
  if (!probe.object) return -errno;
  int error = bpf_object__load(probe.object);
  if (error) return error;
  start_reader();
  struct bpf_program* program;
  bpf_object__for_each_program(program, probe.object) {
    struct bpf_link* link = attach_program(program, binary, symbol, pid);
    if (!link) return -errno;
    probe.links[probe.link_count++] = link;
    if (probe.link_count == kMaxLinks) break;
  }
  return 0;
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: kernel-probe BINARY PID\n");
    return 2;
  }
  libbpf_set_print(keep_quiet);
  setvbuf(stdout, NULL, _IOLBF, 0);
  puts("ready");
  char line[4096], object[2048], symbol[128];
  while (fgets(line, sizeof line, stdin)) {
    if (strcmp(line, "detach\n") == 0) {
      printf("ok %llu\n", (unsigned long long)detach());
    } else if (sscanf(line, "attach %2047s %127s", object, symbol) == 2 && !probe.object) {
      const int error = attach(object, symbol, argv[1], atoi(argv[2]));
      if (error) detach();
      printf(error ? "error: %s\n" : "ok\n", strerror(-error));
    } else {
      puts("error: unknown command");
    }
  }
  detach();
  return 0;
}
