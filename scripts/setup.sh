#!/usr/bin/env bash
# Installs the Debian packages that are missing when root, else prints the exact line to type.
# Usage: setup.sh build|test   (test includes build)
set -euo pipefail
cd "$(dirname "$0")/.."
wanted="${1:-build}"
pattern='^build '
if [ "$wanted" = test ]; then pattern='^(build|test) '; fi
missing=()
while read -r _ package; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done < <(grep -E "$pattern" scripts/packages.txt)
if [ "${#missing[@]}" -eq 0 ]; then exit 0; fi
if [ "$(id -u)" -ne 0 ]; then
  echo "bpftimefs needs these packages: ${missing[*]}" >&2
  echo "type: sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# Services that packages bring are not to be started by our set-up.
policy=/usr/sbin/policy-rc.d
made_policy=
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod 755 "$policy"
  made_policy=1
fi
trap '[ -z "$made_policy" ] || rm -f "$policy"' EXIT
apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
