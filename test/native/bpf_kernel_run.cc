// SPDX-License-Identifier: MIT
// Runs every program of an object in the kernel, for bpf_same_test: a line "NAME ROUND RESULT" for
// each of ROUNDS runs with the arguments of round_arguments(). Status 77: there is no bpf(2) here.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <cstdio>
#include <cstdlib>

#include "bpf_rounds.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  libbpf_set_print(nullptr);
  if (bpf_map_create(BPF_MAP_TYPE_ARRAY, nullptr, 4, 4, 1, nullptr) < 0) return 77;
  bpf_object* object = bpf_object__open_file(argv[1], nullptr);
  if (object == nullptr || bpf_object__load(object) != 0) {
    std::fprintf(stderr, "the kernel refuses the object\n");
    return 1;
  }
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object) {
    for (unsigned round = 0; round < kRounds; ++round) {
      auto args = round_arguments(round);
      LIBBPF_OPTS(bpf_test_run_opts, options);
      options.ctx_in = args.data();
      options.ctx_size_in = sizeof args;
      const int error = bpf_prog_test_run_opts(bpf_program__fd(program), &options);
      if (error != 0) return 1;
      std::printf("%s %u %d\n", bpf_program__name(program), round,
                  static_cast<int>(options.retval));
    }
  }
  bpf_object__close(object);
  return 0;
}
