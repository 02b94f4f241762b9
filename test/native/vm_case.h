// SPDX-License-Identifier: MIT
// Golden cases of the VM: one program each, with what it must return or why it is refused.
//
//   == name of the case          begins a case; a file holds a table of related ones
//   -- asm                       program, see native/vm/asm.h
//   -- mem                       optional: hex bytes that r1 points at (r2 is their count)
//   -- result                    r0, and optionally
//   -- mem after                 hex bytes that must be there afterwards
//   -- error                     instead of a result: "SLOT: reason" of the validator
// and for the verifier
//   -- accept                    nothing follows
//   -- refuse                    how "SLOT: reason" of the verifier begins
//   -- context                   optional: which one r1 points at
#pragma once

#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace vmtest {

struct Case {
  std::string file;
  std::string name;
  std::string text;
  std::vector<uint8_t> mem;
  std::vector<uint8_t> mem_after;
  bool has_mem_after = false;
  bool is_error = false;
  bool is_refused = false;
  std::string context;
  std::string error;
  uint64_t result = 0;
};

inline std::vector<uint8_t> parse_hex(const std::string& text) {
  std::vector<uint8_t> bytes;
  std::string digits;
  for (const char c : text) {
    if (std::isxdigit(static_cast<unsigned char>(c)) == 0) continue;
    digits += c;
    if (digits.size() < 2) continue;
    bytes.push_back(static_cast<uint8_t>(std::strtoul(digits.c_str(), nullptr, 16)));
    digits.clear();
  }
  return bytes;
}

inline std::string trim(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\n");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t\n") - begin + 1);
}

inline void finish_section(Case* item, const std::string& section, const std::string& body) {
  if (section == "asm") item->text = body;
  if (section == "mem") item->mem = parse_hex(body);
  if (section == "mem after") {
    item->mem_after = parse_hex(body);
    item->has_mem_after = true;
  }
  if (section == "result") item->result = std::strtoull(trim(body).c_str(), nullptr, 0);
  if (section == "context") item->context = trim(body);
  if (section == "error" || section == "refuse") {
    item->is_error = section == "error";
    item->is_refused = section == "refuse";
    item->error = trim(body);
  }
}

inline std::vector<Case> read_cases(const std::string& path) {
  std::vector<Case> cases;
  std::ifstream in(path);
  std::string line;
  std::string section;
  std::string body;
  const auto flush = [&] {
    if (!cases.empty()) finish_section(&cases.back(), section, body);
    section.clear();
    body.clear();
  };
  while (std::getline(in, line)) {
    if (line.starts_with("== ")) {
      flush();
      cases.push_back({});
      cases.back().file = path.substr(path.rfind('/') + 1);
      cases.back().name = line.substr(3);
    } else if (line.starts_with("-- ")) {
      flush();
      section = trim(line.substr(3));
    } else if (!section.empty() && !line.starts_with("#")) {
      body += line + "\n";
    }
  }
  flush();
  return cases;
}

}  // namespace vmtest
