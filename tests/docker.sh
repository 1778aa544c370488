#!/usr/bin/env bash
# Builds the Dockerfile and runs what comes out, for real: without a registry and without a daemon.
#
# Needs root on Debian, the Rust toolchain in use, and the crates of Cargo.lock (vendored with cargo's
# own means). Base images are made with debootstrap; buildah builds with chroot isolation, so it works
# inside a container or a small virtual machine too. Work is kept in target/docker: the second run is
# faster. Takes 10 to 20 minutes the first time, which is why .ci/run does not do it.
#
#   tests/docker.sh            build and check
#   tests/docker.sh check      check what was built last
#   tests/docker.sh clean      remove the work folder
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
work=$root/target/docker
suite=bookworm
image=localhost/sluice-test

export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
export CONTAINERS_STORAGE_CONF=$work/storage.conf

say() { printf '\n== %s\n' "$*"; }
die() { printf 'tests/docker.sh: %s\n' "$*" >&2; exit 1; }

# The gateway in the image listens on these, in the network of this machine.
ports_are_free() {
  local port
  for port in 8080 9901; do
    ! (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null \
      || die "port $port is taken on this machine: stop what listens there (\`ss -ltnp sport = :$port\` names it)"
  done
}

if [ "${1:-}" = clean ]; then
  rm -rf --one-file-system "$work"
  exit 0
fi
[ "$(id -u)" = 0 ] || die 'needs root (debootstrap and chroot)'
[ -f "$root/gateway.yaml" ] || die 'gateway.yaml is missing: the image takes it as its default'
ports_are_free

mkdir -p "$work"
cat > "$work/storage.conf" <<CONF
[storage]
driver = "vfs"
graphroot = "$work/storage"
runroot = "$work/run"
CONF

say 'tools'
missing=()
for tool in buildah debootstrap curl; do
  command -v "$tool" > /dev/null || missing+=("$tool")
done
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi
buildah --version

# The mirror that this machine uses already.
mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2> /dev/null || true; } \
  | grep -oE '^(deb |URIs:).*' | grep -v -e security -e '#' | grep -oE 'https?://[^ ]+' | sed -n 1p)
[ -n "$mirror" ] || die 'no Debian mirror found in /etc/apt'

# rootfs NAME PACKAGES: a minimal system, made once.
rootfs() {
  [ -f "$work/$1.done" ] && return
  rm -rf --one-file-system "${work:?}/$1"
  debootstrap --variant=minbase ${2:+--include="$2"} "$suite" "$work/$1" "$mirror" > "$work/$1.log" 2>&1 \
    || die "debootstrap failed, see $work/$1.log"
  touch "$work/$1.done"
}

