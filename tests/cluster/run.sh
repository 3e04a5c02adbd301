#!/usr/bin/env bash
# Runs a small grid through a real SLURM of one node on loopback; kills a job twice, the controller
# and Snakemake on the way; compares every record with those of the same grid left alone. About
# five minutes on two idle cores.
#   --install   get SLURM from Debian's packages first (its own daemons need not start)
#   --to FILE   write the figures there, as JSON
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^set/{/^#/p}' "$0"; exit ;; esac
while [ $# -gt 0 ]; do
    case "$1" in
        --install)
            export DEBIAN_FRONTEND=noninteractive
            apt-get update >&2
            apt-get install --yes --no-install-recommends slurm-wlm munge >&2 ;;
        --to) KDLIB_CLUSTER_TO=$(realpath "$2"); export KDLIB_CLUSTER_TO; shift ;;
        *) echo "$0 takes --install and --to FILE, not $1; --help tells more." >&2; exit 2 ;;
    esac
    shift
done
for program in munged slurmctld slurmd; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null ||
        { echo "There is no $program here; --install gets it." >&2; exit 2; }
done
cd "$(dirname "$0")/../.."
PATH="$PWD/.venv/bin:$PATH" PYTHONPATH="$PWD" exec python -m pytest -q -s -m cluster tests/cluster
