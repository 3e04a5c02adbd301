"""nbval for these notebooks: exercises are solved, dials ignored, sockets private.

A cell tagged ``implement-check`` runs with the reader's stub, which must not pass, and then with
the solution of the same name, which must. What a cell tagged ``widget`` shows is not compared, nor
is stderr: progress bars differ from run to run. Kernels started at once cannot take one port.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
import nbval.kernel
import nbval.plugin

from study.notebooks import PrivateSockets

nbval.kernel.KernelManager = PrivateSockets
_streams = nbval.plugin.transform_streams_for_comparison
_run = nbval.plugin.IPyNbCell.runtest


def _without_stderr(outputs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return _streams(out for out in outputs if out.get("name") != "stderr")


def solution_of(notebook: Path, name: str) -> str:
    """The cell tagged ``solution`` that defines ``name``, of a notebook's solutions."""
    place = notebook.parent / "solutions" / f"{notebook.stem}_solutions.ipynb"
    cells = nbformat.read(place, as_version=4).cells
    sources = [cell.source for cell in cells if "solution" in tags_of(cell)]
    return next(source for source in sources if re.search(rf"^def {name}\(", source, re.M))


def tags_of(cell: nbformat.NotebookNode) -> list[str]:
    """What a cell is marked with."""
    return cell.metadata.get("tags", [])


def _runtest(item: nbval.plugin.IPyNbCell) -> None:
    tags = tags_of(item.cell)
    item.options["check"] &= "widget" not in tags
    _run(item)
    if "implement-check" in tags:
        _check_the_check(item, item.cell.source)


def _check_the_check(item: nbval.plugin.IPyNbCell, check: str) -> None:
    name = re.match(r"(?:lesson\.)?check\(\s*(\w+)", check)[1]
    if f"{name}: correct" in _said(item):
        item.raise_cell_error("The stub already passes its check")
    solution = solution_of(Path(item.path), name)
    item.options["check"] = False
    item.cell.source = f"_stub = {name}\n{solution}\n{check}\n{name} = _stub"
    _run(item)
    if f"{name}: correct" not in _said(item):
        item.raise_cell_error(f"The solution does not pass its check: {_said(item)}")


def _said(item: nbval.plugin.IPyNbCell) -> str:
    return "".join(out.get("text", "") for out in item.test_outputs)


nbval.plugin.transform_streams_for_comparison = _without_stderr
nbval.plugin.IPyNbCell.runtest = _runtest
