// SPDX-License-Identifier: MIT
// Golden cases of the verifier: test/golden/verify/*.data, see vm_case.h. Each is walked twice: as
// it is in use, and with every number counting (which must not change any verdict).
#include <algorithm>
#include <filesystem>

#include "tap.h"
#include "vm/asm.h"
#include "vm_case.h"
#include "vm_verify_host.h"

namespace {

using namespace bpftime;
using namespace bpftime::verify;

// Contexts that the runtime does not have yet: a result that may be written, and a packet.
constexpr ContextField kWritable[] = {{0, 8}, {8, 8, ContextField::kReadWrite}};
constexpr ContextField kPacketBounds[] = {{0, 8, ContextField::kRead, ContextField::kData},
                                          {8, 8, ContextField::kRead, ContextField::kDataEnd}};
constexpr Context kContexts[] = {
    {0, "none", false, {}}, {0, "writable", false, kWritable}, {0, "packet", false, kPacketBounds}};

std::string verdict_of(const Outcome& outcome) {
  if (outcome.ok()) return "accepted";
  return std::to_string(outcome.insn_index) + ": " + outcome.reason;
}

bool matches(const vmtest::Case& item, const Outcome& outcome) {
  if (!item.is_refused) return outcome.ok();
  return !outcome.ok() && verdict_of(outcome).starts_with(item.error);
}

void check(const vmtest::Case& item) {
  const Assembly assembly = assemble(item.text);
  if (!assembly) {
    tap::ok(false, item.name.c_str());
    std::printf("# line %u: %s\n", assembly.error_line, assembly.error.c_str());
    return;
  }
  for (const bool is_exact : {false, true}) {
    Options options = vmtest::verify_options();
    options.is_exact = is_exact;
    for (const Context& context : kContexts) {
      if (item.context == context.name) options.context = &context;
    }
    const Outcome outcome = verify::verify(assembly.slots, options);
    // Without pruning by what matters, branches multiply: the budget may end it.
    if (is_exact && outcome.errnum == E2BIG) continue;
    if (!tap::ok(matches(item, outcome), item.name.c_str())) {
      std::printf("# %s: %s\n# want %s\n", item.file.c_str(), verdict_of(outcome).c_str(),
                  item.is_refused ? item.error.c_str() : "accepted");
    }
    if (!outcome.ok() && outcome.reason.size() > 300) tap::ok(false, "a sentence, not a page");
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(VERIFY_GOLDEN_DIR)) {
    if (entry.path().extension() == ".data") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  for (const auto& path : paths) {
    for (const vmtest::Case& item : vmtest::read_cases(path.string())) {
      if (argc < 2 || item.name.find(argv[1]) != std::string::npos) check(item);
    }
  }
  return tap::done();
}
