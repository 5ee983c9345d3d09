#!/usr/bin/env bash
# Builds the servers that the tests run against, at pinned versions, into a cache outside the repository:
#   ${XDG_CACHE_HOME:-~/.cache}/spillway/tools/minio-<version>
#   ${XDG_CACHE_HOME:-~/.cache}/spillway/chdb-<version>/bin/python
# Does nothing for what is already there. Usage: install.sh [minio] [chdb] [strace]   (default: all)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/spillway

say() { echo "tools: $*"; }
fail() { echo "tools: $*" >&2; exit 1; }

minio_version() { awk '$1 == "github.com/minio/minio" { print $2 }' "$here/minio/go.mod"; }
chdb_version() { sed -n 's/^chdb-core==\([^ \\]*\).*/\1/p' "$root/clickhouse-front/requirements.txt"; }

install_minio() {
    local version target
    version=$(minio_version)
    target=$cache/tools/minio-$version
    if [ -x "$target" ]; then say "minio $version is there: $target"; return; fi
    command -v go >/dev/null || fail "building MinIO needs the go command: install Go 1.24 or later"
    say "building minio $version (some minutes, once)"
    # A name of its own until it is whole: a half-written file must never look installed.
    (cd "$here/minio" && CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags '-s -w' \
        -o "$target.$$" github.com/minio/minio)
    mv "$target.$$" "$target"
    say "minio $version built: $target"
}

install_chdb() {
    local version target requirements
    requirements=$root/clickhouse-front/requirements.txt
    [ -f "$requirements" ] || fail "$requirements is missing"
    version=$(chdb_version)
    [ -n "$version" ] || fail "$requirements does not pin chdb-core"
    target=$cache/chdb-$version
    # The same folder, lock and mark as `spillway up` uses.
    exec 8>"$target.lock"
    flock 8
    if [ -e "$target/complete" ] && [ -x "$target/bin/python" ]; then
        say "chdb-core $version is there: $target"
        return
    fi
    command -v python3 >/dev/null || fail "the embedded ClickHouse needs python3 with venv"
    say "installing chdb-core $version into $target"
    rm -rf "$target"
    python3 -m venv "$target" || fail "python3 -m venv failed: install your system's python3-venv package"
    local options=(--no-deps)
    if grep -q -- --hash= "$requirements"; then options+=(--require-hashes); fi
    "$target/bin/pip" install --quiet --disable-pip-version-check "${options[@]}" -r "$requirements"
    printf %s "$version" > "$target/complete"
    say "chdb-core $version installed"
}

# The crash tests kill a server at chosen system calls with it.
install_strace() {
    if command -v strace >/dev/null; then return; fi
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing strace with apt-get"
        { apt-get update -qq && apt-get install -y -qq strace; } >/dev/null || fail "apt-get could not install strace"
        return
    fi
    fail "the tests need strace: install your system's package"
}

mkdir -p "$cache/tools"
# One installer at a time: make and a test run may both ask.
exec 9>"$cache/tools/.lock"
flock 9
for tool in ${*:-minio chdb strace}; do
    case $tool in
        minio) install_minio ;;
        chdb) install_chdb ;;
        strace) install_strace ;;
        *) fail "unknown tool '$tool': minio, chdb or strace" ;;
    esac
done
