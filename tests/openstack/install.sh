#!/bin/bash
# Installs what the control plane needs: Debian packages, and a Python environment at $1 with OpenStack from PyPI.
# A second call changes nothing and takes a second. Needs root.
#
#   tests/openstack/install.sh VENV
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
venv=${1:?usage: install.sh VENV}
log=$top/target/install.log
export DEBIAN_FRONTEND=noninteractive
say() { echo "install: $*"; }
die() { echo "install: $*" >&2; exit 1; }
quietly() {
  echo "+ $*" >>"$log"
  "$@" >>"$log" 2>&1 </dev/null || { tail -25 "$log" >&2; die "failed: $* (all of it: $log)"; }
}

# libvirt, QEMU, RabbitMQ and the guest's tools come with the other tests' packages.
"$top/tests/install.sh" test

# uwsgi and libvirt-python are compiled when they are installed.
packages="mariadb-server memcached openvswitch-switch ovn-central ovn-host ethtool gcc pkg-config python3-dev libvirt-dev"
missing=$(comm -23 <(printf '%s\n' $packages | sort -u) \
  <(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' $packages 2>/dev/null | awk '$1 == "ii" {print $2}' | sort -u))
if [ -n "$missing" ]; then
  say "installing packages:" $missing
  quietly apt-get -o DPkg::Lock::Timeout=600 update -q
  # The packages' own daemons stay off: the suite starts its own, in namespaces of their own.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    trap "rm -f $policy" EXIT
  fi
  quietly apt-get -o DPkg::Lock::Timeout=600 install -q -y --no-install-recommends --no-remove $missing
fi

# One of several callers builds the environment; a stamp in it says how it was made.
mkdir -p "$(dirname "$venv")"
exec 9>"$venv.lock"
flock 9
stamp=$venv/.$(cat "$here/requirements.txt" "$here/constraints.txt" "$here/install.sh" | sha256sum | cut -c1-16)
if [ ! -e "$stamp" ]; then
  say "installing OpenStack 2026.1 from PyPI (some minutes the first time)"
  rm -rf "$venv" "$venv-uv"
  # uv: several times as fast as pip, and its environment works at another path, where the suite mounts it.
  quietly "${PYTHON:-python3}" -m venv "$venv-uv"
  quietly "$venv-uv/bin/python" -m pip install --disable-pip-version-check uv
  quietly "$venv-uv/bin/uv" venv --relocatable --python "${PYTHON:-python3}" "$venv"
  # It leaves lock files in TMPDIR.
  quietly env VIRTUAL_ENV="$venv" TMPDIR="$venv-uv" "$venv-uv/bin/uv" pip install --link-mode copy \
    -c "$here/constraints.txt" -r "$here/requirements.txt"
  # Services start twice as fast with compiled modules; some files in the packages are not meant to compile.
  "$venv/bin/python" -m compileall -q -j 0 "$venv/lib" >>"$log" 2>&1 || true
  touch "$stamp"
fi
