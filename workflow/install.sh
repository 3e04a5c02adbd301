#!/usr/bin/env bash
# Makes .venv with exactly the packages of requirements/lock.txt, each checked by its hash, and
# kdlib itself in place. usage: install.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHON=$1 VIRTUAL_ENV=$PWD/.venv
uv() { bash workflow/uv.sh "$@"; }
version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }

if [ "$(version "$PYTHON")" != "$(version .venv/bin/python)" ]; then
    uv venv --quiet --clear --python "$("$PYTHON" -c 'import sys; print(sys.executable)')" .venv
fi
echo "Installing requirements/lock.txt into .venv (Python $(version .venv/bin/python))"
uv pip sync --quiet --require-hashes requirements/lock.txt
uv pip install --quiet --no-deps --no-build-isolation --editable .
