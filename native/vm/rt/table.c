/* SPDX-License-Identifier: MIT */
/* Helpers by id, for processes that have a dynamic linker; not part of the agent. */
#include "helpers.h"

struct entry {
  u32 id;
  const char* name;
  rt_helper_fn* fn;
};

#define ENTRY(id, name, fn) {id, #name, fn},
static const struct entry entries[] = {RT_HELPERS(ENTRY)};
#undef ENTRY

static const struct entry* entry_of(u32 id) {
  for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
    if (entries[i].id == id) return &entries[i];
  }
  return NULL;
}

const void* rt_helper(u32 id) {
  const struct entry* entry = entry_of(id);
  return entry != NULL ? (const void*)entry->fn : NULL;
}

const char* rt_helper_name(u32 id) {
  const struct entry* entry = entry_of(id);
  return entry != NULL ? entry->name : NULL;
}
