"""Prints ours beside the released programs' numbers, file by file: python tests/golden/table.py.

KDLIB_GOLDEN names another folder of files. The exit status is 1 if anything is not as it should be.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden import losses, papers  # noqa: F401 - which enter their functions
from golden.cases import FILES, Row, examine

HEAD = f"{'method':26} {'case':32} {'value':>8} {'gradient':>8}  tolerance or fault"


def main() -> int:
    """Print the table."""
    print(HEAD)
    faults = 0
    for path in FILES:
        row: Row = examine(path)
        print(row, flush=True)
        faults += bool(row.faults)
    print(f"{len(FILES)} files, {faults} with faults.")
    return int(faults > 0 or not FILES)


if __name__ == "__main__":
    sys.exit(main())
