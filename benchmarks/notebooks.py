"""What papermill adds to a run: a notebook of one step beside the same code as a program."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import nbformat

from benchmarks.timing import Work, rounds_of
from study.notebooks import execute_notebook

PARAMETERS = "images = 64  # of the batch"
RUN = """
import torch

import kdlib.train
from kdlib.models import create_model

network = create_model("scenes_small", 16)
network(torch.zeros(images, 3, 32, 32)).logits.sum().backward()
"""


def papermill_overhead(rounds: int, tick: Work) -> dict[str, Any]:
    """Seconds of processor time of a step as a notebook and as a program, imports included."""
    with tempfile.TemporaryDirectory(prefix="kdlib-notebook-") as folder:
        notebook = write_notebook(Path(folder) / "tiny.ipynb")
        program = [sys.executable, "-c", f"{PARAMETERS}\n{RUN}"]
        works: dict[str, Work] = {
            "notebook": lambda: execute_notebook(notebook, notebook.with_name("done.ipynb")),
            "program": lambda: subprocess.run(program, check=True, capture_output=True),
        }
        # Of this process and of those that it started and that have ended.
        times = rounds_of(works, rounds, lambda: sum(os.times()[:4]), tick)
    both = {name: round(median(spent), 2) for name, spent in times.items()}
    added = [one - other for one, other in zip(*times.values(), strict=True)]
    return {"seconds": both, "added_seconds": round(median(added), 2), "rounds": rounds}


def write_notebook(path: Path) -> Path:
    """A notebook of a cell of parameters and one that works."""
    cells = [nbformat.v4.new_code_cell(source) for source in (PARAMETERS, RUN)]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path
