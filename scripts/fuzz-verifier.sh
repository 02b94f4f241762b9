#!/usr/bin/env bash
# Long runs of the verifier's oracle. Usage:
#   fuzz-verifier.sh [PROGRAMS [FIRST]]   generated programs, run in the checked world (10000000)
#   fuzz-verifier.sh asan [PROGRAMS]      the same, and mutated objects, under ASan and UBSan
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" != asan ]; then
  exec build/test-native/vm_oracle_test "${1:-10000000}" "${2:-1}"
fi
cmake -S native -B build/asan -G Ninja -DCMAKE_BUILD_TYPE=Debug \
  -DCMAKE_CXX_FLAGS='-O1 -fsanitize=address,undefined -fno-sanitize-recover=all' \
  -DCMAKE_C_FLAGS='-O1 -fsanitize=address,undefined -fno-sanitize-recover=all' > build/asan.log
nice -n 10 ninja -C build/asan -j1 --quiet \
  vm_oracle_test vm_verify_test vm_domain_test vm_mutant_test
build/asan/test-native/vm_domain_test 100000
build/asan/test-native/vm_verify_test
build/asan/test-native/vm_mutant_test "${2:-20000}"
build/asan/test-native/vm_oracle_test "${2:-20000}" 1
