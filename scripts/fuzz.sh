#!/usr/bin/env bash
# Long runs of the proofs, at the lowest priority, in chunks: Ctrl-C loses the chunk that is under
# way, and the next call goes on behind the last whole one. A seed is a program. Usage:
#   fuzz.sh [verifier] [PROGRAMS]   programs that the verifier accepts, run in the checked world
#                                   (to 10000000)
#   fuzz.sh engines [PROGRAMS]      the same result by interpreter, checked interpreter, compiler,
#                                   budgeted code and image file (to 100000000)
#   fuzz.sh status                  what was run, of this build's sources
#   fuzz.sh asan [PROGRAMS]         under ASan and UBSan, mutated objects too
# FUZZ_STATE: where it is kept how far it got (~/.cache/bpftimefs/fuzz). FUZZ_TESTS: where copies
# of the tests are (build/test-native). A failure prints the seed, leaves the state as it was, and
# ends with 1.
set -euo pipefail
cd "$(dirname "$0")/.."
state=${FUZZ_STATE:-${XDG_CACHE_HOME:-$HOME/.cache}/bpftimefs/fuzz}
tests=${FUZZ_TESTS:-build/test-native}
mkdir -p "$state"

# What a run proves something about: another virtual machine begins again.
version=$(git ls-files -s native/vm test/native/vm_*.h | sha256sum | cut -c1-16)

done_of() { cat "$state/$1-$version" 2> /dev/null || echo 0; }

run() { # KIND TEST TOTAL CHUNK
  local at until
  at=$(done_of "$1")
  echo "$1: $at of $3 done ($version)"
  while [ "$at" -lt "$3" ]; do
    until=$((at + $4 < $3 ? at + $4 : $3))
    if ! nice -n 19 "$tests/$2" $((until - at)) $((at + 1)) > "$state/$1.log" 2>&1; then
      cat "$state/$1.log"
      exit 1
    fi
    at=$until
    echo "$at" > "$state/$1-$version.new"
    mv "$state/$1-$version.new" "$state/$1-$version"
    echo "$(date +%T) $1: $at of $3"
  done
}

case ${1:-verifier} in
  verifier) run verifier vm_oracle_test "${2:-10000000}" 20000 ;;
  engines) run engines vm_differential_test "${2:-100000000}" 50000 ;;
  status) for kind in verifier engines; do echo "$kind $(done_of $kind)"; done ;;
  asan)
    cmake -S native -B build/asan -G Ninja -DCMAKE_BUILD_TYPE=Debug \
      -DCMAKE_CXX_FLAGS='-O1 -fsanitize=address,undefined -fno-sanitize-recover=all' \
      -DCMAKE_C_FLAGS='-O1 -fsanitize=address,undefined -fno-sanitize-recover=all' \
      > build/asan.log
    nice -n 10 ninja -C build/asan -j1 --quiet \
      vm_oracle_test vm_verify_test vm_domain_test vm_mutant_test
    build/asan/test-native/vm_domain_test 100000
    build/asan/test-native/vm_verify_test
    build/asan/test-native/vm_mutant_test "${2:-20000}"
    build/asan/test-native/vm_oracle_test "${2:-20000}" 1
    ;;
  *)
    sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
