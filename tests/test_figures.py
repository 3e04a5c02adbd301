"""Figures: the tables they are drawn from, what fits on them, and their bytes on disk."""

import hashlib
import json
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from synthetic import write_analyses, write_grid

from kdlib.errors import KdlibError
from kdlib.methods import METHODS
from study.figures import FIGURES, SCOPES, SETTING, draw_all
from study.figures.attention import relevance_by_stage_table, ssim_by_stage, ssim_by_stage_table
from study.figures.comparison import (
    attentions_gain_table,
    method_accuracy,
    method_accuracy_table,
    noise_gauge,
    noise_gauge_table,
    training_curves_table,
)
from study.figures.cost import accuracy_cost_table
from study.figures.style import (
    CONTROL,
    FAMILIES,
    PNG_BYTES,
    figure_provenance,
    look,
    name_of,
    save_figure,
)
from study.records import load_records
from study.statistics import paired_comparison

mpl.use("Agg")
# Those of detectors are tested with them.
CLASSIFIERS = [name for name in FIGURES if SCOPES.get(name, SETTING).task == "classification"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = write_grid(tmp_path_factory.mktemp("one"), seeds=range(4))
    write_analyses(root)
    return load_records(root)


@pytest.fixture(scope="module")
def sweep_root(tmp_path_factory):
    methods = ["student", "at", "dct"]
    return write_grid(tmp_path_factory.mktemp("sweep"), methods, attentions=(1, 2, 3, 4))


@pytest.fixture(scope="module")
def others(tmp_path_factory, sweep_root):
    """Records for the figures that are not of one setting's runs."""
    folder = tmp_path_factory.mktemp("others")
    grid, pairs = folder / "grid", folder / "pairs"
    for weight in (1.0, 4.0, 12.0):
        write_grid(grid, ["dct", "at", "dct+kd"], seeds=[0], split="dev", weight=weight)
    write_grid(grid, ["student"], seeds=[0], split="dev")
    for student in ("scenes_medium", "scenes_small"):
        write_grid(pairs, ["student", "at", "dct"], student=student)
    return {
        "attentions_gain": load_records(sweep_root),
        "architecture_gain": load_records(pairs),
        **dict.fromkeys(("weight_ablation", "weight_sensitivity"), load_records(grid)),
    }


@pytest.fixture(autouse=True)
def costs(tmp_path, monkeypatch):
    """Costs of steps, made up: DCT takes a tenth more time than the floor, AT a twentieth."""
    shares = {"at": 1.05, "dct": 1.1, "release_a": 1.2, "pkt": 1.3}
    methods = {
        name: {"time": {"median": share, "low": share, "high": share}, "memory": {"ratio": share}}
        for name, share in shares.items()
    }
    path = tmp_path / "costs.json"
    plan = {"teacher": "scenes_large", "student": "scenes_medium", "image_size": 64}
    path.write_text(json.dumps({"methods": methods, "plan": plan}))
    monkeypatch.setattr(accuracy_cost_table, "__defaults__", (path,))


def drawing(name, runs, others):
    return FIGURES[name](others.get(name, runs))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_nothing_is_cut_off(name, runs, others):
    figure = drawing(name, runs, others)
    figure.draw_without_rendering()
    drawn, size = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.min.min() >= -0.01 and (drawn.max <= size + 0.01).all()


ROWS = ["method_accuracy", "paired_differences", "noise_gauge", "transform_ablation"]


@pytest.mark.parametrize("name", ROWS)
def test_names_of_rows_do_not_overlap(name, runs, others):
    figure = drawing(name, runs, others)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert len(boxes) > 3
    assert all(lower.y1 <= upper.y0 + 0.5 for lower, upper in pairwise(boxes))


def test_accuracies_come_with_the_t_interval_of_scipy(runs):
    data = method_accuracy_table(runs)
    dct = data[data["label"] == "dct"]
    values = runs.loc[runs["label"] == "dct", "top1"]
    expected = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert dct.iloc[0][["low", "high"]].tolist() == pytest.approx(list(expected))
    assert sorted(dct["top1"]) == pytest.approx(sorted(values)) and set(dct["n"]) == {4}
    assert data.loc[data["label"] == "teacher", "low"].isna().all()


def test_stages_of_students_teacher_and_chance_are_there(runs):
    data = relevance_by_stage_table(runs)
    assert set(data["stage"]) == {1, 2, 3} and np.allclose(data["chance"], 0.2)
    teacher = data[(data["label"] == "teacher") & (data["measure"] == "pointing")]
    assert teacher["mean"].tolist() == [0.5, 0.6, 0.7]
    assert "student" not in set(ssim_by_stage_table(runs)["label"])


def test_the_gauge_holds_the_differences_seed_by_seed(runs):
    data = noise_gauge_table(runs)
    twin = data[data["pair"] == "dct parseval_twin"]
    students = runs[runs["setting"] == runs.loc[runs["method"] == "dct", "setting"].iloc[0]]
    found = paired_comparison(students, "dct", "parseval_twin")
    assert twin["difference"].mean() == pytest.approx(found.difference)
    assert set(data["noise"]) == {found.resolvable} and len(twin) == 4


def test_gains_grow_with_attentions_as_they_were_made_to(sweep_root):
    data = attentions_gain_table(load_records(sweep_root))
    over_at = data[data["baseline"] == "at"]
    assert over_at["attentions"].tolist() == [1, 2, 3, 4]
    expected = [0.05 * (1 + (n - 2) / 3) for n in (1, 2, 3, 4)]
    assert over_at["difference"].tolist() == pytest.approx(expected, abs=0.006)


def test_curves_span_the_seeds(runs):
    data = training_curves_table(runs)
    last = data[(data["label"] == "dct") & (data["epoch"] == 15)].iloc[0]
    values = runs.loc[runs["label"] == "dct", "top1"] * (1 - 0.5 / 15)
    found = last[["low", "mean", "high"]].tolist()
    assert found == pytest.approx([values.min(), values.mean(), values.max()], abs=1e-4)


def test_one_seed_is_drawn_without_an_interval(tmp_path):
    single = load_records(write_grid(tmp_path, ["student", "at", "dct"], seeds=[0]))
    assert method_accuracy_table(single)["low"].isna().all()
    method_accuracy(single)
    ssim_by_stage(single)
    with pytest.raises(KdlibError, match="nothing to show"):
        noise_gauge(single)


def test_several_settings_in_one_panel_are_refused(sweep_root):
    with pytest.raises(KdlibError, match="several settings"):
        method_accuracy(load_records(sweep_root))


def test_saving_twice_gives_the_same_bytes(runs, tmp_path):
    digests = []
    for folder in ("a", "b"):
        drawn = method_accuracy_table(runs)
        paths = save_figure(
            method_accuracy(runs), tmp_path / folder / "f", figure_provenance(runs, drawn)
        )
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
    assert digests[0] == digests[1]
    assert paths[1].stat().st_size <= PNG_BYTES


def test_a_large_picture_is_saved_at_a_lower_resolution(tmp_path):
    noise = mpl.figure.Figure(figsize=(3, 3))
    noise.figimage(np.random.default_rng(0).random((900, 900, 3)), resize=False)
    _, png, _ = save_figure(noise, tmp_path / "noise", {})
    assert png.stat().st_size <= PNG_BYTES and Image.open(png).size[0] < 660


def test_provenance_names_the_records_and_the_drawn_table(runs):
    drawn = pd.DataFrame({"a": [1.0, 2.0]})
    found = figure_provenance(runs, drawn)
    assert set(found["records"]) == set(runs["run_id"]) and found["uncommitted"] == []
    assert found["table"] == ["a", "1", "2"]
    changed = figure_provenance(runs, drawn + 1e-6)
    assert changed["hash"] != found["hash"]


def test_all_figures_are_drawn_from_records_alone(tmp_path):
    methods = ["student", "at", "dct"]
    root = write_grid(tmp_path / "records", methods, seeds=[0, 1], attentions=(1, 2))
    written = draw_all(root, tmp_path / "out")
    names = {path.name for path in written}
    assert {"method_accuracy-scenes-a1.pdf", "attentions_gain-scenes.png"} <= names
    assert all(path.stat().st_size > 0 for path in written)
    beside = json.loads((tmp_path / "out" / "method_accuracy-scenes-a2.json").read_text())
    assert len(beside["records"]) == 3 * 2 + 1


def test_every_method_has_a_look_and_no_two_families_share_one():
    assert len(set(FAMILIES.values()) | {CONTROL}) == len(FAMILIES) + 1
    for method in METHODS:
        assert look(f"{method}+kd").colour == look(method).colour and name_of(method)
    assert look("dct+kd").face == "white" and look("dct+gate").line == "--"
    assert name_of("at_equal_scale+kd [weight=2]") == "AT, balanced + KD [weight=2]"
    options = '[method_options={"band": ["low", 4], "drop_dc": false}, weight=3.9]'
    assert name_of(f"dct_options {options}") == "DCT, band low 4, drop_dc false"
    hot = 'kd_cls [method_options={"temperature": 4.0}, weight=1.2000000000000002]'
    assert name_of(hot) == "KD_cls, temperature 4.0, weight 1.2"
    assert name_of("kd_loc [method_options={}, weight=nan, crop_size=24]") == "KD_loc, crop_size 24"
    assert look(f"dct_options {options}") == look("dct_options")


def test_a_teacher_of_the_students_kind_is_drawn_once(tmp_path):
    same = {"teacher": "scenes_medium", "epochs": 5, "teacher_epochs": 5}
    root = write_grid(tmp_path / "records", ["student", "at", "dct"], **same)
    names = {path.stem for path in draw_all(root, tmp_path / "figures")}
    assert {"method_accuracy-scenes-a2", "paired_differences-scenes-a2"} <= names
