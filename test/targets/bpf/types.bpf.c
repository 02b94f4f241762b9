// SPDX-License-Identifier: MIT
// One struct with every kind of member that records and map values have.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "MIT";

enum color { RED = -2, GREEN = 1 };

struct point {
  int x, y;
};

struct sample {
  signed char tiny;
  _Bool yes;
  short small;
  enum color color;
  unsigned long wide;
  double ratio;
  float narrow;
  void* pointer;
  char name[8];
  unsigned int triple[3];
  struct point line[2];
  struct {
    int inner;
  };
  union {
    unsigned int as_int;
    float as_float;
  };
  unsigned int low : 3;
  int mid : 5;
  unsigned int high : 24;
};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct sample);
} samples SEC(".maps");

SEC("uprobe/nothing")
int nothing(void* ctx) { return 0; }
