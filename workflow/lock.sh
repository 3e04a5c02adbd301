#!/usr/bin/env bash
# Pins what requirements/*.in ask for, one set of versions for every supported Python and system.
# No address is written: the lock says what is installed, the machine from where.
set -euo pipefail
cd "$(dirname "$0")/../requirements"
for name in kdlib:lock bench:bench bootstrap:bootstrap; do
    bash ../workflow/uv.sh pip compile --quiet --upgrade --universal --python-version 3.11 \
        --fork-strategy fewest --generate-hashes --no-annotate --no-header \
        --no-emit-index-url --no-emit-find-links \
        "${name%%:*}.in" --output-file "${name##*:}.txt"
done
