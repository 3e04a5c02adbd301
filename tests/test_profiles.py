"""Profiles expand to runs; tuned weights come from the dev split and reach the right methods."""

import pytest
import yaml

from kdlib import profiles
from kdlib.errors import KdlibError
from kdlib.profiles import (
    expand,
    lockstep_groups,
    parse_list,
    profile_names,
    read_profile,
    teachers,
    tuned_weights,
)


@pytest.fixture
def tuned(tmp_path, monkeypatch):
    """A profiles folder with tuned weights that differ from all defaults."""
    (tmp_path / "tuned").mkdir()
    weights = {"dct": {"weight": 7.0}, "dct+kd": {"weight": 5.0}, "kd": {"kd_weight": 2.0}}
    (tmp_path / "tuned" / "scenes.yaml").write_text(yaml.safe_dump(weights))
    monkeypatch.setattr(profiles, "PROFILES", tmp_path)


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_expands(name):
    runs = expand(name)
    assert len({run.run_id for run in runs}) == len(runs) > 0


def test_quick_is_the_central_comparison_with_three_seeds():
    runs = expand("quick")
    methods = {run.method for run in runs}
    central = {"student", "kd", "at", "dct", "release_a", "at+kd", "dct+kd", "release_a+kd"}
    assert central | {"parseval_twin", "at_equal_scale", "at+gate", "dct+gate"} <= methods
    assert {run.init_seed for run in runs} == {0, 1, 2}


def test_methods_and_seeds_can_be_given():
    runs = expand("quick", methods=["dct"], seeds=[7])
    assert [(run.method, run.data_seed, run.init_seed) for run in runs] == [("dct", 7, 7)]


def test_a_grid_can_lie_around_what_was_chosen_on_another_data_set(tmp_path, monkeypatch):
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "scenes.yaml").write_text("at: {weight: 50.0}\n")
    (tmp_path / "near.yaml").write_text(
        "{config: {}, around: scenes, grid: [0.5, 2.0], methods: [at, kd], seeds: [0]}"
    )
    monkeypatch.setattr(profiles, "PROFILES", tmp_path)
    runs = expand("near", "fashion_scenes")
    assert [run.weight for run in runs if run.method == "at"] == [25.0, 100.0]
    assert [run.kd_weight for run in runs if run.method == "kd"] == [0.5, 2.0]


def test_every_method_of_a_seed_sees_the_same_batches_and_one_teacher():
    runs = expand("quick", seeds=[0])
    assert len(lockstep_groups([run for run in runs if run.teacher != "none"])) == 1
    assert len(teachers(runs)) == 1


@pytest.mark.parametrize("profile", ["tune", "retune"])
def test_every_method_is_tuned_on_a_grid_of_equal_size(profile):
    runs = expand(profile)
    sizes = {run.method: sum(r.method == run.method for r in runs) for run in runs}
    assert sizes.pop("student") == 1
    assert len(set(sizes.values())) == 1
    assert {run.split for run in runs} == {"dev"}
    assert not {run.init_seed for run in runs} & {run.init_seed for run in expand("quick")}


@pytest.mark.parametrize(
    ("method", "chosen"),
    [
        ("dct", {"weight": 7.0}),
        ("dct+gate", {"weight": 7.0}),
        ("parseval_twin", {"weight": 7.0}),
        ("dct+kd", {"weight": 5.0}),
        ("dct+gate+kd", {"weight": 5.0}),
        ("kd", {"kd_weight": 2.0}),
        ("at", {}),
    ],
)
def test_a_tuned_weight_reaches_its_method_its_gated_form_and_its_twin(tuned, method, chosen):
    assert tuned_weights("scenes", method) == chosen


def test_an_unknown_profile_lists_the_valid_ones():
    with pytest.raises(KdlibError, match="Did you mean 'quick'"):
        read_profile("quik")


def test_an_unknown_key_of_a_profile_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "PROFILES", tmp_path)
    (tmp_path / "mine.yaml").write_text("config: {}\nmethod: [dct]\n")
    with pytest.raises(KdlibError, match="Unknown option of profile 'mine' 'method'"):
        read_profile("mine")


def test_an_unknown_method_is_refused_before_anything_runs():
    with pytest.raises(KdlibError, match="Unknown method 'dtc'"):
        expand("quick", methods=["dtc"])


def test_an_empty_list_is_refused():
    assert parse_list("0, 1 2", "seeds") == ["0", "1", "2"]
    with pytest.raises(KdlibError, match="list of seeds is empty"):
        parse_list(" ", "seeds")
