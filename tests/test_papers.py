"""Runs of SRM and of FRSKD end with the same bits, however often they were interrupted."""

from contextlib import suppress
from pathlib import Path

import pytest
from processes import killed
from training import check_like, history_of, tiny

from kdlib.runs import RunConfig, earlier, is_finished, run_directory
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


def check_all_like(run: RunConfig, root: Path, whole: Path) -> None:
    """A run, and all that it needs, ended as where nothing was interrupted."""
    for one in [*earlier([run]), run]:
        check_like(run_directory(one, root), run_directory(one, whole))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder in which nothing was interrupted."""
    root = tmp_path_factory.mktemp("whole")
    learn(root, *RUNS)
    return root


@pytest.mark.parametrize("run", RUNS, ids=["srm", "frskd", "mixed, turned", "cut", "pixels"])
def test_stopped_after_every_epoch_a_run_ends_the_same(run, whole, tmp_path):
    def stop(config: RunConfig, row: dict) -> None:
        stops.append((config.run_id, row["epoch"]))
        raise KeyboardInterrupt

    stops: list[tuple[str, int]] = []
    while not is_finished(run, tmp_path):
        with suppress(KeyboardInterrupt):
            learn(tmp_path, run, on_epoch=stop)
    check_all_like(run, tmp_path, whole)
    histories = [history_of(path.parent) for path in tmp_path.glob("*/history.csv")]
    assert len(stops) == len(set(stops)) == sum(len(history) - 1 for history in histories) > 1


def test_killed_at_random_moments_all_runs_end_the_same(whole, tmp_path):
    assert list(killed(lambda: learn(tmp_path, *RUNS), 1.0))
    learn(tmp_path, *RUNS)
    for run in RUNS:
        check_all_like(run, tmp_path, whole)
