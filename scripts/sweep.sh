#!/usr/bin/env bash
# `npm run sweep`: test/live/sweep.test.ts with all of node's 78,000 functions instead of a sample,
# about ten minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/build.sh test
BPFTIMEFS_SWEEP=full exec node dist/test/live/sweep.test.js
