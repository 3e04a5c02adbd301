"""Runs of every kind end with the same bits, however often they were interrupted."""

from contextlib import suppress

import pytest
from processes import killed
from training import check_like, history_of, tiny

from kdlib.runs import earlier, is_finished, run_directory
from kdlib.train import fit

SPARSE = {"dictionary_epochs": 3, "sparsity": 0.2, "init_share": 0.5}
PIXELS = {"task": "segmentation", "student": "scenes_segmenter_tiny"}
OBJECTS = {"task": "detection", "student": "scenes_ssd_tiny", "crop_size": 16, "test_size": 8}
RUNS = {
    "srm": tiny(method="srm+kd", method_options=SPARSE, epochs=4),
    "usual": tiny(),
    "a memory with random draws": tiny(method="crd"),
    "layers of its own, two moments": tiny(method="frskd", optimiser="adam", epochs=2),
    "mixed, turned": tiny(method="frskd", augmentation=["flip", "mixup", "sla"], epochs=2),
    "cut": tiny(method="student", augmentation=["cutmix"], epochs=2),
    "pixels": tiny(method="frskd_pixels", **PIXELS, epochs=2),
    "objects": tiny(method="kd_cls_loc", **OBJECTS, epochs=2),
}


def learn(root, runs, **options):
    for run in [*earlier(runs), *runs]:
        fit([run], root, progress=False, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder in which nothing was interrupted."""
    root = tmp_path_factory.mktemp("whole")
    learn(root, [*RUNS.values()])
    return root


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_stopped_after_every_epoch_a_run_ends_the_same(run, whole, tmp_path):
    def stop(config, row):
        stops.append((config.run_id, row["epoch"]))
        raise KeyboardInterrupt

    stops = []
    while not is_finished(run, tmp_path):
        with suppress(KeyboardInterrupt):
            learn(tmp_path, [run], on_epoch=stop)
    for one in [*earlier([run]), run]:
        check_like(run_directory(one, tmp_path), run_directory(one, whole))
    histories = [history_of(path.parent) for path in tmp_path.glob("*/history.csv")]
    assert len(stops) == len(set(stops)) == sum(len(history) - 1 for history in histories) > 1


def test_killed_at_random_moments_all_runs_end_the_same(whole, tmp_path):
    runs = [*RUNS.values()]
    assert list(killed(lambda: learn(tmp_path, runs), 1.0))
    learn(tmp_path, runs)
    for run in [*earlier(runs), *runs]:
        check_like(run_directory(run, tmp_path), run_directory(run, whole))