# base NAME COMMAND..: commits a root file system as an image, once; the rest configures it.
base() {
  local name=$1
  shift
  buildah inspect --type image "localhost/$name" > /dev/null 2>&1 && return
  local container
  container=$(buildah from scratch)
  buildah copy -q "$container" "$work/$name" / > /dev/null
  [ $# -eq 0 ] || buildah config "$@" "$container"
  buildah commit -q --rm "$container" "localhost/$name" > /dev/null
}

build() {
  say 'base images'
  rootfs run-rootfs ''
  rootfs build-rootfs gcc,g++,libc6-dev,make,ca-certificates
  if [ ! -x "$work/build-rootfs/usr/local/rust/bin/cargo" ]; then
    mkdir -p "$work/build-rootfs/usr/local/rust"
    (cd "$(rustc --print sysroot)" && tar --exclude=share -cf - bin lib) | tar -xf - -C "$work/build-rootfs/usr/local/rust"
  fi
  base run-rootfs
  base build-rootfs \
    --env PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    --env CARGO_HOME=/usr/local/cargo

  say 'crates'
  # cargo prints the configuration that makes it use the folder it has filled.
  (cd "$root" && cargo vendor --locked --versioned-dirs "$work/vendor" 2> "$work/vendor.log") \
    | sed "s|$work/vendor|/vendor|" > "$work/cargo.toml" \
    || { tail -n 20 "$work/vendor.log" >&2; die "\`cargo vendor\` failed: the crates of Cargo.lock must be reachable, and this clone must not be inside another cargo workspace"; }

  say 'image'
  buildah build --quiet --format docker --layers=false \
    --build-arg BUILD_IMAGE=localhost/build-rootfs --build-arg RUN_IMAGE=localhost/run-rootfs \
    --volume "$work/vendor:/vendor:ro" --volume "$work/cargo.toml:/usr/local/cargo/config.toml:ro" \
    --tag "$image" "$root" > "$work/build.log" 2>&1 || { tail -n 40 "$work/build.log" >&2; die 'the image does not build'; }
}

[ "${1:-}" = check ] || build

config() { buildah inspect --type image --format "{{$1}}" "$image"; }

say 'checks'
[ "$(config .Docker.Config.User)" = 10001:10001 ] || die 'the image does not name its user'
[ "$(config .Docker.Config.StopSignal)" = SIGTERM ] || die 'the image does not stop with SIGTERM'
mapfile -t health < <(config 'range .Docker.Config.Healthcheck.Test}}{{println .}}{{end' | sed '/^$/d')
[ "${health[0]:-}" = CMD ] || die 'the image has no HEALTHCHECK'
echo 'ok: user, stop signal, health check are set'

container=$(buildah from --pull-never "$image")
runner=
descendants() { local p; for p in $(pgrep -P "$1"); do echo "$p"; descendants "$p"; done; }
cleanup() {
  [ -z "$runner" ] || kill -KILL $(descendants "$runner") "$runner" 2> /dev/null || true
  buildah rm "$container" > /dev/null 2>&1 || true
}
trap cleanup EXIT
# In the network of this machine: chroot isolation has no other.
inside() { buildah run "$container" -- "$@"; }

[ "$(inside id -u)" = 10001 ] || die 'it runs as root'
inside sh -c 'test -w /var/lib/sluice && ! test -w /usr/local/bin/sluice && ! test -w /etc/sluice/gateway.yaml' \
  || die 'rights: its state must be writable, its program and configuration must not'
echo "ok: runs as $(inside id)"
inside sluice check -c /etc/sluice/gateway.yaml || die 'the default configuration is not valid'

mapfile -t command < <(config 'range .Docker.Config.Entrypoint}}{{println .}}{{end}}{{range .Docker.Config.Cmd}}{{println .}}{{end' | sed '/^$/d')
ports_are_free
inside "${command[@]}" > "$work/gateway.log" 2>&1 &
runner=$!

for _ in $(seq 100); do
  curl -fs -o "$work/answer" --max-time 1 http://127.0.0.1:8080/ && break
  kill -0 "$runner" 2> /dev/null || { cat "$work/gateway.log" >&2; die 'it ended instead of listening'; }
  sleep 0.1
done
[ -s "$work/answer" ] || die 'no answer on port 8080 within 10 s'
echo "ok: answers on its port: $(head -n 1 "$work/answer")"

inside "${health[@]:1}" || die '/livez is not healthy'
inside env SLUICE_ADMIN_PORT=1 "${health[@]:1}" 2> /dev/null && die 'the health check cannot fail'
echo 'ok: the health check passes, and fails on a closed port'

# The child of this run whose program is ours; buildah's own processes are between.
gateway=
for process in $(descendants "$runner"); do
  case $(readlink "/proc/$process/exe") in */usr/local/bin/sluice) gateway=$process ;; esac
done
[ -n "$gateway" ] || die 'no process of the gateway found'
[ "$(awk '/^Uid:/ { print $3 }' "/proc/$gateway/status")" = 10001 ] || die 'the gateway has rights it must not have'
kill -TERM "$gateway"
status=0
wait "$runner" || status=$?
runner=
[ "$status" = 0 ] || { tail -n 20 "$work/gateway.log" >&2; die "SIGTERM ended it with $status instead of 0"; }
echo 'ok: SIGTERM drains and ends with 0'

say "passed ($(du -h "$(buildah mount "$container")/usr/local/bin/sluice" | cut -f 1) of program)"
