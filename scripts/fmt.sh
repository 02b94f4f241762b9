#!/usr/bin/env bash
# Formats everything, or with --check says what is not formatted.
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t sources < <(git ls-files 'bench/*.c' 'native/*.cc' 'native/*.h' 'native/*.c' 'test/*.cc' 'test/*.h' 'test/*.c')
if [ "${1:-}" = --check ]; then
  npx --no-install biome check --error-on-warnings .
  clang-format --dry-run --Werror "${sources[@]}"
else
  npx --no-install biome check --write .
  clang-format -i "${sources[@]}"
fi
