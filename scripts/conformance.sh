#!/usr/bin/env bash
# Runs a directory of the public bpf_conformance suite's cases (tests/*.data of
# https://github.com/Alan-Jowett/bpf_conformance, which is not part of this repository) on every
# engine of build/vm-plugin, without the suite's own runner. Usage: conformance.sh DIRECTORY
set -euo pipefail
if [ $# -ne 1 ]; then
  echo 'usage: conformance.sh DIRECTORY (tests/ of bpf_conformance)' >&2
  exit 2
fi
directory=$(realpath "$1")
cd "$(dirname "$0")/.."
bash scripts/build.sh
ninja -C build --quiet vm-plugin
exec node dist/scripts/conformance.js "$directory"
