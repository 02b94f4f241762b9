#!/usr/bin/env bash
# Leaves dist/ (TypeScript compiled) and build/ (the addon and native tests). Does nothing twice.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh "${1:-build}"
# npm leaves a copy of the lock file behind: a newer package-lock.json means something changed.
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  npm ci --no-audit --no-fund --loglevel=error
  touch node_modules/.package-lock.json
fi
cmake -S native -B build -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo > build.log 2>&1 || { cat build.log; exit 1; }
rm -f build.log
if [ "${1:-build}" = test ]; then ninja -C build --quiet; else ninja -C build --quiet bpftimefs_addon; fi
npx --no-install tsc -p .
