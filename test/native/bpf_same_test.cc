// SPDX-License-Identifier: MIT
// same.bpf.c and its like on the interpreter, as machine code, and in the kernel: every result is
// the same.
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "bpf/loader.h"
#include "bpf/syscall.h"
#include "bpf/test_run.h"
#include "bpf_rounds.h"
#include "tap.h"

using namespace bpftime;
using tap::ok;

namespace {

using Results = std::map<std::string, std::vector<int>>;

Results run_here(const std::string& path, Engine engine) {
  Results results;
  std::ifstream in(path, std::ios::binary);
  const std::vector<uint8_t> file{std::istreambuf_iterator<char>(in),
                                  std::istreambuf_iterator<char>()};
  std::string log;
  Result<LoadedObject> object = load_object("same", file, log);
  if (!ok(object.ok(), "the object loads")) {
    std::printf("# %s\n# %s\n", object.error().reason, log.c_str());
    return results;
  }
  for (const auto& program : object->programs) {
    for (unsigned round = 0; round < kRounds; ++round) {
      const auto args = round_arguments(round);
      TestRun run;
      run.ctx = {reinterpret_cast<const uint8_t*>(args.data()), sizeof args};
      run.engine = engine;
      Result<TestResult> result = test_run(*program, run);
      if (!result) std::printf("# %s: %s\n", program->name.c_str(), result.error().reason);
      results[program->name].push_back(result ? static_cast<int>(result->retval) : -99999);
    }
  }
  return results;
}

/// Empty: there is no bpf(2).
Results run_in_kernel(const std::string& path, int* status) {
  Results results;
  FILE* out = popen((std::string(BPF_KERNEL_RUN) + " " + path).c_str(), "r");
  char name[64];
  unsigned round = 0;
  int result = 0;
  while (out != nullptr && std::fscanf(out, "%63s %u %d", name, &round, &result) == 3) {
    results[name].push_back(result);
  }
  *status = out != nullptr ? pclose(out) >> 8 : 1;
  return results;
}

void compare(const Results& want, const Results& got, const char* who) {
  for (const auto& [name, results] : want) {
    const auto found = got.find(name);
    const bool is_same = found != got.end() && found->second == results;
    ok(is_same, (name + ": " + who).c_str());
    for (unsigned i = 0; !is_same && found != got.end() && i < results.size(); ++i) {
      if (found->second[i] == results[i]) continue;
      std::printf("# round %u: %d, want %d\n", i, found->second[i], results[i]);
    }
  }
}

}  // namespace

namespace {

void check(const std::string& path, size_t programs) {
  const Results interpreted = run_here(path, Engine::kInterpreter);
  const Results compiled = run_here(path, Engine::kJit);
  const Results checked = run_here(path, Engine::kChecked);
  ok(interpreted.size() >= programs, "programs were run");
  compare(interpreted, compiled, "the interpreter and machine code agree");
  compare(interpreted, checked, "the checked interpreter finds nothing");
  int status = 0;
  const Results kernel = run_in_kernel(path, &status);
  if (status == 77) {
    std::printf("ok %d - beside the kernel # SKIP needs bpf(2)\n", ++tap::count);
    return;
  }
  tap::equal(status, 0, "the kernel takes all of them");
  compare(kernel, compiled, "as in the kernel");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) {
    check(argv[1], 1);
    return tap::done();
  }
  check(BPF_OBJECT_DIR "/same.bpf.o", 20);
  check(BPF_OBJECT_DIR "/tails.bpf.o", 20);
  return tap::done();
}
