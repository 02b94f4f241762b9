/* SPDX-License-Identifier: MIT */
/* A program that embeds ubpf, compiled against bpftime/ubpf.h. */
#include <bpftime/ubpf.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static int count, failures;

static void ok(int passed, const char* name) {
  printf("%sok %d - %s\n", passed ? "" : "not ", ++count, name);
  failures += !passed;
}

/* Whether the call failed with a sentence that contains `text`; frees it. */
static int refused(int result, char** errmsg, const char* text) {
  const int yes = result == -1 && *errmsg != NULL && strstr(*errmsg, text) != NULL;
  if (!yes) printf("# got %d '%s'\n", result, *errmsg ? *errmsg : "");
  free(*errmsg);
  *errmsg = NULL;
  return yes;
}

static char printed[128];

static int keep_print(FILE* stream, const char* format, ...) {
  va_list args;
  va_start(args, format);
  (void)stream;
  const int length = vsnprintf(printed, sizeof printed, format, args);
  va_end(args);
  return length;
}

static uint64_t triple(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e) {
  (void)b, (void)c, (void)d, (void)e;
  return 3 * a;
}

/* r1 = *(u64 *)(r1 + 0); call 2; exit */
static const uint64_t kTriple[] = {0x1179, 0x200000085, 0x95};

static void bytecode(struct ubpf_vm* vm) {
  uint64_t mem[2] = {7, 5}, result = 0;
  char* errmsg = NULL;
  ok(ubpf_exec(vm, mem, sizeof mem, &result) == -1 && strstr(printed, "no program") != NULL,
     "nothing to run, and it is said where the host wants it");
  ok(ubpf_compile(vm, &errmsg) == NULL && refused(-1, &errmsg, "no program"), "nor to compile");
  ok(refused(ubpf_load(vm, kTriple, sizeof kTriple, &errmsg), &errmsg, "no helper has this id"),
     "an unregistered function");
  ok(ubpf_load(vm, kTriple, sizeof kTriple, NULL) == -1, "errmsg may be null");
  ok(ubpf_register(vm, 2, "triple", as_external_function_t((void*)triple)) == 0, "register");
  ok(ubpf_register(vm, BPFTIME_VM_HELPERS_MAX, "x", triple) == -1, "register: index too large");
  ok(ubpf_lookup_registered_function(vm, "triple") == 2 &&
         ubpf_lookup_registered_function(vm, "x") == (unsigned int)-1,
     "functions by name");
  ok(ubpf_load(vm, kTriple, sizeof kTriple, &errmsg) == 0, "load");
  ok(refused(ubpf_load(vm, kTriple, sizeof kTriple, &errmsg), &errmsg, "loaded already"),
     "load twice");
  ok(ubpf_exec(vm, mem, sizeof mem, &result) == 0 && result == 21, "interpreted");
  const ubpf_jit_fn run = ubpf_compile(vm, &errmsg);
  ok(run != NULL && run(mem, sizeof mem) == 21, "compiled");
  ubpf_unload_code(vm);
  ok(ubpf_exec(vm, mem, sizeof mem, &result) == -1, "unloaded");
  ok(ubpf_load(vm, kTriple, sizeof kTriple, &errmsg) == 0 &&
         ubpf_exec(vm, mem, sizeof mem, &result) == 0 && result == 21,
     "load again: functions stayed");
  ubpf_unload_code(vm);
}

static unsigned char* read_object(const char* name, size_t* size) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s.bpf.o", BPF_OBJECT_DIR, name);
  FILE* file = fopen(path, "rb");
  if (file == NULL) return NULL;
  unsigned char* bytes = malloc(1 << 20);
  *size = fread(bytes, 1, 1 << 20, file);
  fclose(file);
  return bytes;
}

