#!/usr/bin/env bash
# Formats everything, or with --check says what is not formatted (and exits with 1).
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t sources < <(
  find native test bench demo docs \( -name '*.cc' -o -name '*.c' -o -name '*.h' \) -type f | sort
)
biome=node_modules/.bin/biome
if [ "${1:-}" = --check ]; then
  "$biome" check --diagnostic-level=error .
  clang-format --dry-run --Werror "${sources[@]}"
else
  "$biome" check --write .
  clang-format -i "${sources[@]}"
fi
