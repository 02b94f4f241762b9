#!/usr/bin/env bash
# `npm start`: builds what is missing, then serves /bpftime in the foreground until Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/build.sh
mountpoint="${1:-/bpftime}"
if [ ! -d "$mountpoint" ]; then
  if ! mkdir "$mountpoint" 2>/dev/null; then
    mountpoint="$HOME/bpftime"
    mkdir -p "$mountpoint"
  fi
fi
exec bin/bpftimefs mount "$mountpoint"
