#!/usr/bin/env bash
# `npm run bench [-- GROUP] [--json FILE]`: builds the product and what it is measured with, then
# prints medians, ratios and machine facts. `npm run bench -- --help` lists the groups.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh test
bash scripts/build.sh
out=build/bench
mkdir -p "$out"
newer() { [ ! -e "$2" ] || [ "$1" -nt "$2" ]; }
program() {
  local source="bench/$1.c"
  if newer "$source" "$out/$1"; then
    # shellcheck disable=SC2086
    gcc -O2 -g -std=gnu11 -Wall -Wextra -Werror -falign-loops=64 -pthread "$source" -o "$out/$1" $2
  fi
}
program target ""
program fs-client ""
program ptrace-stop ""
program kernel-probe "-lbpf"
program vm-maps-kernel "-lbpf"
program libfuse-null "$(pkg-config --cflags --libs fuse3)"
if newer bench/target-go.go "$out/target-go"; then
  GO111MODULE=off CGO_ENABLED=0 go build -o "$out/target-go" bench/target-go.go
fi
object() { # SOURCE OBJECT DEFINES...
  local source="bench/bpf/$1.bpf.c" object="$out/$2.bpf.o"
  if newer "$source" "$object"; then
    clang -O2 -g -Wall -Werror -target bpf -D__TARGET_ARCH_x86 -I/usr/include/x86_64-linux-gnu \
      "${@:3}" -c "$source" -o "$object"
  fi
}
for source in bench/bpf/*.bpf.c; do
  name=$(basename "$source" .bpf.c)
  if [ "$name" != vm-programs ] && [ "$name" != vm-maps ]; then object "$name" "$name"; fi
done
# The same programs with parts left out: where the time goes.
object workload-tls workload-tls-noread -DWITHOUT_READ
object workload-tls workload-tls-noring -DWITHOUT_RING
object workload-tls workload-tls-large -DRING_BYTES=33554432
object workload-keys workload-keys-noread -DWITHOUT_READ
object malloc-latency malloc-latency-noclock -DWITHOUT_CLOCK
object malloc-latency malloc-latency-nohash -DWITHOUT_HASH
object malloc-latency malloc-latency-neither -DWITHOUT_CLOCK -DWITHOUT_HASH
# The eight programs of `bench vm`, for the kernel, for us and natively.
object vm-programs vm-programs -mcpu=v3 -fno-builtin
object vm-programs vm-programs-kernel -mcpu=v3 -fno-builtin -DKERNEL
object vm-maps vm-maps -mcpu=v3
object vm-maps vm-maps-kernel -mcpu=v3 -DKERNEL
ninja -C build --quiet bpftime_vm
if newer bench/vm-compile.cc "$out/vm-compile" \
  || newer build/vm/libbpftime_vm.a "$out/vm-compile"; then
  g++ -O2 -std=gnu++20 -Wall -Wextra -Werror -Inative bench/vm-compile.cc build/vm/libbpftime_vm.a \
    -o "$out/vm-compile"
fi
if newer bench/vm-speed.c "$out/vm-speed" || newer bench/bpf/vm-programs.bpf.c "$out/vm-speed" \
  || newer build/vm/libbpftime_vm.a "$out/vm-speed"; then
  clang -O2 -std=gnu11 -fno-builtin -Wall -Wextra -Werror -Inative/vm/include -c bench/vm-speed.c \
    -o "$out/vm-speed.o"
  g++ "$out/vm-speed.o" build/vm/libbpftime_vm.a -lbpf -o "$out/vm-speed"
fi
exec node dist/bench/main.js "$@"
