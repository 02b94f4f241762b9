#!/usr/bin/env bash
# Leaves dist/ (TypeScript compiled) and build/ (the addon). Does nothing twice. Usage:
#   build.sh         what running needs
#   build.sh demo    and build/demo/: the sample target and eBPF objects of the README and the demo
#   build.sh test    and the native tests
set -euo pipefail
cd "$(dirname "$0")/.."
wanted="${1:-build}"
bash scripts/setup.sh "$wanted"
# npm leaves a copy of the lock file behind: a newer package-lock.json means something changed.
installed=node_modules/.package-lock.json
if [ -L node_modules ]; then # npm ci would empty what the link leads to: another checkout's
  echo 'build: node_modules is a symbolic link; remove it' >&2
  exit 1
fi
if [ ! -e "$installed" ] || [ package-lock.json -nt "$installed" ]; then
  npm ci --no-audit --no-fund --loglevel=error
  touch "$installed"
fi
mkdir -p build
if [ ! -e build/build.ninja ]; then # from then on ninja runs cmake when it is needed
  cmake -S native -B build -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo > build/cmake.log 2>&1 \
    || { cat build/cmake.log; exit 1; }
fi
target=bpftimefs_addon
if [ "$wanted" = test ]; then target=all; fi
ninja -C build --quiet "$target"
node_modules/.bin/tsc -p .
[ "$wanted" = build ] && exit

mkdir -p build/demo
newer() { [ ! -e "$2" ] || [ "$1" -nt "$2" ]; }
if newer demo/shop.c build/demo/shop; then cc -O2 -g -o build/demo/shop demo/shop.c; fi
for source in demo/*.bpf.c; do
  object="build/demo/$(basename "$source" .c).o"
  if newer "$source" "$object"; then
    clang -O2 -g -target bpf -D__TARGET_ARCH_x86 "-I/usr/include/$(uname -m)-linux-gnu" \
      -c "$source" -o "$object"
  fi
done
