#!/usr/bin/env bash
# A small grid through a real SLURM on this machine, killed on the way; --help tells more.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=.venv/bin/python
[ -x "$python" ] || python=python3
PATH="$PWD/.venv/bin:$PATH" PYTHONPATH="$PWD/tests:$PWD" exec "$python" -m cluster "$@"