static void objects(struct ubpf_vm* vm) {
  uint64_t mem[2] = {7, 5}, result = 0;
  char* errmsg = NULL;
  size_t size = 0, maps_size = 0;
  unsigned char* object = read_object("ubpf", &size);
  unsigned char* maps = read_object("maps", &maps_size);
  ok(object != NULL && maps != NULL, "objects are there");
  const int loaded = ubpf_load_elf(vm, object, size, &errmsg);
  if (loaded != 0) printf("# %s\n", errmsg);
  ok(loaded == 0 && ubpf_exec(vm, mem, sizeof mem, &result) == 0 && result == 21 + 1048 + 4,
     "an object file: functions by name, calls within and between sections");
  const ubpf_jit_fn run = ubpf_compile(vm, &errmsg);
  ok(run != NULL && run(mem, sizeof mem) == 21 + 1048 + 4, "compiled");
  ubpf_unload_code(vm);
  ok(refused(ubpf_load_elf_ex(vm, object, size, "nowhere", &errmsg), &errmsg, "section nowhere"),
     "no such section");
  ok(refused(ubpf_load_elf_ex(vm, maps, maps_size, "uprobe/count", &errmsg), &errmsg, "or a map"),
     "an object with maps");
  ok(refused(ubpf_load_elf(vm, "#!/bin/sh", 9, &errmsg), &errmsg, "no ELF"), "no ELF file");

  /* Copies of their exact size: a read past the end is one that tools see. */
  size_t accepted = 0, silent = 0;
  for (size_t i = 0; i < size; i++) {
    unsigned char* cut = malloc(i + 1);
    memcpy(cut, object, i);
    if (ubpf_load_elf(vm, cut, i, &errmsg) == 0)
      ubpf_unload_code(vm), accepted++;
    else
      silent += errmsg == NULL;
    free(errmsg), free(cut), errmsg = NULL;
  }
  ok(accepted == 0 && silent == 0, "cut short at every byte: refused with a sentence");
  for (size_t i = 0; i < size * 2; i++) {
    object[i / 2] ^= i % 2 ? 0xff : 1;
    if (ubpf_load_elf(vm, object, size, &errmsg) == 0)
      ubpf_unload_code(vm);
    else
      silent += errmsg == NULL;
    object[i / 2] ^= i % 2 ? 0xff : 1;
    free(errmsg), errmsg = NULL;
  }
  ok(silent == 0, "every byte flipped: loaded or refused with a sentence");
  free(object), free(maps);
}

/* r0 = *(u64 *)(r1 + 8); exit */
static const uint64_t kSecond[] = {0x81079, 0x95};
/* goto -1 */
static const uint64_t kEndless[] = {0xffff0005};

static void bounds(void) {
  struct ubpf_vm* vm = ubpf_create();
  uint64_t mem[2] = {7, 5}, result = 0;
  uint32_t former = 1;
  ubpf_set_error_print(vm, keep_print);
  ok(ubpf_load(vm, kSecond, sizeof kSecond, NULL) == 0, "a program that reads its second word");
  ok(ubpf_exec(vm, mem, 16, &result) == 0 && result == 5, "has two");
  ok(ubpf_exec(vm, mem, 8, &result) == -1 && strstr(printed, "not its own") != NULL, "or one");
  ok(ubpf_toggle_bounds_check(vm, false) && ubpf_exec(vm, mem, 8, &result) == 0 && result == 5,
     "which nobody looks at");
  ok(!ubpf_toggle_bounds_check(vm, true), "the former state is told");
  ubpf_unload_code(vm);
  ok(ubpf_set_instruction_limit(vm, 1000, &former) == 0 && former == 0, "a limit");
  ok(ubpf_load(vm, kEndless, sizeof kEndless, NULL) == 0 && ubpf_exec(vm, mem, 16, &result) == -1 &&
         strstr(printed, "too long") != NULL,
     "ends a program that does not");
  ubpf_destroy(vm);
}

int main(void) {
  bounds();
  struct ubpf_vm* vm = ubpf_create();
  ok(vm != NULL, "create");
  ok(ubpf_toggle_bounds_check(vm, false) && !ubpf_toggle_bounds_check(vm, true),
     "toggle_bounds_check says what was");
  ubpf_set_error_print(vm, keep_print);
  bytecode(vm);
  objects(vm);
  ubpf_destroy(vm);
  ubpf_destroy(NULL);
  printf("1..%d\n", count);
  return failures != 0;
}
