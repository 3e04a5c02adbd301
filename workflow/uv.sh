#!/usr/bin/env bash
# Runs uv: the machine's own, or, where there is none, its pinned version that pip installs into
# .bootstrap, so that .venv comes out the same either way. PYTHON names the interpreter to use.
set -euo pipefail
if uv --version >/dev/null 2>&1; then
    exec uv "$@"
fi
root=$(cd "$(dirname "$0")/.." && pwd)
if [ ! -x "$root/.bootstrap/bin/uv" ]; then
    echo "There is no uv on this machine; installing it with pip" >&2
    "${PYTHON:-python3}" -m venv --clear "$root/.bootstrap"
    "$root/.bootstrap/bin/python" -m pip install --quiet --disable-pip-version-check \
        --require-hashes --requirement "$root/requirements/bootstrap.txt"
fi
exec "$root/.bootstrap/bin/uv" "$@"
