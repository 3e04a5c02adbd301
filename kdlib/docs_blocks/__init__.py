"""Blocks of the pages in docs/, made from measurements; a module a page."""

from collections.abc import Callable
from pathlib import Path

from kdlib.docs_blocks import deployment, faults, grids, multi_gpu, speed

PAGES: dict[str, Callable[[Path], dict[str, str]]] = {
    "docs/deployment.md": deployment.blocks,
    "docs/faults.md": faults.blocks,
    "docs/grids.md": grids.blocks,
    "docs/multi_gpu.md": multi_gpu.blocks,
    "docs/speed.md": speed.blocks,
}
"""By page, what makes its blocks from a folder of measurements."""
