// SPDX-License-Identifier: MIT
// Times each program of bench/bpf/vm-programs.bpf.c in the kernel, here, and as native code, sample
// by sample in turn: a line `ENGINE PROGRAM NS` each. The kernel's clock counts whole nanoseconds a
// run; what an empty program costs it (BPF_PROG_TEST_RUN's own work) is printed as `floor`, and is
// for the reader to take off. Lines ENGINE-bytes have how long the code is. Results must be equal
// on all engines. Usage: vm-speed KERNEL.o OURS.o
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <bpftime/vm.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bpf/vm-programs.bpf.c"

#define SAMPLES 25
#define SAMPLE_NS 2000000.0

typedef uint64_t program_fn(uint8_t* mem);
struct program {
  const char* name;
  program_fn* native;
  bpftime_vm_entry ours;
  int kernel_fd;
  unsigned repeat;
};
static struct program programs[] = {
    {"simple", native_simple, 0, -1, 0}, {"log2", native_log2, 0, -1, 0},
    {"prime", native_prime, 0, -1, 0},   {"memcpy", native_memcpy, 0, -1, 0},
    {"strcmp", native_strcmp, 0, -1, 0}, {"checksum", native_checksum, 0, -1, 0},
    {"fnv", native_fnv, 0, -1, 0},       {"jhash", native_jhash, 0, -1, 0},
    {"choose", native_choose, 0, -1, 0},
};
#define PROGRAMS (sizeof(programs) / sizeof(programs[0]))

static void die(const char* what) {
  fprintf(stderr, "vm-speed: %s\n", what);
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
  return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void fill(uint8_t* mem) {
  uint32_t x = 1;
  for (int i = 0; i < BYTES / 2; i++) {
    x = x * 1664525 + 1013904223;
    mem[i] = mem[i + BYTES / 2] = (uint8_t)(x >> 24) | 1;
  }
}

static double run_kernel(const struct program* program, uint32_t* result) {
  uint8_t mem[BYTES];
  fill(mem);
  LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = mem, .data_size_in = BYTES,
              .repeat = (int)program->repeat);
  if (bpf_prog_test_run_opts(program->kernel_fd, &options) != 0) die("the kernel runs no program");
  *result = options.retval;
  return options.duration;
}

static double run_here(const struct program* program, int native, uint32_t* result) {
  _Alignas(64) uint8_t mem[BYTES];
  fill(mem);
  uint64_t sum = 0, start = now_ns();
  for (unsigned i = 0; i < program->repeat; i++) {
    sum = native ? program->native(mem) : program->ours(mem, BYTES);
    __asm__ volatile("" : : "r"(sum) : "memory");
  }
  *result = (uint32_t)sum;
  return (double)(now_ns() - start) / program->repeat;
}

static void* read_file(const char* path, size_t* size) {
  FILE* file = fopen(path, "rb");
  if (file == NULL) die("no such object");
  void* bytes = malloc(1 << 20);
  *size = fread(bytes, 1, 1 << 20, file);
  fclose(file);
  return bytes;
}

static void load_kernel(const char* path) {
  libbpf_set_print(NULL);
  struct bpf_object* object = bpf_object__open_file(path, NULL);
  if (object == NULL) die("libbpf cannot read the kernel's object");
  struct bpf_program* one;
  bpf_object__for_each_program(one, object) bpf_program__set_type(one, BPF_PROG_TYPE_XDP);
  if (bpf_object__load(object) != 0) exit(77); /* no bpf(2) */
  for (size_t i = 0; i < PROGRAMS; i++) {
    one = bpf_object__find_program_by_name(object, programs[i].name);
    if (one == NULL) die("a program is missing");
    programs[i].kernel_fd = bpf_program__fd(one);
  }
}

static unsigned kernel_bytes(int fd) {
  struct bpf_prog_info info = {0};
  unsigned info_bytes = sizeof info;
  return bpf_obj_get_info_by_fd(fd, &info, &info_bytes) == 0 ? info.jited_prog_len : 0;
}

int main(int argc, char** argv) {
  if (argc != 3) die("usage: vm-speed KERNEL.o OURS.o");
  load_kernel(argv[1]);
  size_t size = 0;
  void* object = read_file(argv[2], &size);
  for (size_t i = 0; i < PROGRAMS; i++) {
    char section[64];
    snprintf(section, sizeof(section), "bench/%s", programs[i].name);
    bpftime_vm* vm = bpftime_vm_create(NULL);
    if (bpftime_vm_load_object(vm, object, size, section, BPFTIME_VM_UNVERIFIED) != 0 ||
        bpftime_vm_compile(vm, 0) != 0) {
      die(bpftime_vm_error(vm));
    }
    programs[i].ours = bpftime_vm_function(vm);
    size_t code_bytes = 0;
    bpftime_vm_code(vm, &code_bytes);
    printf("kernel-bytes %s %u\nours-bytes %s %zu\n", programs[i].name,
           kernel_bytes(programs[i].kernel_fd), programs[i].name, code_bytes);
    programs[i].repeat = 100;
    uint32_t result;
    run_here(&programs[i], 1, &result);
    double ns = run_here(&programs[i], 1, &result);
    programs[i].repeat = (unsigned)(SAMPLE_NS / (ns < 2 ? 2 : ns));
  }
  for (int sample = 0; sample < SAMPLES; sample++) {
    for (size_t i = 0; i < PROGRAMS; i++) {
      uint32_t results[3];
      const double kernel = run_kernel(&programs[i], &results[0]);
      const double ours = run_here(&programs[i], 0, &results[1]);
      const double native = run_here(&programs[i], 1, &results[2]);
      if (results[0] != results[1] || results[1] != results[2]) die(programs[i].name);
      printf("%s %s %.3f\n", "kernel", i == 0 ? "floor" : programs[i].name, kernel);
      printf("ours %s %.3f\nnative %s %.3f\n", programs[i].name, ours, programs[i].name, native);
    }
  }
  return 0;
}
