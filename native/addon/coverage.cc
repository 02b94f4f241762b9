// SPDX-License-Identifier: MIT
// Coverage of a module's file for JavaScript: read and planned on a worker thread.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "../base/scoped_fd.h"
#include "../rewrite/coverage.h"
#include "../symbols/elf_symbols.h"
#include "../unwind/extents.h"
#include "parts.h"

namespace bpftime::addon {

namespace {

constexpr uint64_t kPartsBytesMax = uint64_t{1} << 30;

// What the file's loadable segments hold; a file that shrinks meanwhile reads short, no more.
Result<std::vector<rewrite::ModulePart>> read_parts(const char* path,
                                                    const std::vector<symbols::Segment>& segments) {
  const ScopedFd file(open(path, O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return fail(errno, "its file cannot be opened");
  struct stat st {};
  if (fstat(file.get(), &st) != 0) return fail(errno, "its file cannot be read");
  std::vector<rewrite::ModulePart> parts;
  uint64_t total = 0;
  for (const symbols::Segment& segment : segments) {
    const auto file_size = static_cast<uint64_t>(st.st_size);
    if (segment.file_off >= file_size) continue;
    const uint64_t bytes = std::min(segment.file_size, file_size - segment.file_off);
    total += bytes;
    if (total > kPartsBytesMax) return fail(EFBIG, "its code is over 1 GiB");
    rewrite::ModulePart part;
    part.addr = segment.vaddr;
    part.exec = segment.exec;
    part.bytes.resize(bytes);
    const ssize_t got =
        pread(file.get(), part.bytes.data(), bytes, static_cast<off_t>(segment.file_off));
    part.bytes.resize(got > 0 ? static_cast<size_t>(got) : 0);
    parts.push_back(std::move(part));
  }
  return parts;
}

// Its unwind information, where its loadable segments have it.
unwind::Extents extents_of(const std::vector<rewrite::ModulePart>& parts) {
  if (parts.empty()) return {};
  const auto read = [&](uint64_t addr, void* out, size_t size) {
    const auto part = std::find_if(parts.begin(), parts.end(), [&](const auto& one) {
      return addr >= one.addr && addr - one.addr <= one.bytes.size() &&
             size <= one.bytes.size() - (addr - one.addr);
    });
    if (part == parts.end()) return false;
    memcpy(out, part->bytes.data() + (addr - part->addr), size);
    return true;
  };
  const Result<unwind::ElfModule> module = unwind::read_elf_module(parts.front().addr, read);
  return module.ok() ? unwind::Extents(module.value()) : unwind::Extents();
}

class ReadCoverage : public Napi::AsyncWorker {
 public:
  ReadCoverage(Napi::Env env, std::string path, std::string debug_root)
      : Napi::AsyncWorker(env),
        deferred_(Napi::Promise::Deferred::New(env)),
        path_(std::move(path)),
        debug_root_(std::move(debug_root)) {}

  [[nodiscard]] Napi::Promise promise() const { return deferred_.Promise(); }

  void Execute() override {
    Result<symbols::ElfSymbols> elf = symbols::read_elf_symbols(path_.c_str(), debug_root_.c_str());
    if (!elf) {
      failure_ = elf.error();
      return;
    }
    const auto parts = read_parts(path_.c_str(), elf.value().segments);
    if (!parts) {
      failure_ = parts.error();
      return;
    }
    elf_ = std::move(elf.value());
    std::vector<rewrite::ModuleFunction> functions;
    for (const symbols::Symbol& symbol : elf_.symbols) {
      if (symbol.kind != symbols::SymbolKind::kFunction) continue;
      const auto size = static_cast<uint32_t>(std::min<uint64_t>(symbol.size, UINT32_MAX));
      functions.push_back({symbol.vaddr, size, symbol.is_go});
      names_.push_back(symbol.name);
    }
    const unwind::Extents extents = extents_of(parts.value());
    coverage_ = rewrite::cover_module(parts.value(), functions,
                                      [&](uint64_t addr) { return extents.at(addr); });
  }

  void OnOK() override {
    const Napi::Env env = Env();
    if (failure_.errnum != 0) {
      deferred_.Reject(make_error(env, failure_).Value());
      return;
    }
    const auto number = [env](uint32_t value) { return Napi::Number::New(env, value); };
    Napi::Object out = Napi::Object::New(env);
    out.Set("functions", number(coverage_.functions));
    out.Set("jmp", number(coverage_.by_form[0]));
    out.Set("short", number(coverage_.by_form[1]));
    out.Set("punned", number(coverage_.by_form[2]));
    out.Set("returning", number(coverage_.returning));
    out.Set("returningByRet", number(coverage_.returning_by_ret));
    Napi::Array refused = Napi::Array::New(env, coverage_.refused.size());
    for (uint32_t i = 0; i < coverage_.refused.size(); ++i) {
      const auto& [function, reason] = coverage_.refused[i];
      Napi::Object one = Napi::Object::New(env);
      one.Set("name", Napi::String::New(env, elf_.names.c_str() + names_[function]));
      one.Set("reason", Napi::String::New(env, reason));
      refused.Set(i, one);
    }
    out.Set("refused", refused);
    deferred_.Resolve(out);
  }

 private:
  Napi::Promise::Deferred deferred_;
  std::string path_;
  std::string debug_root_;
  Failure failure_{0, nullptr};
  symbols::ElfSymbols elf_;
  std::vector<uint32_t> names_;  // of functions, offsets in elf_.names
  rewrite::Coverage coverage_;
};

Napi::Value coverage_read(const Napi::CallbackInfo& info) {
  auto* worker = new ReadCoverage(info.Env(), info[0].As<Napi::String>().Utf8Value(),
                                  info[1].As<Napi::String>().Utf8Value());
  const Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

}  // namespace

void init_coverage(Napi::Env env, Napi::Object exports) {
  exports.Set("coverageRead", Napi::Function::New<coverage_read>(env));
}

}  // namespace bpftime::addon
