#!/bin/sh
# Makes the Python environment that tests talk to the agent from: the real oslo.messaging and
# oslo.versionedobjects of PyPI, at target/test-venv. Does nothing when it is already there, and
# only one of several callers builds it. Prints the path of its python.
#
# PYTHON chooses the interpreter (default python3).
set -eu

oslo_messaging=17.3.0
oslo_versionedobjects=3.9.0

root=$(cd "$(dirname "$0")/../.." && pwd)
venv=${CARGO_TARGET_DIR:-$root/target}/test-venv
stamp=$venv/.oslo.messaging-$oslo_messaging.oslo.versionedobjects-$oslo_versionedobjects

mkdir -p "$(dirname "$venv")"
exec 9>"$venv.lock"
flock 9
if [ ! -e "$stamp" ]; then
    rm -rf "$venv"
    "${PYTHON:-python3}" -m venv "$venv" >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        "oslo.messaging==$oslo_messaging" "oslo.versionedobjects==$oslo_versionedobjects" >&2
    touch "$stamp"
fi
echo "$venv/bin/python"
