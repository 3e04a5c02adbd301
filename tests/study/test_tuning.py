"""Weights are chosen by dev accuracy alone, from grids of equal size."""

import pytest
import yaml
from synthetic import write_run

from kdlib import KdlibError, RunConfig
from study import tuning
from study.profiles import PROFILES, read_profile
from study.tuning import choose, dev_records, grid_scores, smoothed, write_tuned


def write_dev(root, method, field, weight, score, **fields):
    write_run(root, RunConfig(method=method, **{field: weight, "split": "dev", **fields}), score)


@pytest.fixture
def grid(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "PROFILES", tmp_path)
    for weight, at, kd in ((1.0, 0.5, 0.7), (3.0, 0.6, 0.6), (9.0, 0.5, 0.5)):
        write_dev(tmp_path, "at", "weight", weight, at)
        write_dev(tmp_path, "kd", "kd_weight", weight, kd)
    write_dev(tmp_path, "at", "weight", 99.0, 0.99, split="train")
    return tmp_path


def test_the_best_dev_score_of_each_task_wins(grid):
    for weight, miou in ((0.1, 0.2), (0.3, 0.3), (0.9, 0.2)):
        write_dev(grid, "frskd_pixels", "weight", weight, miou, task="segmentation")
    assert choose(grid_scores(dev_records(grid, "scenes"))) == {
        "at": {"weight": 3.0}, "kd": {"kd_weight": 1.0}, "frskd_pixels": {"weight": 0.3},
    }  # fmt: skip
    assert set(grid_scores(dev_records(grid, "scenes", "classification"))) == {"at", "kd"}


@pytest.mark.parametrize(("scores", "chosen"), [
    ((0.2, 0.6, 0.8, 0.8, 0.6, 0.1, 0.0), 1.3),  # between two that are equal
    ((0.2, 0.6, 0.79, 0.7, 0.8, 0.2, 0.0), 1.3),  # one lucky point beside a cliff
    ((0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3), 0.3), ((0.5,) * 7, 0.3),
    ((0.1, 0.2, 0.3, 0.5, 0.3, 0.2, 0.1), 1.7),
])  # fmt: skip
def test_scores_near_the_best_one_say_which_weight_is_on_top(scores, chosen):
    weights = (0.33, 0.58, 1.0, 1.73, 3.0, 5.2, 9.0)
    assert smoothed(dict(zip(weights, scores, strict=True))) == pytest.approx(chosen, rel=0.15)


def test_what_was_chosen_is_written_and_unequal_grids_and_no_records_are_refused(grid):
    text = write_tuned(grid, "scenes").read_text()
    assert yaml.safe_load(text) == {"at": {"weight": 3.0}, "kd": {"kd_weight": 1.0}}
    assert "# Chosen on the dev split from 6 runs" in text and "grid: kd.\n" in text
    with pytest.raises(KdlibError, match="PROFILE=... DATASET=cifar100"):
        write_tuned(grid, "cifar100")
    write_dev(grid, "at", "weight", 27.0, 0.1)
    with pytest.raises(KdlibError, match="differ in size"):
        write_tuned(grid, "scenes")
    write_dev(grid, "at", "weight", 81.0, 7.0)
    with pytest.raises(KdlibError, match=r"record\.json: record\.results\.top1 must be smaller"):
        write_tuned(grid, "scenes")


@pytest.mark.parametrize("profile", ["confirm", "causal", "attentions", "fashion", "mechanism"])
def test_the_study_runs_with_the_weights_that_its_grid_chose(profile):
    chosen = choose(grid_scores(dev_records(PROFILES.parent / "records", "scenes")))
    for method, weights in read_profile(f"study_{profile}")["weights"].items():
        assert chosen[method].items() <= weights.items(), method
