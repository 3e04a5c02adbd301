"""Runs of SRM and of FRSKD end with the same bits, however often they were interrupted."""

from contextlib import suppress
from pathlib import Path

import pytest
from training import history_of, killed_at_random, result_of, tiny

from kdlib.models import output as cost
from kdlib.runs import RunConfig, earlier, is_finished, read_record, run_directory
from kdlib.train import fit

SPARSE = {"dictionary_epochs": 3, "sparsity": 0.2, "init_share": 0.5}
PIXELS = {"task": "segmentation", "student": "scenes_segmenter_tiny", "epochs": 2}
RUNS = [
    tiny(method="srm+kd", method_options=SPARSE, epochs=4),
    tiny(method="frskd", epochs=2),
    tiny(method="frskd", augmentation=["flip", "mixup", "sla"], epochs=2),
    tiny(method="student", augmentation=["cutmix"], epochs=2),
    tiny(method="frskd_pixels", **PIXELS),
]


def learn(root: Path, *runs: RunConfig, **options: object) -> None:
    for run in runs:
        for one in [*earlier([run]), run]:
            fit([one], root, progress=False, **options)


def left_in(root: Path, run: RunConfig) -> list[tuple]:
    """Record, history and weights of a run and of all that it needs."""
    found = []
    for folder in [run_directory(one, root) for one in [*earlier([run]), run]]:
        weights = [(file.name, file.read_bytes()) for file in sorted(folder.glob("*.safetensors"))]
        found.append((result_of(read_record(folder / "record.json")), history_of(folder), weights))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder in which nothing was interrupted."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "latency", lambda *_: 1.0)
        learn(root, *RUNS)
        yield root


@pytest.mark.parametrize("run", RUNS, ids=["srm", "frskd", "mixed, turned", "cut", "pixels"])
def test_stopped_after_every_epoch_a_run_ends_the_same(run, whole, tmp_path):
    def stop(config: RunConfig, row: dict) -> None:
        stops.append((config.run_id, row["epoch"]))
        raise KeyboardInterrupt

    stops: list[tuple[str, int]] = []
    while not is_finished(run, tmp_path):
        with suppress(KeyboardInterrupt):
            learn(tmp_path, run, on_epoch=stop)
    found = left_in(tmp_path, run)
    assert found == left_in(whole, run)
    assert len(stops) == len(set(stops)) == sum(len(history) - 1 for _, history, _ in found) > 1


def test_killed_at_random_moments_all_runs_end_the_same(whole, tmp_path):
    assert killed_at_random(lambda root: learn(root, *RUNS), tmp_path, 2.0)
    learn(tmp_path, *RUNS)
    assert [left_in(tmp_path, run) for run in RUNS] == [left_in(whole, run) for run in RUNS]
