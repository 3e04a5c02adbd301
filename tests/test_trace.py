"""How much a reader of one run must open: the files whose code runs, counted by Python's profiler.

What is loaded, though it does not run, is counted by tests/test_house.py.
"""

import sys
from pathlib import Path

from training import tiny

import kdlib
from kdlib.train import fit
from kdlib.train_state import TrainState

ROOT = Path(kdlib.__file__).parent
STEP, FIT = 8, 20


def test_a_step_of_a_dct_student_opens_eight_files_and_a_whole_fit_twenty(root, monkeypatch):
    config = tiny(method="dct", epochs=1)
    step, inside, steps = TrainState.step, [], []
    files: dict[bool, set[str]] = {False: set(), True: set()}

    def traced(*given):
        inside.append(True)
        terms = step(*given)
        steps.append(inside.pop())
        return terms

    def note(frame, event, argument):
        if event == "call":
            files[bool(inside)].add(frame.f_code.co_filename)

    monkeypatch.setattr(TrainState, "step", traced)
    sys.setprofile(note)
    try:
        fit(config, root)
    finally:
        sys.setprofile(None)
    of_steps, all_files = (
        {Path(name).relative_to(ROOT).as_posix() for name in found if name.startswith(str(ROOT))}
        for found in (files[True], files[True] | files[False])
    )
    assert len(steps) == 2 and "losses/dct.py" in of_steps
    assert len(of_steps) <= STEP, sorted(of_steps)
    assert len(all_files) <= FIT, sorted(all_files)
