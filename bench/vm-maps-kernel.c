// SPDX-License-Identifier: MIT
// Runs every program of an object in the kernel by BPF_PROG_TEST_RUN: a line "NAME NS" each, NS of
// one run by the kernel's clock. Usage: vm-maps-kernel OBJECT REPEAT
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  libbpf_set_print(NULL);
  struct bpf_object* object = bpf_object__open_file(argv[1], NULL);
  if (object == NULL) return 1;
  if (bpf_object__load(object) != 0) return 77; /* no bpf(2) */
  struct bpf_program* program;
  bpf_object__for_each_program(program, object) {
    unsigned char packet[64] = {0};
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = packet, .data_size_in = sizeof packet,
                .repeat = atoi(argv[2]));
    if (bpf_prog_test_run_opts(bpf_program__fd(program), &options) != 0) return 1;
    printf("%s %u\n", bpf_program__name(program), options.duration);
  }
  return 0;
}
