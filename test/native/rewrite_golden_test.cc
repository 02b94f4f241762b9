// SPDX-License-Identifier: MIT
// Site planning and relocation as text: test/golden/rewrite/*.txt. Each case gives a function's
// bytes (at 0x400000, the copy goes to 0x10000000) and expects the window and the relocated bytes,
// or the reason of a refusal. UPDATE_GOLDEN=1 rewrites the expectations; review the difference.
//
//   == name                 begins a case
//   -- bytes                hex of the function; a line may end in `; comment`
//   -- at OFFSET            optional: probe inside the function
//   -- exits                optional: plan the returns instead
//   -- forms                optional: every form in which the site could be set, best first
//   -- pad                  optional: hex of what follows the function
//   -- expect               exit +N window M, prefix ..., ret ... | in entry |
//                           window N [loops] / copy hex ... | error ERRNO reason
#include <dirent.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "rewrite/exit_plan.h"
#include "tap.h"

namespace {

using namespace bpftime;           // NOLINT: a test
using namespace bpftime::rewrite;  // NOLINT: a test

constexpr uint64_t kFunctionAddr = 0x400000;
constexpr uint64_t kCopyAddr = 0x10000000;

struct Case {
  std::string name;
  std::vector<std::string> lines;  // everything before `-- expect`, verbatim
  std::vector<uint8_t> bytes, pad;
  uint64_t at = 0;
  bool exits = false, forms = false;
  std::string expected;
};

void append_hex(const std::string& line, std::vector<uint8_t>* out) {
  std::istringstream words(line.substr(0, line.find(';')));
  std::string word;
  while (words >> word) out->push_back(static_cast<uint8_t>(strtoul(word.c_str(), nullptr, 16)));
}

std::vector<Case> read_cases(const std::string& path) {
  std::vector<Case> cases;
  std::ifstream file(path);
  std::string line, section;
  while (std::getline(file, line)) {
    if (line.starts_with("== ")) {
      cases.push_back(Case{});
      cases.back().name = line.substr(3);
      section = "";
      continue;
    }
    if (cases.empty()) continue;
    Case& current = cases.back();
    if (line.starts_with("-- ")) section = line.substr(3);
    if (section != "expect") current.lines.push_back(line);
    if (line == "-- exits") current.exits = true;
    if (line == "-- forms") current.forms = true;
    if (line.starts_with("-- at ")) current.at = strtoul(line.c_str() + 6, nullptr, 0);
    if (line.starts_with("-- ") || line.empty()) continue;
    if (section == "bytes") append_hex(line, &current.bytes);
    if (section == "pad") append_hex(line, &current.pad);
    if (section == "expect") current.expected += line + "\n";
  }
  return cases;
}

std::string hex_of(const std::vector<uint8_t>& bytes) {
  std::string text;
  char digits[4];
  for (const uint8_t byte : bytes) {
    snprintf(digits, sizeof digits, text.empty() ? "%02x" : " %02x", byte);
    text += digits;
  }
  return text;
}

std::string error_text(const Failure& failure) {
  return std::string("error ") + strerrorname_np(failure.errnum) + " " + failure.reason + "\n";
}

std::string exits_text(const FunctionView& function) {
  const Result<SitePlan> entry = plan_site(function, kFunctionAddr);
  SitePlan none;
  none.site = kFunctionAddr;
  const Result<ExitPlan> plan = plan_exits(function, entry.ok() ? entry.value() : none);
  if (!plan) return error_text(plan.error());
  std::string text = plan.value().in_entry ? "in entry\n" : "";
  for (const SitePlan& exit : plan.value().exits) {
    const Result<RelocatedCode> prefix = relocate_exit_prefix(function, exit, kCopyAddr);
    if (!prefix) return error_text(prefix.error());
    text += "exit +" + std::to_string(exit.site - kFunctionAddr) + " window " +
            std::to_string(exit.window) + ", prefix " + hex_of(prefix.value().code) + ", ret " +
            hex_of(exit_ret(function, exit)) + "\n";
  }
  return text;
}

std::string forms_text(const FunctionView& function) {
  const Result<std::vector<SitePlan>> forms = plan_forms(function, kFunctionAddr);
  if (!forms) return error_text(forms.error());
  std::string text;
  for (const SitePlan& plan : forms.value()) {
    const char* name = plan.form == SiteForm::kJump ? "jump" : "punned";
    text += plan.form == SiteForm::kShort ? "short to +" + std::to_string(plan.pad - kFunctionAddr)
                                          : std::string(name);
    text += ", window " + std::to_string(plan.window) + "\n";
  }
  return text;
}

std::string outcome(const Case& one) {
  std::vector<uint8_t> all = one.bytes;
  all.insert(all.end(), one.pad.begin(), one.pad.end());
  const auto no_memory = [](uint64_t, void*, size_t) { return false; };
  const Result<FunctionView> function =
      decode_function(kFunctionAddr, static_cast<uint32_t>(one.bytes.size()), all, no_memory);
  if (!function) return error_text(function.error());
  if (one.exits) return exits_text(function.value());
  if (one.forms) return forms_text(function.value());
  const Result<SitePlan> plan = plan_site(function.value(), kFunctionAddr + one.at);
  if (!plan) return error_text(plan.error());
  const Result<RelocatedCode> copy = relocate(function.value(), plan.value(), kCopyAddr);
  if (!copy) return error_text(copy.error());
  std::string text = "window " + std::to_string(plan.value().window);
  const uint64_t site_off = plan.value().site - kFunctionAddr;
  if (site_off != one.at) text += " at +" + std::to_string(site_off);
  if (plan.value().loops_to_site) text += " loops";
  return text + "\ncopy " + hex_of(copy.value().code) + "\n";
}

void rewrite_file(const std::string& path, const std::vector<Case>& cases) {
  std::ofstream file(path);
  for (const Case& one : cases) {
    file << "== " << one.name << "\n";
    for (const std::string& line : one.lines) file << line << "\n";
    file << "-- expect\n" << outcome(one) << "\n";
  }
}

}  // namespace

int main() {
  std::vector<std::string> paths;
  DIR* dir = opendir(REWRITE_GOLDEN_DIR);
  while (const dirent* entry = dir != nullptr ? readdir(dir) : nullptr) {
    const std::string name = entry->d_name;
    if (name.ends_with(".txt")) paths.push_back(std::string(REWRITE_GOLDEN_DIR) + "/" + name);
  }
  if (dir != nullptr) closedir(dir);
  std::sort(paths.begin(), paths.end());
  for (const std::string& path : paths) {
    const std::vector<Case> cases = read_cases(path);
    if (getenv("UPDATE_GOLDEN") != nullptr) rewrite_file(path, cases);
    for (const Case& one : cases) {
      const std::string got = outcome(one);
      const bool same = got == one.expected || getenv("UPDATE_GOLDEN") != nullptr;
      tap::ok(same, one.name.c_str());
      if (!same) printf("# want: %s# got:  %s", one.expected.c_str(), got.c_str());
    }
  }
  return tap::done();
}
