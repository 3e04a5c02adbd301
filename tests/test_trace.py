"""How much a reader of one run must open: the files whose code runs, counted by Python's tracer."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training import tiny

import kdlib
from kdlib.models import output as cost
from kdlib.train import fit
from kdlib.trainee import Trainee

ROOT = Path(kdlib.__file__).parent
STEP, FIT = 8, 20
HEAVY = {"pandas", "sklearn", "scipy", "matplotlib", "yaml", "PIL", "cv2", "pycocotools",
         "torchvision", "torchmetrics", "accelerate", "statsmodels"}  # fmt: skip
CONFIG = tiny(method="dct", precision="float32", epochs=1)


def opened(act: Callable[[], Any]) -> set[str]:
    """The files of kdlib in which a function is called while ``act`` runs."""
    files: set[str] = set()

    def note(frame, event, argument):
        if event == "call":
            files.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    inside = [Path(file) for file in files if file.startswith(str(ROOT))]
    return {path.relative_to(ROOT).as_posix() for path in inside}


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    fit(CONFIG.teacher_config(), root, progress=False)
    return root


def test_a_step_of_a_dct_student_opens_eight_files(taught, monkeypatch, tmp_path):
    step, found = Trainee.step, []

    def traced(trainee, *given):
        terms = []
        found.append(opened(lambda: terms.append(step(trainee, *given))))
        return terms[0]

    monkeypatch.setattr(Trainee, "step", traced)
    monkeypatch.setattr(cost, "REPEATS", 1)
    fit(CONFIG, taught, progress=False)
    assert len(found) == 2 and "losses/dct.py" in found[0]
    assert len(set.union(*found)) <= STEP, sorted(set.union(*found))


def test_a_whole_fit_opens_twenty_files(taught):
    found = opened(lambda: fit(tiny(**{**CONFIG.to_dict(), "init_seed": 1}), taught))
    assert len(found) <= FIT, sorted(found)


def test_training_a_classifier_loads_nothing_heavy(taught):
    program = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from training import tiny
from kdlib.train import fit
fit(tiny(**{CONFIG.to_dict()!r} | {{"init_seed": 2}}), {str(taught)!r}, progress=False)
print(*{{name.split(".")[0] for name in sys.modules}})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stdout.split())
