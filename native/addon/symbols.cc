// SPDX-License-Identifier: MIT
// native/symbols for JavaScript: reads on a worker thread, hands over flat arrays.
#include <string>

#include "../symbols/elf_symbols.h"
#include "parts.h"

namespace bpftime::addon {

namespace {

void set_slots(Napi::Env env, const symbols::ElfSymbols& elf, Napi::Object out) {
  const size_t count = elf.slots.size();
  auto addrs = Napi::BigUint64Array::New(env, count);
  auto resolvers = Napi::BigUint64Array::New(env, count);
  auto initial = Napi::BigUint64Array::New(env, count);
  auto names = Napi::Uint32Array::New(env, count);
  for (size_t i = 0; i < count; ++i) {
    addrs[i] = elf.slots[i].vaddr;
    resolvers[i] = elf.slots[i].resolver;
    initial[i] = elf.slots[i].initial;
    names[i] = elf.slots[i].name;
  }
  out.Set("slotAddrs", addrs);
  out.Set("slotResolvers", resolvers);
  out.Set("slotInitials", initial);
  out.Set("slotNames", names);
}

void set_extents(Napi::Env env, const symbols::ElfSymbols& elf, Napi::Object out) {
  auto addrs = Napi::BigUint64Array::New(env, elf.extents.size());
  auto sizes = Napi::Uint32Array::New(env, elf.extents.size());
  for (size_t i = 0; i < elf.extents.size(); ++i) {
    addrs[i] = elf.extents[i].vaddr;
    sizes[i] = elf.extents[i].size;
  }
  out.Set("extentAddrs", addrs);
  out.Set("extentSizes", sizes);
}

class ReadSymbols : public Napi::AsyncWorker {
 public:
  ReadSymbols(Napi::Env env, std::string path, std::string debug_root)
      : Napi::AsyncWorker(env),
        deferred_(Napi::Promise::Deferred::New(env)),
        path_(std::move(path)),
        debug_root_(std::move(debug_root)) {}

  [[nodiscard]] Napi::Promise promise() const { return deferred_.Promise(); }

  void Execute() override {
    result_ = symbols::read_elf_symbols(path_.c_str(), debug_root_.c_str());
  }

  void OnOK() override {
    const Napi::Env env = Env();
    if (!result_) {
      deferred_.Reject(make_error(env, result_.error()).Value());
      return;
    }
    const symbols::ElfSymbols& elf = result_.value();
    const size_t count = elf.symbols.size();
    auto addrs = Napi::BigUint64Array::New(env, count);
    auto sizes = Napi::Uint32Array::New(env, count);
    auto names = Napi::Uint32Array::New(env, count);
    auto kinds = Napi::Uint8Array::New(env, count);
    for (size_t i = 0; i < count; ++i) {
      const symbols::Symbol& symbol = elf.symbols[i];
      addrs[i] = symbol.vaddr;
      sizes[i] = static_cast<uint32_t>(std::min<uint64_t>(symbol.size, UINT32_MAX));
      names[i] = symbol.name;
      kinds[i] = static_cast<uint8_t>(static_cast<uint8_t>(symbol.kind) | (symbol.local ? 8 : 0) |
                                      (symbol.is_go ? 16 : 0));
    }
    Napi::Array segments = Napi::Array::New(env, elf.segments.size());
    for (uint32_t i = 0; i < elf.segments.size(); ++i) {
      Napi::Object segment = Napi::Object::New(env);
      segment.Set("vaddr", Napi::BigInt::New(env, elf.segments[i].vaddr));
      segment.Set("fileOff", Napi::BigInt::New(env, elf.segments[i].file_off));
      segment.Set("fileSize", Napi::BigInt::New(env, elf.segments[i].file_size));
      segment.Set("exec", Napi::Boolean::New(env, elf.segments[i].exec));
      segments.Set(i, segment);
    }
    Napi::Object out = Napi::Object::New(env);
    out.Set("addrs", addrs);
    out.Set("sizes", sizes);
    out.Set("nameOffsets", names);
    out.Set("kinds", kinds);
    out.Set("names", Napi::Buffer<char>::Copy(env, elf.names.data(), elf.names.size()));
    out.Set("segments", segments);
    out.Set("buildId", Napi::String::New(env, elf.build_id));
    out.Set("interpreter", Napi::String::New(env, elf.interpreter));
    out.Set("positionIndependent", Napi::Boolean::New(env, elf.is_position_independent));
    set_slots(env, elf, out);
    set_extents(env, elf, out);
    deferred_.Resolve(out);
  }

 private:
  Napi::Promise::Deferred deferred_;
  std::string path_;
  std::string debug_root_;
  Result<symbols::ElfSymbols> result_ = fail(EIO, "not read");
};

Napi::Value symbols_read(const Napi::CallbackInfo& info) {
  auto* worker = new ReadSymbols(info.Env(), info[0].As<Napi::String>().Utf8Value(),
                                 info[1].As<Napi::String>().Utf8Value());
  const Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

}  // namespace

void init_symbols(Napi::Env env, Napi::Object exports) {
  exports.Set("symbolsRead", Napi::Function::New<symbols_read>(env));
}

}  // namespace bpftime::addon
