"""What the README says of adding a method, done to the letter: one file and one line."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REGISTRY = "kdlib/methods.py"
TRAIN = """
import sys
from pathlib import Path
import kdlib
from kdlib.train import fit
from training import tiny
root, method = Path(sys.argv[1]), "cosine+gate+kd"
assert Path(kdlib.__file__).is_relative_to(root), kdlib.__file__
runs = [tiny(method=method, epochs=1)]
fit([runs[0].teacher_config()], root / "runs", progress=False)
(record,) = fit(runs, root / "runs", progress=False)
print((root / "runs" / record["run_id"] / "history.csv").read_text())
"""


def code_blocks(language: str) -> list[str]:
    """The README's code blocks of a language, in the section on methods."""
    section = re.split(r"^## ", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    (text,) = (part for part in section if part.startswith("A method of your own"))
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def add_lines(path: Path, diff: str) -> None:
    """Put each line marked ``+`` after the unmarked one that precedes it."""
    before = None
    for line in diff.splitlines():
        if line.startswith("+"):
            text = path.read_text()
            assert text.count(before) == 1, f"{before!r} is not one line of {path.name}"
            path.write_text(text.replace(before, f"{before}{line[1:]}\n"))
        else:
            before = line[1:] + "\n"


@pytest.fixture
def extended(tmp_path) -> Path:
    """A copy of the library with the README's method added."""
    shutil.copytree(ROOT / "kdlib", tmp_path / "kdlib")
    (file,), (diff,) = code_blocks("python"), code_blocks("diff")
    name = file.splitlines()[0].removeprefix("# ")
    assert not (tmp_path / name).exists()
    (tmp_path / name).write_text(file)
    add_lines(tmp_path / REGISTRY, diff)
    return tmp_path


def run(folder: Path, *command: str) -> str:
    places = os.pathsep.join(map(str, (folder, Path(__file__).parent)))
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env={**os.environ, "PYTHONPATH": places},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_method_of_the_readme_trains(extended):
    header, row = run(extended, "-c", TRAIN, str(extended)).strip().splitlines()
    assert header == "epoch,learning_rate,ce,cosine,kd,accuracy,seconds"
    assert float(row.split(",")[3]) > 0


def test_it_is_listed_and_keeps_the_project_s_style(extended):
    assert "cosine " in run(extended, "-m", "kdlib", "methods")
    (file,) = code_blocks("python")
    name = extended / file.splitlines()[0].removeprefix("# ")
    changed = [str(name), str(extended / REGISTRY)]
    run(extended, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), *changed)
    style = ["format", "--check", "--config", str(ROOT / "pyproject.toml")]
    run(extended, "-m", "ruff", *style, str(name))
