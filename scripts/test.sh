#!/usr/bin/env bash
# `npm test`: builds, checks the style, runs every test, and fails on anything left behind.
# By hand: `bash scripts/test.sh PATTERN...` runs only the test files whose path contains one.
set -euo pipefail
cd "$(dirname "$0")/.."
uname -a
node --version
g++ --version | head -n 1
bash scripts/build.sh test
exec node dist/scripts/run-tests.js "$@"
