// SPDX-License-Identifier: MIT
// Loads and unloads libraries as it is told on standard input, and says what it did:
//   open PATH | newspace PATH (dlmopen) | call N | close | many N PATH (open and close, N times)
//   throw (through a function of this program)
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void* library;

__attribute__((noinline)) void call(int count) {
  long (*const work)(long) = (long (*)(long))dlsym(library, "plugin_work");
  long sum = 0;
  for (int i = 0; work != NULL && i < count; ++i) sum += work(i);
  printf("called %ld\n", sum);
}

static volatile int went_through;
// Leaves by a jump, not by a ret: its return can only be caught by replacing the return address.
__attribute__((noinline)) void through(void (*thrower)(void)) {
  went_through += 1;
  thrower();
}

static void call_catch(void) {
  int (*const work)(void (*)(void (*)(void))) =
      (int (*)(void (*)(void (*)(void))))dlsym(library, "plugin_catch");
  printf("caught %d\n", work != NULL ? work(through) : -1);
}

static void* open_new_space(const char* path) {
#ifdef LM_ID_NEWLM
  return dlmopen(LM_ID_NEWLM, path, RTLD_NOW);
#else
  return dlopen(path, RTLD_NOW);
#endif
}

int main(void) {
  char line[4096], path[4096];
  int count;
  setvbuf(stdout, NULL, _IOLBF, 0);
  printf("ready\n");
  while (fgets(line, sizeof line, stdin) != NULL) {
    if (sscanf(line, "open %4095s", path) == 1) {
      library = dlopen(path, RTLD_NOW);
      printf(library != NULL ? "opened\n" : "failed %s\n", dlerror());
    } else if (sscanf(line, "newspace %4095s", path) == 1) {
      library = open_new_space(path);
      printf(library != NULL ? "opened\n" : "failed\n");
    } else if (sscanf(line, "call %d", &count) == 1) {
      call(count);
    } else if (strcmp(line, "throw\n") == 0) {
      call_catch();
    } else if (strcmp(line, "close\n") == 0) {
      printf("closed %d\n", dlclose(library));
    } else if (sscanf(line, "many %d %4095s", &count, path) == 2) {
      for (int i = 0; i < count; ++i) {
        void* const one = dlopen(path, RTLD_NOW);
        if (one == NULL || dlclose(one) != 0) exit(1);
      }
      printf("many done\n");
    }
  }
  return 0;
}
