"""What papermill adds to a run: a notebook beside the same code in a Python of its own."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import nbformat

from benchmarks.timing import Work, rounds_of
from kdlib.execute import execute_notebook

PARAMETERS = "epochs = 1  # of the student"
RUN = """
from pathlib import Path
from tempfile import TemporaryDirectory

from kdlib.runs import RunConfig
from kdlib.train import fit

run = RunConfig.from_dict({
    "student": "scenes_tiny", "teacher": "none", "method": "student", "epochs": epochs,
    "image_size": 32, "train_size": 256, "test_size": 256, "precision": "float32",
})
with TemporaryDirectory() as folder:
    (record,) = fit([run], Path(folder), device="cpu", progress=False)
"""


def papermill_overhead(rounds: int, tick: Work) -> dict[str, Any]:
    """Seconds of a tiny run as a notebook and as a program, medians, by the wall's clock."""
    with tempfile.TemporaryDirectory(prefix="kdlib-notebook-") as folder:
        notebook = write_notebook(Path(folder) / "tiny.ipynb")
        program = [sys.executable, "-c", f"{PARAMETERS}\n{RUN}"]
        works: dict[str, Work] = {
            "notebook": lambda: execute_notebook(notebook, notebook.with_name("done.ipynb")),
            "program": lambda: subprocess.run(program, check=True, capture_output=True),
        }
        times = rounds_of(works, rounds, time.perf_counter, tick)
    both = {name: round(median(spent), 2) for name, spent in times.items()}
    added = [one - other for one, other in zip(*times.values(), strict=True)]
    return {"seconds": both, "added_seconds": round(median(added), 2), "rounds": rounds}


def write_notebook(path: Path) -> Path:
    """A notebook of a cell of parameters and one that trains."""
    cells = [nbformat.v4.new_code_cell(source) for source in (PARAMETERS, RUN)]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path
