// SPDX-License-Identifier: MIT
// What the library makes of an object: data, a map by name, a helper by name, a function of its
// own, a callback. Read by vm_object_test.
typedef unsigned int u32;
typedef unsigned long long u64;
#define SEC(name) __attribute__((section(name), used))

struct order {
  u32 price, count;
};
struct {
  int (*type)[1];
  u32* key;
  u64* value;
} counts SEC(".maps");

static void* (*lookup)(void* map, const void* key) = (void*)1;
extern u64 discount_of(u64 total);

static const volatile u32 limit = 1000;
volatile u64 seen;
volatile u64 first = 5;

static __attribute__((noinline)) u64 total_of(const struct order* order) {
  return (u64)order->price * order->count;
}

SEC("rule/total") u64 total(struct order* order) {
  const u64 sum = total_of(order);
  seen++;
  if (sum > limit) return sum - discount_of(sum);
  return sum + first;
}

SEC("rule/count") u64 count(struct order* order) {
  const u32 key = order->price;
  u64* value = lookup(&counts, &key);
  if (!value) return 0;
  return ++*value;
}

SEC("rule/careless") u64 careless(struct order* order) {
  const u32 key = order->price;
  u64* value = lookup(&counts, &key);
  return *value; /* careless */
}
