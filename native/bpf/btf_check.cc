// SPDX-License-Identifier: MIT
#include "btf_check.h"

#include <linux/btf.h>

#include <cstring>
#include <vector>

namespace bpftime {

namespace {

constexpr uint32_t kKindEnum64 = 19;  // newest kind that libbpf 1.1 knows
constexpr uint32_t kIntBytesMax = 16;

// struct btf_ext_header is not in any public header.
struct ExtHeader {
  uint16_t magic;
  uint8_t version, flags;
  uint32_t hdr_len;
  uint32_t func_info_off, func_info_len;
  uint32_t line_info_off, line_info_len;
};
struct ExtHeaderCore {
  uint32_t core_relo_off, core_relo_len;
};

template <typename T>
T at(std::span<const uint8_t> bytes, uint64_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

bool inside(uint64_t offset, uint64_t size, uint64_t total) {
  return offset <= total && size <= total - offset;
}

bool is_modifier(uint32_t kind) {
  return kind == BTF_KIND_TYPEDEF || kind == BTF_KIND_VOLATILE || kind == BTF_KIND_CONST ||
         kind == BTF_KIND_RESTRICT || kind == BTF_KIND_TYPE_TAG;
}

// Bytes that follow the common part of a type, per kind: fixed, and per element.
struct KindSize {
  uint8_t fixed, element;
};
constexpr KindSize kKindSizes[kKindEnum64 + 1] = {
    {0, 0}, {4, 0}, {0, 0}, {12, 0}, {0, 12}, {0, 12}, {0, 8}, {0, 0}, {0, 0}, {0, 0},
    {0, 0}, {0, 0}, {0, 0}, {0, 8},  {4, 0},  {0, 12}, {0, 0}, {4, 0}, {0, 0}, {0, 12},
};

class Checker {
 public:
  Checker(std::span<const uint8_t> btf, std::span<const uint8_t> ext) : btf_(btf), ext_(ext) {}

  Result<void> run() {
    Result<void> result = read_header();
    if (result) result = index_types();
    for (uint32_t id = 1; result && id < offsets_.size(); id++) result = check_type(id);
    depths_.assign(offsets_.size(), 0);
    for (uint32_t id = 1; result && id < offsets_.size(); id++) {
      if (depth_of(id, 0) == 0) result = fail(ENOEXEC, "corrupt .BTF: a type contains itself");
    }
    if (result && !ext_.empty()) result = check_ext();
    return result;
  }

 private:
  Result<void> read_header() {
    if (btf_.size() < sizeof(btf_header)) return fail(ENOEXEC, "corrupt .BTF: bad header");
    const auto header = at<btf_header>(btf_, 0);
    if (header.magic != BTF_MAGIC || header.version != BTF_VERSION ||
        header.hdr_len < sizeof(header) || header.hdr_len > btf_.size()) {
      return fail(ENOEXEC, "corrupt .BTF: bad header");
    }
    const std::span<const uint8_t> body = btf_.subspan(header.hdr_len);
    if (!inside(header.type_off, header.type_len, body.size()) ||
        !inside(header.str_off, header.str_len, body.size()) || header.type_off % 4 != 0) {
      return fail(ENOEXEC, "corrupt .BTF: types or strings lie outside");
    }
    types_ = body.subspan(header.type_off, header.type_len);
    strings_ = body.subspan(header.str_off, header.str_len);
    if (strings_.empty() || strings_.front() != 0 || strings_.back() != 0) {
      return fail(ENOEXEC, "corrupt .BTF: strings do not end");
    }
    return {};
  }

  Result<void> index_types() {
    offsets_.push_back(0);  // type 0 is void
    for (uint64_t offset = 0; offset < types_.size();) {
      if (!inside(offset, sizeof(btf_type), types_.size())) {
        return fail(ENOEXEC, "corrupt .BTF: half a type");
      }
      const auto type = at<btf_type>(types_, offset);
      const uint32_t kind = BTF_INFO_KIND(type.info);
      if (kind == BTF_KIND_UNKN || kind > kKindEnum64) {
        return fail(ENOEXEC, "corrupt .BTF: unknown kind of type");
      }
      const uint64_t elements = BTF_INFO_VLEN(type.info);
      const uint64_t size =
          sizeof(type) + kKindSizes[kind].fixed + kKindSizes[kind].element * elements;
      if (!inside(offset, size, types_.size())) return fail(ENOEXEC, "corrupt .BTF: half a type");
      if (offsets_.size() >= kBtfTypesMax) return fail(ENOEXEC, ".BTF has over a million types");
      offsets_.push_back(static_cast<uint32_t>(offset));
      offset += size;
    }
    return {};
  }

  [[nodiscard]] btf_type type_at(uint32_t id) const { return at<btf_type>(types_, offsets_[id]); }
  [[nodiscard]] uint32_t kind_of(uint32_t id) const {
    return id == 0 ? uint32_t{BTF_KIND_UNKN} : BTF_INFO_KIND(type_at(id).info);
  }
  [[nodiscard]] bool is_name(uint32_t offset) const { return offset < strings_.size(); }
  [[nodiscard]] bool is_type(uint32_t id) const { return id < offsets_.size(); }
  template <typename T>
  [[nodiscard]] T element(uint32_t id, uint32_t index) const {
    return at<T>(types_, offsets_[id] + sizeof(btf_type) + uint64_t{index} * sizeof(T));
  }

  [[nodiscard]] bool elements_ok(uint32_t id, const btf_type& type) const {
    const uint32_t kind = BTF_INFO_KIND(type.info);
    for (uint32_t i = 0; i < BTF_INFO_VLEN(type.info); i++) {
      if (kind == BTF_KIND_STRUCT || kind == BTF_KIND_UNION) {
        const auto member = element<btf_member>(id, i);
        if (!is_name(member.name_off) || member.type == 0 || !is_type(member.type)) return false;
      } else if (kind == BTF_KIND_ENUM) {
        if (!is_name(element<btf_enum>(id, i).name_off)) return false;
      } else if (kind == kKindEnum64) {
        if (!is_name(element<btf_member>(id, i).name_off)) return false;
      } else if (kind == BTF_KIND_FUNC_PROTO) {
        const auto param = element<btf_param>(id, i);
        if (!is_name(param.name_off) || !is_type(param.type)) return false;
      } else if (kind == BTF_KIND_DATASEC) {
        const auto info = element<btf_var_secinfo>(id, i);
        if (!is_type(info.type)) return false;
        const uint32_t variable = kind_of(info.type);
        if (variable != BTF_KIND_VAR && variable != BTF_KIND_FUNC) return false;
      }
    }
    return true;
  }

  [[nodiscard]] bool reference_ok(uint32_t id, const btf_type& type) const {
    switch (BTF_INFO_KIND(type.info)) {
      case BTF_KIND_INT:
        return type.size != 0 && type.size <= kIntBytesMax;
      case BTF_KIND_ARRAY: {
        const auto array = element<btf_array>(id, 0);
        return array.type != 0 && is_type(array.type) && is_type(array.index_type);
      }
      case BTF_KIND_FUNC:
        return is_type(type.type) && kind_of(type.type) == BTF_KIND_FUNC_PROTO;
      case BTF_KIND_VAR:
      case BTF_KIND_DECL_TAG:
        return type.type != 0 && is_type(type.type);
      case BTF_KIND_PTR:
      case BTF_KIND_TYPEDEF:
      case BTF_KIND_VOLATILE:
      case BTF_KIND_CONST:
      case BTF_KIND_RESTRICT:
      case BTF_KIND_TYPE_TAG:
      case BTF_KIND_FUNC_PROTO:
        return is_type(type.type);
      default:
        return true;
    }
  }

  [[nodiscard]] Result<void> check_type(uint32_t id) const {
    const btf_type type = type_at(id);
    if (!is_name(type.name_off)) return fail(ENOEXEC, "corrupt .BTF: name outside of the strings");
    if (!reference_ok(id, type) || !elements_ok(id, type)) {
      return fail(ENOEXEC, "corrupt .BTF: reference to a type or name that is not there");
    }
    return {};
  }

  // How deep types nest by value below `id` (at least 1), or 0: too deep, or it contains itself.
  // Memoised; recursion ends at kBtfNestingMax.
  uint32_t depth_of(uint32_t id, uint32_t level) {
    if (level > kBtfNestingMax) return 0;
    if (id == 0) return 1;
    if (depths_[id] != 0) return depths_[id] + level > kBtfNestingMax ? 0 : depths_[id];
    const btf_type type = type_at(id);
    const uint32_t kind = BTF_INFO_KIND(type.info);
    uint32_t deepest = 0;
    const auto visit = [&](uint32_t child) {
      const uint32_t depth = depth_of(child, level + 1);
      if (depth > deepest) deepest = depth;
      return depth != 0;
    };
    if (is_modifier(kind) || kind == BTF_KIND_VAR) {
      if (!visit(type.type)) return 0;
    } else if (kind == BTF_KIND_ARRAY) {
      if (!visit(element<btf_array>(id, 0).type)) return 0;
    } else if (kind == BTF_KIND_STRUCT || kind == BTF_KIND_UNION) {
      for (uint32_t i = 0; i < BTF_INFO_VLEN(type.info); i++) {
        if (!visit(element<btf_member>(id, i).type)) return 0;
      }
    }
    depths_[id] = deepest + 1;
    return depths_[id];
  }

  // One table of .BTF.ext: record size, then per section a header and its records.
  template <typename RecordOk>
  [[nodiscard]] bool table_ok(std::span<const uint8_t> table, uint32_t record_bytes_min,
                              RecordOk record_ok) const {
    if (table.empty()) return true;
    if (table.size() < 4) return false;
    const auto record_bytes = at<uint32_t>(table, 0);
    if (record_bytes < record_bytes_min || record_bytes > 4096 || record_bytes % 4 != 0) {
      return false;
    }
    for (uint64_t offset = 4; offset < table.size();) {
      if (!inside(offset, 8, table.size())) return false;
      const auto name = at<uint32_t>(table, offset);
      const uint64_t count = at<uint32_t>(table, offset + 4);
      offset += 8;
      if (!is_name(name) || count == 0 || !inside(offset, count * record_bytes, table.size())) {
        return false;
      }
      for (uint64_t i = 0; i < count; i++, offset += record_bytes) {
        if (!record_ok(offset)) return false;
      }
    }
    return true;
  }

  [[nodiscard]] Result<void> check_ext() const {
    const Failure corrupt = fail(ENOEXEC, "corrupt .BTF.ext");
    if (ext_.size() < sizeof(ExtHeader)) return corrupt;
    const auto header = at<ExtHeader>(ext_, 0);
    if (header.magic != BTF_MAGIC || header.version != BTF_VERSION || header.hdr_len % 4 != 0 ||
        header.hdr_len < sizeof(header) || header.hdr_len > ext_.size()) {
      return corrupt;
    }
    ExtHeaderCore core{};
    if (header.hdr_len >= sizeof(header) + sizeof(core)) {
      core = at<ExtHeaderCore>(ext_, sizeof(header));
    }
    const std::span<const uint8_t> body = ext_.subspan(header.hdr_len);
    const auto is_table = [&](uint32_t offset, uint32_t size) {
      return offset % 4 == 0 && size % 4 == 0 && inside(offset, size, body.size());
    };
    if (!is_table(header.func_info_off, header.func_info_len) ||
        !is_table(header.line_info_off, header.line_info_len) ||
        !is_table(core.core_relo_off, core.core_relo_len)) {
      return corrupt;
    }
    const auto funcs = body.subspan(header.func_info_off, header.func_info_len);
    const auto lines = body.subspan(header.line_info_off, header.line_info_len);
    const auto relos = body.subspan(core.core_relo_off, core.core_relo_len);
    // func: {insn, type}; line: {insn, file, line, column}; relocation: {insn, type, path, kind}.
    const bool ok = table_ok(funcs, 8,
                             [&](uint64_t offset) {
                               const auto type = at<uint32_t>(funcs, offset + 4);
                               return is_type(type) && kind_of(type) == BTF_KIND_FUNC;
                             }) &&
                    table_ok(lines, 16,
                             [&](uint64_t offset) {
                               return is_name(at<uint32_t>(lines, offset + 4)) &&
                                      is_name(at<uint32_t>(lines, offset + 8));
                             }) &&
                    table_ok(relos, 16, [&](uint64_t offset) {
                      return is_type(at<uint32_t>(relos, offset + 4)) &&
                             is_name(at<uint32_t>(relos, offset + 8));
                    });
    return ok ? Result<void>{} : corrupt;
  }

  std::span<const uint8_t> btf_, ext_, types_, strings_;
  std::vector<uint32_t> offsets_;  // of each type id in types_
  std::vector<uint32_t> depths_;   // 0: not known yet
};

}  // namespace

Result<void> check_btf(std::span<const uint8_t> btf, std::span<const uint8_t> ext) {
  return Checker(btf, ext).run();
}

}  // namespace bpftime
