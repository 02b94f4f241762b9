#!/usr/bin/env bash
# `npm run soak [-- MINUTES]`: probes come and go at random on servers under load, an hour unless
# told otherwise; a line per minute. `test/helpers/soak.ts` says what is done and what is checked.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/build.sh test
export BPFTIMEFS_SOAK_SECONDS=$((${1:-60} * 60))
exec node dist/test/live/soak.test.js
