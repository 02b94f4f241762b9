// SPDX-License-Identifier: MIT
// A C++ library for a C program: throws through a function of the program and catches behind it.
// With it comes the unwinder, which the program did not have before.
#include <stdexcept>

static void thrower() { throw std::runtime_error("thrown"); }

extern "C" int plugin_catch(void (*through)(void (*)())) {
  try {
    through(thrower);
  } catch (const std::runtime_error&) {
    return 1;
  }
  return 0;
}
