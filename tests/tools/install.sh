#!/usr/bin/env bash
# Builds the servers that the tests run against, at pinned versions, into a cache outside the repository:
#   ${XDG_CACHE_HOME:-~/.cache}/spillway/tools/{minio,kubernetes,helm,kind}-<version>
#   ${XDG_CACHE_HOME:-~/.cache}/spillway/chdb-<version>/bin/python
# Does nothing for what is already there. Usage: install.sh [minio] [chdb] [strace] [kubernetes] [helm] [kind] [cluster]   (default: all)
#        install.sh --path kind   where it is
set -euo pipefail
# Where nft and ip are, which not every root shell looks in.
PATH=$PATH:/usr/sbin:/sbin

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/spillway

# What the Go compiler makes of Kubernetes takes gigabytes, and nobody asks for it again once the tools are there.
objects=$cache/tools/go-build

say() { echo "tools: $*"; }
fail() { echo "tools: $*" >&2; exit 1; }

minio_version() { awk '$1 == "github.com/minio/minio" { print $2 }' "$here/minio/go.mod"; }
kubernetes_version() { awk '$1 == "k8s.io/kubernetes" { print $2 }' "$here/kubernetes/go.mod"; }
helm_version() { awk '$1 == "helm.sh/helm/v3" { print $2 }' "$here/kubernetes/go.mod"; }
# With what is written here in its name: it has more parts than kind.
kind_version() {
    echo "$(awk '$1 == "sigs.k8s.io/kind" { print $2 }' "$here/kind/go.mod")-$(cat "$here"/kind/*.go "$here/kind/go.mod" | md5sum | cut -c1-10)"
}
chdb_version() { sed -n 's/^chdb-core==\([^ \\]*\).*/\1/p' "$root/clickhouse-front/requirements.txt"; }

# go_tool NAME VERSION FOLDER PACKAGE TIME [LDFLAGS]: builds PACKAGE of the module in FOLDER.
go_tool() {
    local name=$1 version=$2 folder=$3 package=$4 time=$5 flags=${6:-} target
    [ -n "$version" ] || fail "$folder/go.mod does not pin $name"
    target=$cache/tools/$name-$version
    if [ -x "$target" ]; then say "$name $version is there: $target"; return; fi
    command -v go >/dev/null || fail "building $name needs the go command: install Go 1.25 or later"
    say "building $name $version (about $time on two cores, once)"
    # A name of its own until it is whole: a half-written file must never look installed.
    (cd "$here/$folder" && GOCACHE=$objects CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags "-s -w $flags" \
        -o "$target.$$" "$package")
    mv "$target.$$" "$target"
    say "$name $version built: $target"
}

install_minio() { go_tool minio "$(minio_version)" minio github.com/minio/minio "3 minutes"; }

# All of Kubernetes, etcd, CoreDNS and metrics-server in one binary. Without the flags it calls itself v0.0.0.
install_kubernetes() {
    local version minor
    version=$(kubernetes_version)
    minor=$(cut -d. -f2 <<< "$version")
    local set="-X k8s.io/component-base/version"
    go_tool kubernetes "$version" kubernetes . "7 minutes" \
        "$set.gitVersion=$version $set.gitMajor=1 $set.gitMinor=$minor"
}

# Without the flags it takes every cluster for v1.20.
install_helm() {
    local minor set="-X helm.sh/helm/v3/pkg"
    minor=$(kubernetes_version | cut -d. -f2)
    go_tool helm "$(helm_version)" kubernetes helm.sh/helm/v3/cmd/helm "1 minute" \
        "$set/chartutil.k8sVersionMajor=1 $set/chartutil.k8sVersionMinor=$minor $set/lint/rules.k8sVersionMajor=1 $set/lint/rules.k8sVersionMinor=$minor"
}

# kind, and readers of a Containerfile and of a workflow, none of which needs Docker.
install_kind() { go_tool kind "$(kind_version)" kind . "1 minute"; }

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

# Debian's packages for the tests' cluster. Without them its tests are skipped, which is no reason to fail here.
install_cluster() {
    local package program missing=()
    while read -r package program; do
        if [ -z "$package" ] || [ "$package" = "#" ]; then continue; fi
        command -v "$program" >/dev/null || missing+=("$package")
    done < "$here/cluster-packages"
    if [ ${#missing[@]} = 0 ]; then return; fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "the tests on a cluster will be skipped, they need root and Debian's packages: ${missing[*]}"
        return
    fi
    say "installing ${missing[*]} with apt-get"
    # Nothing may be removed for them: another containerd may be in use.
    { apt-get update -qq && without_services apt-get install -y -qq --no-install-recommends --no-remove "${missing[@]}"; } \
        >/dev/null || say "the tests on a cluster will be skipped: apt-get could not install ${missing[*]}"
}

# Runs an installation that starts no service and leaves none to be started with the machine: the cluster has its own
# containerd.
without_services() {
    local policy=/usr/sbin/policy-rc.d ours="" status=0 before=""
    before=$(systemctl is-enabled containerd 2>/dev/null || true)
    if [ ! -e "$policy" ]; then
        ours=1
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod 755 "$policy"
    fi
    DEBIAN_FRONTEND=noninteractive "$@" || status=$?
    if [ -n "$ours" ]; then rm -f "$policy"; fi
    if [ -z "$before" ] || [ "$before" = not-found ]; then systemctl disable --quiet containerd 2>/dev/null || true; fi
    return "$status"
}

if [ "${1:-}" = --path ]; then
    [ "${2:-}" = kind ] || fail "usage: install.sh --path kind"
    echo "$cache/tools/kind-$(kind_version)"
    exit
fi

mkdir -p "$cache/tools"
# One installer at a time: make and a test run may both ask.
exec 9>"$cache/tools/.lock"
flock 9
for tool in ${*:-minio chdb strace kubernetes helm kind cluster}; do
    case $tool in
        minio) install_minio ;;
        chdb) install_chdb ;;
        strace) install_strace ;;
        kubernetes) install_kubernetes ;;
        helm) install_helm ;;
        kind) install_kind ;;
        cluster) install_cluster ;;
        *) fail "unknown tool '$tool': minio, chdb, strace, kubernetes, helm, kind or cluster" ;;
    esac
done
rm -rf "$objects"
