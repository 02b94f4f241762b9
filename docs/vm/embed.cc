// SPDX-License-Identifier: MIT
// The library from C++: two programs, each run by four threads at once. A machine is changed by one
// thread, and run by any number.
// c++ -std=c++17 embed.cc $(pkg-config --cflags --libs bpftime_vm) && ./a.out
#include <bpftime/vm.h>

#include <array>
#include <cstdint>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

namespace {

class Machine {
 public:
  explicit Machine(const std::vector<uint64_t>& code) : vm_(bpftime_vm_create(nullptr)) {
    static constexpr bpftime_vm_field kNumber{0, 8, 0};
    static constexpr bpftime_vm_context kContext{"the number", 8, 1, &kNumber};
    if (!vm_ || bpftime_vm_set_context(vm_.get(), &kContext) != 0 ||
        bpftime_vm_load(vm_.get(), code.data(), code.size() * 8, 0) != 0 ||
        bpftime_vm_compile(vm_.get(), 0) != 0) {
      throw std::runtime_error(vm_ ? bpftime_vm_error(vm_.get()) : "no memory");
    }
    run_ = bpftime_vm_function(vm_.get());
  }
  // The shortest way: a call of the machine code.
  uint64_t operator()(uint64_t& context) const { return run_(&context, sizeof context); }

 private:
  struct Destroy {
    void operator()(bpftime_vm* vm) const { bpftime_vm_destroy(vm); }
  };
  std::unique_ptr<bpftime_vm, Destroy> vm_;
  bpftime_vm_entry run_ = nullptr;
};

}  // namespace

int main() try {
  const Machine twice({0x1079, 0x100000067, 0x95});      // r0 = *(u64 *)r1; r0 <<= 1; exit
  const Machine increment({0x1079, 0x100000007, 0x95});  // r0 = *(u64 *)r1; r0 += 1; exit
  constexpr uint64_t kRounds = 50;
  std::array<uint64_t, 4> results{};
  std::vector<std::thread> threads;
  for (uint64_t& result : results) {
    threads.emplace_back([&] {
      uint64_t value = 0;
      for (uint64_t i = 0; i < kRounds; ++i) {
        value = increment(value);
        value = twice(value);
      }
      result = value;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const uint64_t result : results) std::cout << result << '\n';
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
