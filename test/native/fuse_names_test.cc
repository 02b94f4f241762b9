// SPDX-License-Identifier: MIT
// Which names are some tool's temporary ones, and which may be created at all.
#include "fuse/node.h"
#include "tap.h"

using bpftime::fuse::is_staging_name;
using bpftime::fuse::is_valid_name;
using tap::ok;

int main() {
  for (const char* name : {"prog-1a2b3c4d.tmp", "prog-1a2b3c4d.o.tmp", ".prog.AbC123", ".prog.swp",
                           ".prog.swo", ".prog.swpx", ".prog.o.Xy12Zz", "prog~"}) {
    ok(is_staging_name(name, false), name);
  }
  for (const char* name : {"sedAbC123", "stAbC123"}) {
    ok(is_staging_name(name, true), name);
    ok(!is_staging_name(name, false), "only when it was made like mkstemp makes files");
  }
  for (const char* name : {"main", "ssl_write", "strerror", "sedation", "a.b-c.tmp", "x.tmp", "~",
                           "-1a2b3c4d.tmp", "foo.cold", "operator new(unsigned long)", "a-12345678",
                           "f.swp", "libc.so.6:malloc", "0x401000", "main+0x1c"}) {
    ok(!is_staging_name(name, false), name);
  }
  ok(is_valid_name("operator<<"), "punctuation");
  ok(is_valid_name("caf\xc3\xa9"), "utf-8");
  ok(is_valid_name(std::string(255, 'x')), "255 bytes");
  ok(!is_valid_name(std::string(256, 'x')), "256 bytes");
  for (const char* name : {"", "a\nb", "a/b", "\x7f", "\xff", "\xc3", "\xc0\xaf", "\x80"}) {
    ok(!is_valid_name(name), "invalid");
  }
  return tap::done();
}
