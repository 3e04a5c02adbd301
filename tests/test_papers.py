"""Runs of SRM and of FRSKD end with the same bits, however often they were interrupted."""

import time
from pathlib import Path

import pytest
from training import history_of, killed_at_random, result_of, tiny

from kdlib.models import output as cost
from kdlib.runs import RunConfig, earlier, read_record, run_directory
from kdlib.train import fit
from kdlib.trainee import Trainee

SPARSE = {"dictionary_epochs": 3, "sparsity": 0.2, "init_share": 0.5}
PIXELS = {"task": "segmentation", "student": "scenes_segmenter_tiny", "epochs": 2}
RUNS = {
    "srm": tiny(method="srm+kd", method_options=SPARSE, epochs=4),
    "frskd": tiny(method="frskd", epochs=2),
    "frskd, mixed and turned": tiny(
        method="frskd", augmentation=["flip", "mixup", "sla"], epochs=2
    ),
    "cut and pasted": tiny(method="student", augmentation=["cutmix"], epochs=2),
    "pixels": tiny(method="frskd_pixels", **PIXELS),
}
STOPS = {"srm": 1 + 3 + 2 + 2}  # of the teacher, the dictionaries, the initialisation and the task


def learned(root: Path, run: RunConfig) -> None:
    for one in [*earlier([run]), run]:
        fit([one], root, progress=False)


def left_in(root: Path, run: RunConfig) -> list[object]:
    """Records, histories and weights of a run and of all that it needs."""
    folders = [run_directory(one, root) for one in [*earlier([run]), run]]
    weights = [sorted(folder.glob("*.safetensors")) for folder in folders]
    return [
        [result_of(read_record(folder / "record.json")) for folder in folders],
        [history_of(folder) for folder in folders],
        [[(file.name, file.read_bytes()) for file in files] for files in weights],
    ]


@pytest.fixture(scope="module", autouse=True)
def untimed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "latency", lambda *_: 1.0)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, float]:
    """A folder in which nothing was interrupted, and the seconds that it took."""
    root, start = tmp_path_factory.mktemp("whole"), time.monotonic()
    for run in RUNS.values():
        learned(root, run)
    return root, time.monotonic() - start


@pytest.mark.parametrize("name", RUNS)
def test_stopped_after_every_epoch_a_run_ends_the_same(name, whole, tmp_path, monkeypatch):
    end_epoch, stops = Trainee.end_epoch, []

    def stop_after(trainee, row):
        end_epoch(trainee, row)
        stops.append(trainee.epoch)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainee, "end_epoch", stop_after)
    for _ in range(STOPS.get(name, 2)):
        with pytest.raises(KeyboardInterrupt):
            learned(tmp_path, RUNS[name])
    learned(tmp_path, RUNS[name])
    assert len(stops) == STOPS.get(name, 2)
    assert left_in(tmp_path, RUNS[name]) == left_in(whole[0], RUNS[name])


def test_killed_at_random_moments_all_runs_end_the_same(whole, tmp_path):
    root, seconds = whole

    def learn(folder: Path) -> None:
        for run in RUNS.values():
            learned(folder, run)

    assert killed_at_random(learn, tmp_path, seconds)
    learn(tmp_path)
    for run in RUNS.values():
        assert left_in(tmp_path, run) == left_in(root, run)
