// SPDX-License-Identifier: MIT
// The programs that bench/vm-speed.c times on every engine, in three forms: -DKERNEL, what the
// kernel runs as XDP; for the machine here, r1 = memory; and, not for eBPF, native functions.
// Memory is 2 KiB whose halves are equal and have no zero byte.
#if defined(__bpf__)
typedef __UINT8_TYPE__ uint8_t;
typedef __UINT16_TYPE__ uint16_t;
typedef __UINT32_TYPE__ uint32_t;
typedef __UINT64_TYPE__ uint64_t;
#else
#include <stdint.h>
#endif

#define BYTES 2048
#define INLINE static inline __attribute__((always_inline))
#define KEEP_LOOP _Pragma("clang loop unroll(disable) vectorize(disable) interleave(disable)")

#if defined(KERNEL)
#include <linux/bpf.h>
#define PROGRAM(name)                                                         \
  __attribute__((section("bench/" #name), used)) int name(struct xdp_md* x) { \
    uint8_t* mem = (uint8_t*)(long)x->data;                                   \
    if (mem + BYTES > (uint8_t*)(long)x->data_end) return -1;                 \
    return (int)name##_body(mem);                                             \
  }
#elif defined(__bpf__)
#define PROGRAM(name)                                                          \
  __attribute__((section("bench/" #name), used)) uint64_t name(uint8_t* mem) { \
    return (uint32_t)name##_body(mem);                                         \
  }
#else
#define PROGRAM(name)                                              \
  __attribute__((noinline)) uint64_t native_##name(uint8_t* mem) { \
    return (uint32_t)name##_body(mem);                             \
  }
#endif

INLINE uint32_t simple_body(uint8_t* mem) {
  (void)mem;
  return 12345;
}
PROGRAM(simple)

INLINE uint32_t log2_of(uint32_t v) {
  uint32_t r = (v > 0xffff) << 4;
  v >>= r;
  uint32_t s = (v > 0xff) << 3;
  v >>= s;
  r |= s;
  s = (v > 0xf) << 2;
  v >>= s;
  r |= s;
  s = (v > 0x3) << 1;
  v >>= s;
  r |= s;
  return r | (v >> 1);
}
INLINE uint32_t log2_body(uint8_t* mem) {
  uint32_t sum = 0;
  KEEP_LOOP for (uint32_t i = 0; i < 256; i++) sum += log2_of(((uint32_t*)mem)[i]);
  return sum;
}
PROGRAM(log2)

INLINE uint32_t prime_body(uint8_t* mem) {
  uint64_t found = mem[0] & 1;
  KEEP_LOOP for (uint64_t n = 2; n < 600; n++) {
    uint64_t is_prime = 1;
    KEEP_LOOP for (uint64_t d = 2; d < 25; d++) {
      if (d * d > n) break;
      if (n % d == 0) {
        is_prime = 0;
        break;
      }
    }
    found += is_prime;
  }
  return found;
}
PROGRAM(prime)

INLINE uint32_t memcpy_body(uint8_t* mem) {
  KEEP_LOOP for (uint32_t i = 0; i < 1024; i++) mem[1024 + i] = mem[i];
  return mem[2000];
}
PROGRAM(memcpy)

INLINE uint32_t strcmp_body(uint8_t* mem) {
  KEEP_LOOP for (uint32_t i = 0; i < 1024; i++) {
    uint8_t a = mem[i], b = mem[1024 + i];
    if (a != b) return a < b ? -1 : 1;
    if (a == 0) return 0;
  }
  return 2;
}
PROGRAM(strcmp)

INLINE uint32_t checksum_body(uint8_t* mem) {
  uint64_t sum = 0;
  KEEP_LOOP for (uint32_t i = 0; i < BYTES / 4; i++) sum += ((uint32_t*)mem)[i];
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return (uint16_t)~sum;
}
PROGRAM(checksum)

INLINE uint32_t fnv_body(uint8_t* mem) {
  uint64_t h = 0xcbf29ce484222325;
  KEEP_LOOP for (uint32_t i = 0; i < 1024; i++) h = (h ^ mem[i]) * 0x100000001b3;
  return h ^ h >> 32;
}
PROGRAM(fnv)

INLINE uint32_t turned(uint32_t v, uint32_t by) { return v << by | v >> (32 - by); }
INLINE uint32_t jhash_body(uint8_t* mem) {
  uint32_t a = 0xdeadbeef, b = a, c = a;
  KEEP_LOOP for (uint32_t i = 0; i + 3 <= BYTES / 4; i += 3) {
    const uint32_t* k = (const uint32_t*)mem + i;
    a += k[0];
    b += k[1];
    c += k[2];
    a = (a - c) ^ turned(c, 4);
    c += b;
    b = (b - a) ^ turned(a, 6);
    a += c;
    c = (c - b) ^ turned(b, 8);
    b += a;
    a = (a - c) ^ turned(c, 16);
    c += b;
    b = (b - a) ^ turned(a, 19);
    a += c;
    c = (c - b) ^ turned(b, 4);
    b += a;
  }
  return c ^ turned(b, 14);
}
PROGRAM(jhash)

INLINE uint32_t choose_body(uint8_t* mem) {
  uint32_t sum = 0;
  KEEP_LOOP for (uint32_t i = 0; i < 128; i++) {
    uint32_t v = mem[i];
    switch (v & 15) {
      case 0:
        sum += v;
        break;
      case 1:
        sum ^= v << 3;
        break;
      case 2:
        sum -= v * 7;
        break;
      case 3:
        sum += v ^ 0x55;
        break;
      case 4:
        sum = sum * 3 + 1;
        break;
      case 5:
        sum ^= sum >> 5;
        break;
      case 6:
        sum += i;
        break;
      case 7:
        sum -= i * 11;
        break;
      case 8:
        sum ^= 0x1234567;
        break;
      case 9:
        sum += v << 8;
        break;
      case 10:
        sum = ~sum;
        break;
      case 11:
        sum += 0x9e3779b9;
        break;
      case 12:
        sum ^= i << 16;
        break;
      case 13:
        sum = sum << 1 | sum >> 31;
        break;
      case 14:
        sum -= 99;
        break;
      default:
        sum ^= v * i;
    }
  }
  return sum;
}
PROGRAM(choose)
