#!/usr/bin/env bash
# Builds Spillway's image. Usage: image.sh NAME:TAG [argument of `docker buildx build`]...
#   image.sh spillway:dev --load                                                    for this machine
#   image.sh REGISTRY/spillway:0.1.0 --platform linux/amd64,linux/arm64 --push      for both platforms
# The same commit gives the same labels and times: they are the commit's (or SOURCE_DATE_EPOCH's), not the build's.
set -euo pipefail

fail() { echo "image: $*" >&2; exit 1; }

[ $# -ge 1 ] || fail "usage: image.sh NAME:TAG [argument of docker buildx build]..."
name=$1
shift
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
command -v docker >/dev/null || fail "docker is missing: https://docs.docker.com/engine/install"
docker buildx version >/dev/null 2>&1 || fail "docker has no buildx: https://github.com/docker/buildx"

version=$(sed -n '/^\[workspace.package\]/,/^\[/ s/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml")
revision=${REVISION:-$(git -C "$root" rev-parse HEAD)}
# What isn't committed is in the image, too.
if [ -z "${REVISION:-}" ] && [ -n "$(git -C "$root" status --porcelain --untracked-files=no)" ]; then revision+=-dirty; fi
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct)}
# The exporters of buildx read it.
export SOURCE_DATE_EPOCH

exec docker buildx build --file "$root/Containerfile" --tag "$name" \
    --build-arg "VERSION=$version" \
    --build-arg "REVISION=$revision" \
    --build-arg "CREATED=$(date --utc --date="@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)" \
    ${SOURCE:+--build-arg "SOURCE=$SOURCE"} \
    "$@" "$root"
