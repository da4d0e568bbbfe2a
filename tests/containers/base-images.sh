#!/bin/sh
# Finds the images that the containers are built from, and prints them for docker-compose.yml's
# variables, one NAME=image a line. The public ones where they are here or can be pulled;
# otherwise it makes its own from this machine's Debian packages and Rust toolchain, once.
set -eu

say() { echo "base-images: $*" >&2; }
die() { say "$*"; exit 1; }
here() { docker image inspect "$1" >/dev/null 2>&1; }
pull() { here "$1" || timeout "$2" docker pull --quiet "$1" >/dev/null 2>&1; }

root=$(cd "$(dirname "$0")/../.." && pwd)
# The defaults have one place, the Dockerfile and the compose file.
default() { sed -n "s/^ARG $1=//p" "$root/Dockerfile"; }
rust=$(default RUST_IMAGE)
base=$(default BASE_IMAGE)
redis=$(sed -n 's/.*{REDIS_IMAGE:-\(.*\)}.*/\1/p' "$root/docker-compose.yml")
for image in "$rust" "$base" "$redis"; do
    [ -n "$image" ] || die "cannot read the default images"
done

# The smallest first, with little patience: where it cannot be had, none can.
if pull "$base" 60 && pull "$redis" 120 && pull "$rust" 300; then
    printf 'RUST_IMAGE=%s\nBASE_IMAGE=%s\nREDIS_IMAGE=%s\n' "$rust" "$base" "$redis"
    exit 0
fi
say "the public images cannot be pulled; using local ones"

# The machine's own release, so that its Rust toolchain runs in the image.
# shellcheck source=/dev/null
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
base=redfleet-test/base:$suite
redis=redfleet-test/redis:$suite
rustc=$(rustc --version | cut -d' ' -f2)
toolchain=redfleet-test/toolchain:$suite-$rustc
lock=$(sha256sum "$root/Cargo.lock" | cut -c1-16)
rust=redfleet-test/rust:$suite-$rustc-$lock

work=$(mktemp -d)
cleanup() {
    # An interrupted debootstrap leaves these mounted.
    for mount in "$work"/*/proc "$work"/*/sys "$work"/*/dev/pts; do
        umount "$mount" 2>/dev/null || true
    done
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mirror() {
    # shellcheck disable=SC2016  # apt's own placeholders
    apt-get indextargets --format '$(SITE) $(CODENAME)' 'Created-By: Packages' 2>/dev/null |
        awk -v suite="$suite" '$2 == suite { print $1; exit }'
}

# bootstrap NAME [PACKAGE,PACKAGE…]: a minimal system with these packages, in $work/NAME.
bootstrap() {
    [ "$(id -u)" = 0 ] || die "making images from Debian packages needs root"
    command -v apt-get >/dev/null || die "making images needs a Debian-like machine"
    if ! command -v debootstrap >/dev/null; then
        say "installing debootstrap"
        { apt-get update && apt-get install -y --no-install-recommends debootstrap; } >&2
    fi
    [ -n "$(mirror)" ] || apt-get update >&2
    [ -n "$(mirror)" ] || die "apt knows no source for $suite"
    mkdir -p "$work/debs"
    say "installing the packages of $1"
    debootstrap --variant=minbase ${2:+"--include=$2"} --cache-dir="$work/debs" \
        "$suite" "$work/$1" "$(mirror)" >"$work/$1.log" 2>&1 ||
        { cat "$work/$1.log" >&2; die "debootstrap failed"; }
}

# import NAME IMAGE [docker import options]: makes $work/NAME an image.
import() {
    name=$1 image=$2
    shift 2
    say "importing $image"
    tar -C "$work/$name" --exclude='./proc/*' --exclude='./sys/*' --exclude='./usr/share/doc/*' \
        --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' \
        --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' -c . |
        docker import "$@" - "$image" >/dev/null
    here "$image" || die "docker import made no $image"
    rm -rf --one-file-system "${work:?}/$name"
}

if ! here "$base"; then
    bootstrap base
    import base "$base" --change 'CMD ["sh"]'
fi

if ! here "$redis"; then
    bootstrap redis redis-server
    # As in the public image: the user `redis` owns /data.
    install -d -o "$(stat -c %u "$work/redis/var/lib/redis")" \
        -g "$(stat -c %g "$work/redis/var/lib/redis")" "$work/redis/data"
    import redis "$redis" --change 'WORKDIR /data' --change 'CMD ["redis-server"]'
fi

if ! here "$toolchain"; then
    bootstrap toolchain gcc,libc6-dev,ca-certificates
    sysroot=$(rustc --print sysroot)
    triple=$(rustc -vV | sed -n 's/^host: //p')
    to=$work/toolchain/usr/local/rust
    mkdir -p "$to/bin" "$to/lib/rustlib"
    cp "$sysroot/bin/rustc" "$sysroot/bin/cargo" "$to/bin/"
    cp "$sysroot"/lib/*.so* "$to/lib/"
    cp -r "$sysroot/lib/rustlib/$triple" "$to/lib/rustlib/"
    import toolchain "$toolchain" --change 'ENV CARGO_HOME=/usr/local/cargo' \
        --change 'ENV CARGO_NET_OFFLINE=true' \
        --change 'ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
fi

if ! here "$rust"; then
    # The crates ride along: whether a container reaches the registry is nothing to rely on.
    say "collecting the crates of $rust"
    mkdir "$work/crates"
    cargo vendor --quiet --locked --manifest-path "$root/Cargo.toml" "$work/crates/vendor" >/dev/null
    cat >"$work/crates/config.toml" <<'TOML'
[source.crates-io]
replace-with = "vendored"

[source.vendored]
directory = "/usr/local/cargo/vendor"
TOML
    cat >"$work/crates/Dockerfile" <<DOCKERFILE
FROM $toolchain
COPY . /usr/local/cargo/
DOCKERFILE
    docker build --quiet --tag "$rust" "$work/crates" >/dev/null
    # Those of older lock files serve nobody any more.
    docker image ls --format '{{.Repository}}:{{.Tag}}' redfleet-test/rust | grep -vxF "$rust" |
        xargs -r docker image rm >/dev/null 2>&1 || true
fi

printf 'RUST_IMAGE=%s\nBASE_IMAGE=%s\nREDIS_IMAGE=%s\n' "$rust" "$base" "$redis"
