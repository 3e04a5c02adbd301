"""Profiles expand to runs; tuned weights come from the dev split and reach the right methods."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from kdlib.distill import create_distiller
from kdlib.errors import KdlibError
from kdlib.methods import tuned_field
from study import profiles
from study.profiles import (
    expand,
    lockstep_groups,
    parse_list,
    plain_epochs,
    profile_names,
    read_profile,
    teachers,
    tuned_weights,
)

RECORDS = Path(__file__).parents[1] / "records"
SCENES = ("mit67", "sun397", "ade20k")


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


@pytest.mark.parametrize("profile", ["quick", "decide"])
@pytest.mark.parametrize("dataset", ["scenes", "fashion_scenes"])
def test_what_is_added_to_profiles_changes_no_run_that_is_recorded(profile, dataset):
    recorded = {path.name for path in RECORDS.iterdir()}
    runs = [run for run in expand(profile, dataset) if run.run_id in recorded]
    assert {run.method for run in runs} >= {"student", "kd", "at", "dct", "dct+kd"}
    assert {run.run_id for run in teachers(runs)} <= recorded


@pytest.mark.parametrize("dataset", ["scenes", "fashion_scenes"])
def test_the_sweep_over_attentions_shares_runs_with_quick(dataset):
    swept = {run.run_id for run in expand("attentions", dataset) if run.attentions == 2}
    assert len(swept) == 9
    assert swept <= {run.run_id for run in expand("quick", dataset)}


def test_epochs_can_be_cut_for_students_and_teachers():
    (run,) = expand("paper", "mit67", ["kd"], [0], epochs=1)[:1]
    assert (run.epochs, run.teacher_config().epochs, run.milestones) == (1, 1, (25, 50))


def test_images_can_be_cut_for_students_and_teachers():
    (run,) = expand("standard", "fashion_mnist", ["kd"], [0], images=600)
    assert (run.train_size, run.teacher_config().train_size, run.epochs) == (600, 600, 30)


def test_a_profile_like_another_has_its_runs_with_what_it_gives_itself():
    of_full, of_standard = (
        [run for run in expand(name, seeds=[0]) if run.task == "classification"]
        for name in ("full", "standard")
    )
    assert [run.method for run in of_standard] == [run.method for run in of_full]
    assert {run.train_size for run in of_standard} == {50_000}
    assert len({run.data_seed for run in expand("standard")}) == 5


def published(dataset: str, method: str):
    return expand("paper", dataset, [method], [0])


@pytest.mark.parametrize("dataset", SCENES)
def test_the_published_protocol_of_scenes(dataset):
    runs = published(dataset, "kd")
    pairs = [(run.teacher, run.student) for run in runs]
    assert pairs == [
        ("resnet50", "resnet18"), ("resnet152", "resnet34"), ("resnet50", "mobilenet_v2"),
    ]  # fmt: skip
    for run in [*runs, *teachers(runs)]:
        assert (run.epochs, run.schedule, run.milestones) == (70, "step", (25, 50))
        assert (run.batch_size, run.momentum, run.weight_decay) == (128, 0.9, 1e-4)
        assert (run.image_size, run.augmentation) == (224, ("flip", "random_crop"))
    assert {(run.start, run.learning_rate) for run in runs} == {(None, 0.1)}
    taught = {(run.start, run.learning_rate) for run in teachers(runs)}
    assert taught == {("IMAGENET1K_V1", 0.01)} and len(teachers(runs)) == 2


def test_the_published_protocol_of_cifar100():
    runs = published("cifar100", "kd")
    pairs = {
        (run.teacher.removeprefix("resnet"), run.student.removeprefix("resnet")) for run in runs
    }
    assert pairs == {("56", "20"), ("110", "20"), ("110", "32"), ("32x4", "8x4")}
    for run in [*runs, *teachers(runs)]:
        assert (run.epochs, run.milestones, run.learning_rate) == (240, (150, 180, 210), 0.05)
        assert (run.weight_decay, run.augmentation, run.start) == (5e-4, ("flip", "crop"), None)


@pytest.mark.parametrize(
    ("method", "weight", "ce", "kd"),
    [
        ("kd", 0.0, 0.1, 0.8),
        ("at", 1000.0, 1.0, 0.0),
        ("at+kd", 1000.0, 0.1, 1.0),
        ("release_a+gate", 1.0, 1.0, 0.0),
        ("release_a+gate+kd", 1.0, 0.1, 1.0),
    ],
)
def test_the_published_weights(method, weight, ce, kd):
    for run in published("mit67", method):
        distiller = create_distiller(run)
        found = (distiller.weight, distiller.ce_weight, distiller.kd_weight)
        assert found == (weight, ce, kd)


def test_the_release_gates_the_dct_loss_on_scenes_alone():
    profile = read_profile("paper")
    gated = [method for method in profile["methods"] if "gate" in method]
    assert gated == ["release_a+gate", "release_a+gate+kd"]
    assert not any("gate" in method for method in profile["methods_of"]["cifar100"])
    ungated = [method.replace("+gate", "") for method in profile["methods"]]
    assert profile["methods_of"]["cifar100"] == ungated


def test_weights_of_a_profile_go_before_tuned_ones(tuned, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "{config: {}, methods: [dct, kd], seeds: [0], weights: {kd: {kd_weight: 0.8}}}"
    )
    dct, kd = expand("mine")
    assert (dct.weight, kd.kd_weight) == (7.0, 0.8)


def test_a_sweep_can_be_of_some_data_sets_and_methods_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "PROFILES", tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "{config: {}, methods: [at], seeds: [0], methods_of: {cifar100: [dct]},"
        " sweeps: [{datasets: [cifar100], fields: {epochs: 3}}]}"
    )
    assert [(run.method, run.epochs) for run in expand("mine")] == [("at", 15)]
    assert [(run.method, run.epochs) for run in expand("mine", "cifar100")] == [
        ("dct", 15), ("dct", 3),
    ]  # fmt: skip


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
    runs = [run for run in expand("quick", seeds=[0]) if run.task == "classification"]
    assert len(lockstep_groups([run for run in runs if run.teacher != "none"])) == 1
    assert len(teachers(runs)) == 1


@pytest.mark.parametrize("profile", ["tune", "retune"])
def test_every_method_is_tuned_on_a_grid_of_equal_size(profile):
    runs = expand(profile)
    chosen = [run.method for run in runs if tuned_field(run.method)]
    assert len({chosen.count(method) for method in chosen}) == 1
    assert sum(run.method == "student" for run in runs) == 1
    assert {run.split for run in runs} == {"dev"}
    assert not {run.init_seed for run in runs} & {run.init_seed for run in expand("quick")}


def test_a_method_can_have_a_grid_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "PROFILES", tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "{config: {}, grid: [1.0], grids: {at+kd: [2.0]}, methods: [at, at+kd], seeds: [0]}"
    )
    assert [run.weight for run in expand("mine")] == [1000.0, 2000.0]


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
    (tmp_path / "mine.yaml").write_text("config: {}\nsweeps: [{dataset: scenes}]\n")
    with pytest.raises(KdlibError, match="Unknown option of a sweep of profile 'mine' 'dataset'"):
        read_profile("mine")


def test_an_unknown_method_is_refused_before_anything_runs():
    with pytest.raises(KdlibError, match="Unknown method 'dtc'"):
        expand("quick", methods=["dtc"])


def test_an_empty_list_is_refused():
    assert parse_list("0, 1 2", "seeds") == ["0", "1", "2"]
    with pytest.raises(KdlibError, match="list of seeds is empty"):
        parse_list(" ", "seeds")


def test_a_sweep_with_methods_of_its_own_runs_those_that_are_asked_for():
    asked = expand("full", methods=["student", "at", "dct_options"], seeds=[0])
    assert [run.method for run in asked].count("dct_options") == 5  # and not once without options
    assert all((run.method == "dct_options") == bool(run.method_options) for run in asked)
    assert expand("attentions", methods=["dct"], seeds=[0]) != []


def test_a_profiles_options_are_those_of_the_method_with_and_without_kd():
    runs = expand("full", methods=["famkd", "famkd+kd", "dkd"], seeds=[0])
    assert [run.method_options for run in runs] == [{"middle": 16}, {"middle": 16}, {}]


@pytest.mark.parametrize("profile", ["full", "standard"])
def test_a_plain_student_gets_the_epochs_that_frskd_costs(profile):
    taught = expand(profile, methods=["frskd"], seeds=[0])[0]
    plain = {run.epochs for run in expand(profile, methods=["student"], seeds=[0])}
    assert plain == {taught.epochs, plain_epochs(taught)} and plain_epochs(taught) > taught.epochs


def test_frskd_is_tuned_along_its_published_proportion():
    runs = [run for run in expand("tune") if run.method == "frskd"]
    grid = read_profile("tune")["grids"]["frskd"]
    assert [run.weight for run in runs] == grid  # multiples of 1: of alpha 2 and beta 100 alike
    assert {run.teacher for run in runs} == {"none"} and teachers(runs) == []


def test_frskd_needs_no_teacher_and_is_in_lock_step_with_the_plain_student():
    runs = expand("quick", methods=["frskd", "student"], seeds=[0])
    assert teachers(runs) == [] and len(lockstep_groups(runs)) == 1
    mixed = expand("full", methods=["frskd"], seeds=[0])
    assert len(lockstep_groups(mixed)) == len({run.augmentation for run in mixed})


@pytest.mark.parametrize("student", ["resnet18_cifar", "wrn_16_2"])
def test_the_published_protocol_of_frskd(student):
    (run,) = (
        run
        for run in expand("frskd", "cifar100", ["frskd"], [0])
        if run.student == student and run.augmentation == ("flip", "crop")
    )
    assert (run.epochs, run.milestones, run.batch_size) == (200, (100, 150), 128)
    assert (run.learning_rate, run.weight_decay, run.momentum) == (0.1, 1e-4, 0.9)
    assert (run.weight, run.method_options, run.teacher) == (1.0, {}, "none")


def test_the_published_protocol_of_segmentation():
    runs = expand("segmentation", "voc", seeds=[0])
    assert {(run.student, run.method) for run in runs} == {
        (f"efficientdet_d{n}", method) for n in (0, 1) for method in ("student", "frskd_pixels")
    }
    for run in runs:
        assert (run.epochs, run.milestones, run.learning_rate) == (60, (40,), 0.01)
        assert (run.weight_decay, run.gradient_clip, run.image_size) == (5e-4, 2.0, 512)
    stacks = {run.student: run.method_options["repeat"] for run in runs if run.method != "student"}
    assert stacks == {"efficientdet_d0": 2, "efficientdet_d1": 3}


def test_segmentation_has_a_plain_network_of_equal_epochs_and_one_of_equal_compute():
    runs = expand("segmentation", seeds=[0])
    assert {run.task for run in runs} == {"segmentation"}
    short, taught, longer = sorted(runs, key=lambda run: (run.epochs, run.method == "frskd_pixels"))
    assert [run.method for run in (short, taught, longer)] == ["student", "frskd_pixels", "student"]
    assert longer.epochs > taught.epochs == short.epochs


def test_the_weight_for_masks_is_chosen_as_it_is_used_but_on_the_dev_split():
    used = {as_used(run) for run in expand("segmentation", seeds=[0])}
    grid = [run for run in expand("tune_segmentation") if run.method != "student"]
    assert {run.split for run in grid} == {"dev"} and {as_used(run) for run in grid} <= used
    assert len({run.weight for run in grid}) == len(grid) == len(read_profile("tune")["grid"])


def as_used(run):
    changed = {"split": "train", "weight": None, "data_seed": 0, "init_seed": 0}
    return replace(run, **changed).run_id


def detectors(runs):
    return [run for run in runs if run.task == "detection"]


def test_quick_has_each_method_of_detectors_once_and_full_all_their_runs():
    assert {run.run_id for run in detectors(expand("quick"))} == {
        run.run_id for run in expand("detection", seeds=[0])
    }
    swept = {run.run_id for name in ("detection", "detection_ablations") for run in expand(name)}
    assert {run.run_id for run in detectors(expand("full"))} == swept


def test_methods_that_are_asked_for_bring_the_plain_network_of_their_task_alone():
    assert {run.task for run in expand("quick", methods=["student", "kd"])} == {"classification"}
    assert {run.method for run in expand("quick", methods=["kd_cls"])} == {"kd_cls"}
    both = expand("quick", methods=["student", "kd_loc"])
    assert {(run.task, run.method) for run in both} == {
        ("classification", "student"), ("detection", "student"), ("detection", "kd_loc"),
    }  # fmt: skip


def test_profiles_of_other_tasks_are_left_out_on_data_sets_that_they_do_not_name():
    assert not detectors(expand("quick", "fashion_mnist"))


def test_the_same_fields_stand_in_the_search_for_weights_as_in_the_comparison():
    searched, compared = (read_profile(f"{name}detection")["config"] for name in ("tune_", ""))
    assert searched == {**compared, "split": "dev"}


def test_both_terms_together_have_the_weights_that_were_chosen_for_each():
    together = read_profile("detection")["options"]["kd_cls_loc"]
    alone = {name: tuned_weights("scenes", f"kd_{name}")["weight"] for name in ("cls", "loc")}
    assert together == pytest.approx(alone)


def test_the_published_protocol_of_detectors_has_four_of_torchvision_s():
    runs = expand("detection", "coco", seeds=[0])
    assert {run.student for run in runs} == {
        "ssd300_vgg16", "retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn",
        "fasterrcnn_mobilenet_v3_large_fpn",
    }  # fmt: skip
    assert all(run.crop_size == 112 for run in runs if run.method != "student")


def test_an_unknown_key_of_also_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("study.profiles.PROFILES", tmp_path)
    (tmp_path / "odd.yaml").write_text("also: [{profil: detection, datasets: [scenes]}]")
    with pytest.raises(KdlibError, match="Did you mean 'profile'"):
        read_profile("odd")
