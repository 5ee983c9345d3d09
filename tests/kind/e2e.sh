#!/usr/bin/env bash
# Runs tests/e2e on a cluster of kind's: builds the image, creates the cluster, runs the suite, deletes the cluster.
# Usage: e2e.sh [word of a test's name]...
#   KEEP=1                 leave the cluster, to look around
#   SPILLWAY_KIND_IMAGE    an image that is there already, in place of building one
#   SPILLWAY_KIND_OUT      folder for what is left of a failure, the nodes' logs and the suite's own; target/kind
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
out=${SPILLWAY_KIND_OUT:-$root/target/kind}
cluster=spillway-e2e
image=localhost/spillway/spillway:kind
next=localhost/spillway/spillway:kind-next
# shellcheck source=tests/kind/images.env
. "$here/images.env"

say() { echo "kind: $*"; }

# All that is missing, at once.
missing=()
if ! command -v docker >/dev/null; then
    missing+=("docker: https://docs.docker.com/engine/install")
elif ! docker info >/dev/null 2>&1; then
    missing+=("a running Docker: \`docker info\` fails")
elif [ -z "${SPILLWAY_KIND_IMAGE:-}" ] && ! docker buildx version >/dev/null 2>&1; then
    missing+=("docker's buildx: https://github.com/docker/buildx")
fi
command -v cargo >/dev/null || missing+=("cargo: https://rustup.rs")
command -v go >/dev/null || missing+=("go 1.25.5 or later, which builds kind: https://go.dev/dl")
if [ ${#missing[@]} -gt 0 ]; then
    echo "kind: this can't run here; missing:" >&2
    printf '  %s\n' "${missing[@]}" >&2
    echo "The same suite runs without Docker on a cluster of two nodes that the tests start: make e2e" >&2
    exit 1
fi

"$root/tests/tools/install.sh" kind kubernetes helm
tool=$("$root/tests/tools/install.sh" --path kind)
kind() { "$tool" kind "$@"; }
on_control_plane() { docker exec --interactive "$cluster-control-plane" "$@"; }

# Only what an earlier run left: the folder may be anybody's.
rm -rf "$out/nodes" "$out/suite" "$out/kubeconfig"
mkdir -p "$out"
export KUBECONFIG=$out/kubeconfig

end() {
    local code=$?
    trap - EXIT
    if [ $code -ne 0 ]; then
        say "failed; logs of the nodes: $out/nodes"
        kind export logs --name "$cluster" "$out/nodes" >/dev/null 2>&1 || true
    fi
    if [ -n "${KEEP:-}" ]; then
        say "the cluster is left: export KUBECONFIG=$KUBECONFIG; its end: $tool kind delete cluster --name $cluster"
    else
        kind delete cluster --name "$cluster" || true
    fi
    exit $code
}

if [ -n "${SPILLWAY_KIND_IMAGE:-}" ]; then
    docker tag "$SPILLWAY_KIND_IMAGE" "$image"
else
    say "building $image"
    "$here/image.sh" "$image" --load
fi
# The same programs in an image of its own, for rollouts.
container=$(docker create "$image" spillway)
docker commit --change "LABEL org.opencontainers.image.version=next" "$container" "$next" >/dev/null
docker rm "$container" >/dev/null

say "creating the cluster"
trap end EXIT
kind delete cluster --name "$cluster" >/dev/null 2>&1 || true
kind create cluster --name "$cluster" --config "$here/kind-config.yaml" --kubeconfig "$KUBECONFIG" --wait 180s
kind load docker-image --name "$cluster" "$image" "$next"
# Pulled by the nodes themselves: Docker's own store can hold one platform of an image, which `kind load` refuses.
for node in $(kind get nodes --name "$cluster" | grep -- -worker); do
    for public in "$MINIO_IMAGE" "$CLICKHOUSE_IMAGE"; do
        say "pulling $public on $node"
        docker exec "$node" crictl pull "$public" >/dev/null
    done
done
on_control_plane kubectl --kubeconfig /etc/kubernetes/admin.conf apply -f - < "$here/metrics-server.yaml"
on_control_plane kubectl --kubeconfig /etc/kubernetes/admin.conf --namespace kube-system \
    rollout status deployment/metrics-server --timeout 180s

say "running the suite"
SPILLWAY_E2E_IMAGE=$image \
SPILLWAY_E2E_NEXT_IMAGE=$next \
SPILLWAY_E2E_MINIO_IMAGE=$MINIO_IMAGE \
SPILLWAY_E2E_CLICKHOUSE_IMAGE=$CLICKHOUSE_IMAGE \
SPILLWAY_E2E_CLICKHOUSE_MANIFEST=$here/clickhouse.yaml \
SPILLWAY_E2E_NODES=docker \
SPILLWAY_E2E_ARTEFACTS=$out/suite \
    cargo test -p spillway-e2e --manifest-path "$root/Cargo.toml" -- "$@"
