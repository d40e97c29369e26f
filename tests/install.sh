#!/bin/bash
# Installs what hypernova needs on Debian 12, Debian 13 or Ubuntu 24.04, as root, with or without systemd.
#
#   tests/install.sh build    compiler, libvirt's headers, Rust
#   tests/install.sh run      that, and libvirt, QEMU and the tools of the guest image
#   tests/install.sh test     that, and RabbitMQ, Open vSwitch, Python and other shells for the tests
#
# A second call changes nothing and takes a second. What the package managers say is in $log.
set -euo pipefail

mode=${1:-test}
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$top/target"
log=$top/target/install.log
export DEBIAN_FRONTEND=noninteractive PATH=$HOME/.cargo/bin:/usr/sbin:/sbin:$PATH
say() { echo "install: $*"; }
die() { echo "install: $*" >&2; exit 1; }

. /etc/os-release
case $ID-$VERSION_ID in
debian-12 | debian-13 | ubuntu-24.04) ;;
*) say "$PRETTY_NAME is not one of Debian 12, Debian 13, Ubuntu 24.04; going on as if it were" ;;
esac

# Packages that must be of one release: libvirt and QEMU.
hypervisor="libvirt-dev"
others="gcc libc6-dev pkg-config ca-certificates curl"
case $mode in
build) ;;
run | test)
  hypervisor="$hypervisor libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils"
  others="$others seabios ipxe-qemu genisoimage dosfstools mtools e2fsprogs syslinux syslinux-common busybox-static fdisk cpio xz-utils zstd
    dnsmasq-base iproute2 sqlite3 util-linux procps"
  ;;
*) die "usage: install.sh build|run|test" ;;
esac
[ "$mode" = test ] && others="$others rabbitmq-server python3 python3-venv openssl openvswitch-switch systemd zsh fish"

absent() { # those of the given packages that aren't installed
  comm -23 <(printf '%s\n' "$@" | sort -u) \
    <(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' "$@" 2>/dev/null | awk '$1 == "ii" {print $2}' | sort -u)
}

# QEMU's SPICE, for the tests: a package of its own where QEMU is newer than 8. A bare machine knows no packages yet.
spice() {
  [ "$mode" != test ] || ! apt-cache show qemu-system-modules-spice >/dev/null 2>&1 || echo qemu-system-modules-spice
}

# A package manager's command, quietly; the log is shown when it fails.
quietly() {
  echo "+ $*" >>"$log"
  "$@" >>"$log" 2>&1 </dev/null || { tail -25 "$log" >&2; die "failed: $* (all of it: $log)"; }
}

install_packages() {
  local missing_hypervisor missing_others versions policy_now target=() policy=/usr/sbin/policy-rc.d
  missing_hypervisor=$(absent $hypervisor $(spice))
  missing_others=$(absent $others)
  [ -n "$missing_hypervisor$missing_others" ] || return 0
  [ "$(id -u)" = 0 ] || die "not root, and these packages are missing:" $missing_hypervisor $missing_others
  # qemu-utils or libvirt from backports don't go with the rest from the release itself: all of it from one place.
  # (dpkg-query fails when one of them was never heard of, and grep -q when it is cut off: no pipes here.)
  versions=$(dpkg-query -W -f '${Version}\n' qemu-utils qemu-system-common libvirt0 2>/dev/null) || true
  if [[ $versions == *~bpo* ]]; then
    target=(-t "$VERSION_CODENAME-backports")
    policy_now=$(apt-cache policy)
    if [[ $policy_now != *"n=$VERSION_CODENAME-backports"* ]]; then
      say "adding $VERSION_CODENAME-backports, where this machine's QEMU is from"
      printf 'Types: deb\nURIs: http://deb.debian.org/debian\nSuites: %s-backports\nComponents: main\nSigned-By: %s\n' \
        "$VERSION_CODENAME" /usr/share/keyrings/debian-archive-keyring.gpg \
        >/etc/apt/sources.list.d/hypernova-backports.sources
    fi
  fi
  say "installing packages:" $missing_hypervisor $missing_others
  quietly apt-get update -q
  missing_hypervisor=$(absent $hypervisor $(spice))
  # The packages' own daemons stay off: what a test needs it starts itself.
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    trap "rm -f $policy" EXIT
  fi
  [ -z "$missing_hypervisor" ] ||
    quietly apt-get install -q -y --no-install-recommends --no-remove "${target[@]}" $missing_hypervisor
  [ -z "$missing_others" ] || quietly apt-get install -q -y --no-install-recommends --no-remove $missing_others
}

rust_is_new_enough() {
  local have
  have=$(cd "$top" && cargo --version 2>/dev/null | awk '{print $2}') && [ -n "$have" ] && rustc --version >/dev/null 2>&1 &&
    [ "$(printf '%s\n' "$wanted" "${have%%-*}" | sort -V | head -1)" = "$wanted" ]
}

# Rust's own installer: what https://sh.rustup.rs fetches, from where it fetches it.
rustup_init() {
  local from=https://static.rust-lang.org/rustup/dist/$(uname -m)-unknown-linux-gnu/rustup-init to=$top/target/rustup-init
  curl -fsSL --retry 2 --connect-timeout 10 -o "$to" "$from" 2>>"$log" &&
    [ "$(curl -fsSL --retry 2 --connect-timeout 10 "$from.sha256" 2>>"$log" | cut -c-64)" = "$(sha256sum "$to" | cut -c-64)" ] ||
    die "Rust $wanted or newer is needed: there is no package rustup here and $from can't be had. \
Install a toolchain by hand, then run this again."
  chmod 755 "$to"
  quietly "$to" -y --no-modify-path --profile minimal --default-toolchain stable
}

install_rust() {
  wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$top/Cargo.toml")
  local parts=""
  if rust_is_new_enough; then
    [ "$mode" = test ] || return 0
    (cd "$top" && cargo fmt --version && cargo clippy --version) >/dev/null 2>&1 && return 0
  fi
  [ "$mode" = test ] && parts="rustfmt clippy"
  say "installing Rust (at least $wanted)"
  if ! command -v rustup >/dev/null; then
    { apt-cache show rustup >/dev/null 2>&1 && apt-get install -q -y --no-remove rustup >>"$log" 2>&1 </dev/null; } || rustup_init
  fi
  hash -r
  rust_is_new_enough || quietly rustup toolchain install --no-self-update --profile minimal stable
  rust_is_new_enough || quietly rustup default stable
  for part in $parts; do quietly rustup component add $part; done
  rust_is_new_enough || die "cargo is still older than $wanted: is there a rustup override, or another cargo in PATH?"
}

install_packages
install_rust
