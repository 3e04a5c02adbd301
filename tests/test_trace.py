"""How much a reader of one step must open; what a whole run loads is counted by test_house.py."""

import sys
from pathlib import Path

from training import tiny

import kdlib
from kdlib.train import fit
from kdlib.train_state import TrainState

ROOT = Path(kdlib.__file__).parent


def test_a_step_of_a_dct_student_runs_code_of_eight_files_at_most(root, monkeypatch):
    step, files, steps = TrainState.step, set(), []

    def traced(*given):
        sys.setprofile(lambda frame, event, argument: files.add(frame.f_code.co_filename))
        try:
            return step(*given)
        finally:
            sys.setprofile(None)
            steps.append(given)

    monkeypatch.setattr(TrainState, "step", traced)
    fit(tiny(method="dct", epochs=1), root, progress=False)
    ours = {Path(name).relative_to(ROOT).as_posix() for name in files if name.startswith(str(ROOT))}
    assert len(steps) == 2 and "losses/dct.py" in ours and len(ours) <= 8, sorted(ours)
