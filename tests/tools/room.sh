#!/usr/bin/env bash
# Says before a long build whether the disk has room for it and for the tests. A full disk shows late, and as something
# else: servers that refuse writes, tests that wait for what never comes.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/spillway

# GB at most, as in tests/README.md.
build=6 tools=12 servers=4
if [ -e "$root/target/debug/deps" ]; then build=1; fi
if ls "$cache"/tools/kubernetes-* >/dev/null 2>&1; then tools=3; fi

existing() { local at=$1; until [ -e "$at" ]; do at=$(dirname "$at"); done; echo "$at"; }

declare -A need=() free=() places=()
while read -r gigabytes at; do
    at=$(existing "$at")
    device=$(stat -c %d "$at")
    need[$device]=$((${need[$device]:-0} + gigabytes))
    free[$device]=$(($(df --output=avail -k "$at" | tail -1) / 1000 / 1000))
    places[$device]+="${places[$device]:+, }$at"
done <<< "$build $root
$tools $cache
$servers ${TMPDIR:-/tmp}"

for device in "${!need[@]}"; do
    if [ "${free[$device]}" -ge "${need[$device]}" ]; then continue; fi
    echo "disk: ${free[$device]} GB are free in ${places[$device]}; a run may take ${need[$device]} GB." \
        "XDG_CACHE_HOME and TMPDIR name other places for tools and for what servers write." >&2
    if [ "${free[$device]}" -lt 2 ]; then exit 1; fi
done
