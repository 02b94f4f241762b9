#!/usr/bin/env bash
# Installs the Debian packages that are missing when root, else prints the exact line to type.
# Usage: setup.sh build|demo|test   (each includes those before it)
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-build}" in
  build) purposes='build' ;;
  demo) purposes='build|demo' ;;
  test) purposes='build|demo|test' ;;
  *) echo "setup: $1: no such purpose (want build, demo or test)" >&2; exit 2 ;;
esac
supported='const [a, b] = process.versions.node.split(".").map(Number);
  process.exit((a === 20 && b >= 19) || a >= 22 ? 0 : 1)'
if ! command -v node > /dev/null || ! node -e "$supported"; then
  echo "bpftimefs needs Node 20.19 or newer" >&2
  exit 1
fi
missing=()
while read -r _ package; do
  state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2> /dev/null || true)
  [ "$state" = installed ] || missing+=("$package")
done < <(grep -E "^($purposes) " scripts/packages.txt)
if [ "${#missing[@]}" -eq 0 ]; then exit 0; fi
install="apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" -ne 0 ]; then
  echo "bpftimefs needs these packages: ${missing[*]}" >&2
  echo "type: sudo $install" >&2
  exit 1
fi
echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# Services that packages bring are not to be started by our set-up.
policy=/usr/sbin/policy-rc.d
made_policy=
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod 755 "$policy"
  made_policy=1
fi
trap '[ -z "$made_policy" ] || rm -f "$policy"' EXIT
apt-get update -qq
$install -qq > /dev/null
