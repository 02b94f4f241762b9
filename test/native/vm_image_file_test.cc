// SPDX-License-Identifier: MIT
// Image files: what is written is read again; anything else than that file is refused.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <random>
#include <string>

#include "tap.h"
#include "vm/asm.h"
#include "vm/image_file.h"
#include "vm/loaded_image.h"
#include "vm/vm.h"

using namespace bpftime;
using tap::equal;
using tap::ok;

namespace {

constexpr size_t kBuildOff = 32, kWholeOff = 96, kFeaturesOff = 24;
uint64_t some_map[8];

uint64_t twice(uint64_t r1, uint64_t, uint64_t, uint64_t, uint64_t) { return r1 * 2; }

uint64_t resolve(void*, const GotSlot& slot) {
  if (slot.kind == GotKind::kHelper) return reinterpret_cast<uint64_t>(&twice);
  return reinterpret_cast<uint64_t>(some_map) + slot.offset;
}

ImageFile sample() {
  ImageFile file;
  file.source = sha256(std::span<const uint8_t>{});
  ImageMap map;
  map.type = 2;
  map.key_size = 4;
  map.value_size = 16;
  map.max_entries = 4;
  map.name = "table";
  map.value.assign(16, 7);
  file.maps.push_back(map);
  for (const char* text : {"r0 = r2\nr0 += 1\nexit\n",
                           "r1 = 21\ncall 5\nr2 = map_value(0, 8) ll\nr3 = *(u64 *)(r2 + 0)\n"
                           "r0 += r3\nexit\n"}) {
    const Assembly assembly = assemble(text);
    if (!assembly) std::printf("# %s\n", assembly.error.c_str());
    CompileOptions options;
    options.inline_helpers = false;
    file.programs.push_back({"prog", "uprobe/x", 2, compile(assembly.slots, options).value()});
  }
  return file;
}

uint64_t run(const ImageProgram& program, uint64_t ctx_bytes) {
  const Result<LoadedImage> loaded = LoadedImage::map(program.image, Resolver{resolve, nullptr});
  return loaded.ok() ? loaded.value().run(nullptr, ctx_bytes) : ~uint64_t{0};
}

/// The digest of the whole made right again: damage that was meant.
void seal(std::vector<uint8_t>* bytes) {
  std::memset(bytes->data() + kWholeOff, 0, sizeof(Digest));
  const Digest digest = sha256(*bytes);
  std::copy(digest.begin(), digest.end(), bytes->begin() + kWholeOff);
}

std::string refusal(std::span<const uint8_t> bytes, const Digest* source = nullptr) {
  const Result<ImageFile> file = read_image_file(bytes, source);
  return file.ok() ? "" : file.error().reason;
}

void test_digest() {
  const auto hex = [](const std::string& text) {
    std::string out;
    char two[3];
    const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
    for (const uint8_t byte : sha256({bytes, text.size()})) {
      std::snprintf(two, sizeof two, "%02x", byte);
      out += two;
    }
    return out;
  };
  equal(hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "empty");
  equal(hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "FIPS 180");
  equal(hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1", "two blocks");
  equal(hex(std::string(1000000, 'a')),
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0", "a million");
}

void test_round_trip(const std::vector<uint8_t>& bytes) {
  Result<ImageFile> file = read_image_file(bytes, nullptr);
  if (!ok(file.ok(), "it is read")) return;
  equal(file->programs.size(), 2, "two programs");
  equal(file->programs[0].section, "uprobe/x", "with their sections");
  equal(static_cast<long long>(run(file->programs[0], 41)), 42, "the first runs");
  some_map[1] = 100;
  equal(static_cast<long long>(run(file->programs[1], 0)), 142, "the second finds helper and map");
  ok(file->maps[0].name == "table" && file->maps[0].value[15] == 7, "maps as they begin");
  ok(write_image_file(*file) == bytes, "written again it is the same file");
}

void test_damage(const std::vector<uint8_t>& bytes) {
  size_t accepted = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (const uint8_t flip : {0x01, 0x80, 0xff}) {
      std::vector<uint8_t> bad = bytes;
      bad[i] ^= flip;
      accepted += refusal(bad).empty() ? 1 : 0;
    }
  }
  equal(static_cast<long long>(accepted), 0, "a flipped bit in any byte is noticed");
  accepted = 0;
  for (size_t size = 0; size < bytes.size(); ++size) {
    accepted += refusal({bytes.data(), size}).empty() ? 1 : 0;
  }
  std::vector<uint8_t> longer = bytes;
  longer.push_back(0);
  accepted += refusal(longer).empty() ? 1 : 0;
  equal(static_cast<long long>(accepted), 0, "so is every other length");
}

void test_foreign(const std::vector<uint8_t>& bytes) {
  const Digest other = sha256(bytes);
  equal(refusal(bytes, &other), "it was made from another object", "stale");
  std::vector<uint8_t> bad = bytes;
  bad[kBuildOff] ^= 1;
  seal(&bad);
  equal(refusal(bad), "another build of bpftimefs made it", "of another build");
  bad = bytes;
  bad[kFeaturesOff + 3] = 0x80;
  seal(&bad);
  equal(refusal(bad), "it was made for another processor", "of another processor");
  equal(refusal(std::vector<uint8_t>(4096, 'x')), "it is no image", "something else");
  ok(build_digest() != Digest{}, "the build is known");
}

/// Whoever makes the digest right may still not lead the reader astray.
void test_crafted(const std::vector<uint8_t>& bytes) {
  std::mt19937 random(5);
  size_t accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<uint8_t> bad = bytes;
    const int changes = 1 + static_cast<int>(random() % 4);
    for (int i = 0; i < changes; ++i) {
      const size_t at = 128 + random() % (bad.size() - 128);
      bad[at] = random() % 3 == 0 ? 0xff : static_cast<uint8_t>(random());
    }
    seal(&bad);
    const Result<ImageFile> file = read_image_file(bad, nullptr);
    if (!file.ok()) continue;
    ++accepted;
    for (const ImageProgram& program : file.value().programs) {
      if (program.image.entry_off >= program.image.text.size()) ok(false, "an entry outside");
      for (const GotSlot& slot : program.image.got) {
        const bool is_map = slot.kind != GotKind::kHelper;
        if (is_map && slot.index >= file.value().maps.size()) ok(false, "a map that is not there");
      }
    }
  }
  ok(accepted > 0 && accepted < 20000, "20000 crafted files: what is read is sound");
}

void measure(const std::vector<uint8_t>& bytes) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> reads, maps;
  for (int i = 0; i < 200; ++i) {
    const auto begin = Clock::now();
    const Result<ImageFile> file = read_image_file(bytes, nullptr);
    const auto middle = Clock::now();
    const Result<LoadedImage> loaded =
        LoadedImage::map(file.value().programs[1].image, Resolver{resolve, nullptr});
    const auto end = Clock::now();
    reads.push_back(std::chrono::duration<double, std::micro>(middle - begin).count());
    maps.push_back(std::chrono::duration<double, std::micro>(end - middle).count());
  }
  for (auto* all : {&reads, &maps}) std::sort(all->begin(), all->end());
  std::printf("# median of 200: read and check %.1f us, map and bind %.1f us\n", reads[100],
              maps[100]);
}

}  // namespace

int main() {
  test_digest();
  const std::vector<uint8_t> bytes = write_image_file(sample());
  std::printf("# %zu bytes\n", bytes.size());
  test_round_trip(bytes);
  test_damage(bytes);
  test_foreign(bytes);
  test_crafted(bytes);
  measure(bytes);
  return tap::done();
}
