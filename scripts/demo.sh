#!/usr/bin/env bash
# `npm run demo`: a tour of two minutes on a real program: redis-server if it is installed, else
# demo/shop. Everything that it starts is its own and ends with it. DEMO_FAST=1 makes no pauses,
# DEMO_TARGET=shop takes the shop in any case.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/build.sh demo

work=$(mktemp -d "${TMPDIR:-/tmp}/bpftimefs-demo-XXXXXX")
mount="$work/bpftime"
daemon='' target='' load=''
leave() {
  trap - EXIT INT TERM
  cd /
  for pid in $load $target $daemon; do
    kill "$pid" 2> /dev/null || true
    wait "$pid" 2> /dev/null || true
  done
  rm -rf --one-file-system "$work"
}
trap leave EXIT
trap 'exit 130' INT TERM

bold=$'\e[1m' plain=$'\e[0m'
[ -t 1 ] || bold='' plain=''
pause() { [ "${DEMO_FAST:-}" = 1 ] || sleep "$1"; }
say() {
  printf '\n%s\n' "# $*"
  pause 3
}
# Shows a command as one would type it, then runs it.
type_() {
  printf '%s$ %s%s\n' "$bold" "$1" "$plain"
  pause 1
  bash -c "$1"
  pause 2
}
wait_for() {
  for _ in $(seq 100); do
    if "$@" > /dev/null 2>&1; then return; fi
    sleep 0.1
  done
  echo "demo: waited in vain for: $*" >&2
  exit 1
}
# One number for all code that the process can execute from its files.
code_hash() {
  local range _perms path
  while read -r range _perms _ _ _ path; do
    dd if="/proc/$target/mem" bs=4096 iflag=skip_bytes,count_bytes status=none \
      skip=$((16#${range%-*})) count=$((16#${range#*-} - 16#${range%-*}))
  done < <(awk '$2 ~ /x/ && $6 ~ /^\// && $6 !~ /memfd:/' "/proc/$target/maps") \
    | sha256sum | cut -c 1-16
}

node dist/src/main.js mount "$mount" > "$work/daemon.log" 2>&1 &
daemon=$!
wait_for mountpoint -q "$mount"

if [ "${DEMO_TARGET:-}" != shop ] && type -P redis-server redis-cli > /dev/null; then
  socket="$work/redis.sock"
  redis-server --port 0 --unixsocket "$socket" --save '' --dir "$work" > /dev/null &
  target=$!
  wait_for redis-cli -s "$socket" ping
  (while :; do redis-cli -s "$socket" < demo/redis-commands.txt > /dev/null; done) &
  load=$!
  what='redis-server, with a client that keeps it busy' fn=call object=redis
else
  build/demo/shop > /dev/null &
  target=$!
  what='demo/shop, which takes an order every five milliseconds' fn=price_of object=items
fi
sleep 0.5
before=$(code_hash)
export M="$mount" P="$mount/procs/$target" D="$PWD/build/demo" F="$fn"

say "The file system is mounted at $mount (\$M), and serves a directory for each process."
type_ 'cat $M/README'
say "Our target is process $target: $what. \$P is its directory."
type_ 'head -n 6 $P/info'
say "This is the code of the function '$fn', now. SHA-256 of all its code begins with $before."
type_ 'head -n 6 $P/disasm/$F'
say "Attach an eBPF program to it: copy the object onto the function's name. The process goes on."
type_ "cp \$D/$object.bpf.o \$P/uprobe/\$F"
sleep 1
say 'What is attached, how often it ran, and what a run costs.'
type_ 'cat $P/hooks/list'
say "What it counted: the program's map, as text, typed by its debug information."
type_ 'ls $P/maps; sort $P/maps/*s/entries | head -n 8'
say 'The first instruction is a jump now. The trampoline runs the program, then what stood there.'
type_ 'head -n 2 $P/disasm/$F; cat $P/hooks/by-id/*/site'
say 'A second object on the same function prints a line per call; follow them.'
type_ "cp \$D/hello.bpf.o \$P/uprobe/\$F,hello; head -n 3 \$P/events"
say 'A mistake is an errno from the tool that you use, and a sentence.'
type_ "cp \$D/hello.bpf.o \$P/uprobe/${fn}x; cat \$P/last_error"
say 'Take both away.'
type_ "rm \$P/uprobe/\$F \$P/uprobe/\$F,hello; cat \$P/hooks/list; head -n 3 \$P/disasm/\$F"
after=$(code_hash)
say "SHA-256 of all its code begins with $after; it was $before."
if [ "$before" != "$after" ]; then
  echo 'demo: the code differs' >&2
  exit 1
fi
kill -0 "$target"
echo 'Equal: each byte is as it was, and the process never stopped.'
say 'Who changed what.'
type_ "cut -d ' ' -f 1,2,4- \$P/log"
