"""Profiles expand to runs; tuned weights come from the dev split and reach the right methods."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from synthetic import write_run

from kdlib import KdlibError, RunConfig, create_distiller
from kdlib.methods import tuned_field
from study import parts, profiles, progress
from study.profiles import expand, read_profile, teachers, tuned_weights
from study.records import publish

RECORDS = Path(__file__).parents[1] / "records"
TUNED = {"dct": {"weight": 7.0}, "dct+kd": {"weight": 5.0}, "kd": {"kd_weight": 2.0}}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Write a profile, in a folder with tuned weights that differ from all defaults."""
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "scenes.yaml").write_text(yaml.safe_dump(TUNED))
    monkeypatch.setattr(profiles, "PROFILES", tmp_path)

    def write(text="", **keys):
        whole = {"config": {}, "methods": ["at"], "seeds": [0], **keys}
        (tmp_path / "mine.yaml").write_text(text or yaml.safe_dump(whole))
        return "mine"

    return write


def ids(runs):
    return {run.run_id for run in runs}


def found(runs, *fields):
    return [tuple(getattr(run, name) for name in fields) for run in runs]


@pytest.mark.parametrize("name", profiles.profile_names())
def test_every_profile_expands_and_says_what_it_is(name):
    runs = expand(name)
    assert len(ids(runs)) == len(runs) > 0
    assert read_profile(name)["about"].strip().endswith(".")
    assert {run.train_size for run in expand(name, images=600)} == {600}


def test_what_is_run_by_default_are_runs_of_the_study_and_one_teacher():
    """Their weights too: a change of those of study_confirm belongs into quick, and back."""
    runs = expand("quick")
    assert len(runs) == 27 and ids(runs) < ids(expand("study_confirm"))
    assert found(teachers(runs), "init_seed") == [(100,)]
    assert {run.epochs for run in runs if run.method == "student"} == {80, 86}


def test_real_images_are_one_training_set_for_all_seeds_and_teachers():
    runs = expand("quick", "imagefolder", ["student", "kd"])
    assert set(found(runs, "sample", "teacher_sample", "train_size")) == {(0, 0, None)}
    assert {(run.init_seed, run.teacher_seed) for run in runs if run.method == "kd"} == {
        (seed, 100) for seed in (10, 11, 12)
    }


def test_the_parts_of_the_study_are_of_one_task():
    """What is tuned, claimed and explored trains alike; other fields are what a part is about."""
    task = read_profile("study_confirm")["config"]
    for name in ("causal", "mechanism", "methods", "fashion"):
        assert task.items() <= read_profile(f"study_{name}")["config"].items()


# Golden learning rates hold the schedules of the paper.
PHOTOGRAPHS = {
    "batch_size": 128, "image_size": 224, "augmentation": ("flip", "random_crop"), "start": None,
}  # fmt: skip
PAIRS = {"resnet50 resnet18", "resnet152 resnet34", "resnet50 mobilenet_v2"}
CIFAR = {"augmentation": ("flip", "black_crop"), "start": None}
SELF_TAUGHT = {
    "epochs": 200, "milestones": (100, 150), "batch_size": 128, "learning_rate": 0.1,
    "weight_decay": 1e-4, "momentum": 0.9, "weight": 1.0, "method_options": {},
}  # fmt: skip
MASKS = {
    "epochs": 60, "milestones": (40,), "learning_rate": 0.01, "weight_decay": 5e-4,
    "gradient_clip": 2.0, "image_size": 512,
}  # fmt: skip
EFFICIENT = {"none efficientdet_d0", "none efficientdet_d1"}


@pytest.mark.parametrize(("profile", "dataset", "method", "networks", "fields"), [
    *(("paper", dataset, "kd", PAIRS, PHOTOGRAPHS) for dataset in ("mit67", "sun397", "ade20k")),
    ("paper", "cifar100", "kd", {
        "resnet56 resnet20", "resnet110 resnet20", "resnet110 resnet32", "resnet32x4 resnet8x4",
    }, CIFAR),
    ("frskd", "cifar100", "frskd", {"none resnet18_cifar", "none wrn_16_2"}, SELF_TAUGHT),
    ("segmentation", "voc", "student", EFFICIENT, MASKS),
    ("segmentation", "voc", "frskd_pixels", EFFICIENT, MASKS),
    ("detection", "coco", "kd_cls", {
        "resnet50 ssd300_vgg16", "resnet50 retinanet_resnet50_fpn",
        "resnet50 fasterrcnn_resnet50_fpn", "resnet50 fasterrcnn_mobilenet_v3_large_fpn",
    }, {"crop_size": 112}),
])  # fmt: skip
def test_the_published_protocols(profile, dataset, method, networks, fields):
    runs = expand(profile, dataset, [method], [0])
    assert {f"{run.teacher} {run.student}" for run in runs} == networks
    for run in runs:
        assert {name: getattr(run, name) for name in fields} == fields
    taught = set(found(teachers(runs), "start", "learning_rate", "epochs"))
    assert dataset != "mit67" or taught == {("IMAGENET1K_V1", 0.01, 70)}
    repeats = [run.method_options.get("repeat") for run in runs]
    assert method != "frskd_pixels" or repeats == [2, 3]


def test_the_published_weights():
    for method, weights in {
        "kd": (0.0, 0.1, 0.8), "at": (1000.0, 1.0, 0.0), "at+kd": (1000.0, 0.1, 1.0),
        "release_a+gate": (1.0, 1.0, 0.0), "release_a+gate+kd": (1.0, 0.1, 1.0),
    }.items():  # fmt: skip
        made = create_distiller(expand("paper", "mit67", [method], [0])[0])
        assert (made.weight, made.ce_weight, made.kd_weight) == weights


def test_every_method_of_a_seed_sees_the_same_batches_and_one_teacher():
    runs = expand("quick", seeds=[0])
    assert len(profiles.lockstep_groups([run for run in runs if run.teacher != "none"])) == 1
    assert len(teachers(runs)) == 1
    untaught = expand("quick", methods=["frskd", "student"], seeds=[0])
    assert teachers(untaught) == [] and len(profiles.lockstep_groups(untaught)) == 2  # 86 epochs
    mixed = expand("standard", methods=["frskd"], seeds=[0])
    assert len(profiles.lockstep_groups(mixed)) == len({run.augmentation for run in mixed})


@pytest.mark.parametrize("profile", ["study_tune", "tune_segmentation", "tune_detection"])
def test_every_method_is_tuned_on_a_grid_of_equal_size_as_it_is_used_but_on_the_dev_split(profile):
    def as_used(runs):
        changed = {"split": "train", "weight": None, "data_seed": 0, "init_seed": 0}
        return ids(replace(run, **changed) for run in runs)

    runs, grid = expand(profile), read_profile(profile)["grid"]
    chosen = [run.method for run in runs if tuned_field(run.method)]
    seeds = len(read_profile(profile)["seeds"])
    assert {chosen.count(method) for method in chosen} == {seeds * len(grid)}
    assert sum(run.method == "student" for run in runs) == seeds
    assert {run.split for run in runs} == {"dev"}
    task = profile.partition("tune_")[2]
    assert not {run.init_seed for run in runs} & {r.init_seed for r in expand(task or "quick")}
    if task:
        taught = [run for run in runs if run.method != "student"]
        assert as_used(taught) <= as_used(expand(task, seeds=[0]))


def test_both_terms_together_start_from_the_weights_that_were_chosen():
    chosen = {name: tuned_weights("scenes", f"kd_{name}") for name in ("cls", "loc")}
    alone = {name: found["weight"] for name, found in chosen.items() if found}  # not superseded
    for name in ("detection", "standard", "detection_standard"):
        options = read_profile(name)["options"]["kd_cls_loc"]
        assert options.keys() == chosen.keys() and {**options, **alone} == pytest.approx(options)


@pytest.mark.parametrize(("profile", "dataset", "method"), [
    ("standard", "fashion_mnist", "frskd"),
    ("standard", "scenes", "frskd"), ("standard", "cifar100", "frskd"),
    ("segmentation", "scenes", "frskd_pixels"),
])  # fmt: skip
def test_a_plain_student_gets_the_epochs_that_frskd_costs(profile, dataset, method):
    taught = expand(profile, dataset, [method], [0])[0]
    plain = expand(profile, dataset, ["student"], [0])
    equal = [run.epochs for run in plain if run.augmentation == taught.augmentation]
    assert equal == [taught.epochs, profiles.plain_epochs(taught)] and equal[1] > taught.epochs


def test_a_tuned_weight_reaches_its_method_its_gated_form_and_its_twin(mine):
    chosen = {name: {"weight": 7.0} for name in ("dct", "dct+gate", "parseval_twin")}
    chosen |= {name: {"weight": 5.0} for name in ("dct+kd", "dct+gate+kd")}
    chosen |= {"kd": {"kd_weight": 2.0}, "at": {}}
    for run in expand(mine(methods=[*chosen])):
        assert tuned_weights("scenes", run.method) == chosen[run.method]
        assert chosen[run.method].items() <= vars(run).items()


def test_weights_grids_methods_and_sweeps_of_a_profile_s_own_replace_the_usual_ones(mine):
    dct, kd = expand(mine(methods=["dct", "kd"], weights={"kd": {"kd_weight": 0.8}}))
    assert (dct.weight, kd.kd_weight) == (7.0, 0.8)
    # A grid multiplies the default or a weight that is given, and not a list.
    weights = {"dct": {"weight": 5.0}, "at+kd": {"weight": [3.0]}}
    runs = expand(mine(methods=["at", "kd", "dct", "at+kd"], grid=[0.5, 2.0], weights=weights))
    chosen = [run.kd_weight if run.method == "kd" else run.weight for run in runs]
    assert chosen == [500.0, 2000.0, 0.5, 2.0, 2.5, 10.0, 3.0]
    sweeps = [{"datasets": ["cifar100"], "fields": {"epochs": 3}}]
    mine(methods_of={"cifar100": ["dct"]}, datasets={"cifar100": {"epochs": 5}}, sweeps=sweeps)
    assert found(expand("mine"), "method", "epochs") == [("at", 15)]
    assert found(expand("mine", "cifar100"), "method", "epochs") == [("dct", 5), ("dct", 3)]


def test_what_is_asked_for_is_run_with_the_plain_network_of_its_task_and_no_other():
    assert found(expand("quick", methods=["dct"], seeds=[7]), "data_seed", "sample") == [(7, 7)]
    run = expand("paper", "mit67", ["kd"], [0], epochs=1, images=600)[0]
    assert (run.epochs, run.teacher_config().epochs, run.milestones) == (1, 1, (25, 50))
    assert run.train_size == run.teacher_config().train_size == 600
    asked = expand("standard", methods=["student", "at", "dct_options"], seeds=[0])
    assert [run.method for run in asked].count("dct_options") == 5  # and not once without options
    assert all((run.method == "dct_options") == bool(run.method_options) for run in asked)
    runs = expand("quick", methods=["reviewkd", "reviewkd+kd", "dkd"], seeds=[0])
    assert [run.method_options for run in runs] == [{"middle": 16}, {"middle": 16}, {}]
    for methods, wanted in {
        "student kd": "classification student, classification kd",
        "kd_cls": "detection kd_cls",
        "student kd_loc": "classification student, detection student, detection kd_loc",
    }.items():
        asked = expand("standard", methods=methods.split())
        assert {f"{run.task} {run.method}" for run in asked} == set(wanted.split(", "))


@pytest.mark.parametrize(("text", "words"), [
    ("config: {}\nmethod: [dct]", "Unknown option of profile 'mine' 'method'.*'methods'"),
    ("config: {}\nsweeps: [{dataset: scenes}]", "a sweep of profile 'mine' 'dataset'"),
    ("seeds: 3", "'seeds' of profile 'mine' is 3; it should be a valid list"),
    ("sweeps: [{seeds: a}]", "'seeds' of a sweep of profile 'mine' is 'a'"),
    ("config: {}\nseeds: [0]", "profile 'mine' has no 'methods'; give it"),
    ("a: [", "profile 'mine' is not YAML"),
    ("- at", "profile 'mine' is .*a mapping"),
])  # fmt: skip
def test_what_is_wrong_with_a_profile_is_told(mine, text, words):
    with pytest.raises(KdlibError, match=words):
        expand(mine(text))


def test_unknown_profiles_methods_and_empty_lists_are_refused_before_anything_runs():
    with pytest.raises(KdlibError, match="Did you mean 'quick'"):
        read_profile("quik")
    with pytest.raises(KdlibError, match="Unknown method 'dtc'"):
        expand("quick", methods=["dtc"])
    assert profiles.parse_list("0, 1 2", "seeds") == ["0", "1", "2"]
    with pytest.raises(KdlibError, match="list of seeds is empty"):
        profiles.parse_list(" ", "seeds")


def test_teachers_are_crossed_with_training_sets(mine):
    name = mine(methods=["student", "at"], seeds=[3, 4], teachers=[7, 8])
    runs = expand(name)
    crossed = [(sample, teacher) for sample in (3, 4) for teacher in (7, 8)]
    assert found([r for r in runs if r.method == "at"], "sample", "teacher_seed") == crossed
    assert found([r for r in runs if r.method == "student"], "sample", "init_seed") == [
        (3, 3),
        (4, 4),
    ]
    assert found(teachers(runs), "sample", "init_seed") == [(7, 7), (8, 8)]


def test_the_study_s_parts_lack_what_is_neither_committed_nor_made(mine, tmp_path, capsys):
    for part in ("zetas", "confirm", "tune"):
        (tmp_path / f"study_{part}.yaml").write_text(
            f"{{config: {{epochs: {len(part)}}}, methods: [student, at], seeds: [0]}}"
        )
    assert parts.parts() == ["tune", "confirm", "zetas"]  # as they are made; others last
    runs, committed = tmp_path / "runs", tmp_path / "records"
    committed.mkdir()
    for run in expand("study_tune"):
        write_run(runs, run)
    publish(runs, committed, profiles.finished("study_tune", runs))
    shutil.rmtree(runs)
    assert parts.tell("", "", runs, committed) == ["confirm", "zetas"]
    told = capsys.readouterr().err
    assert f"tune: 2 of 2 runs are in {committed}, 0 in {runs}; nothing to do\n" in told
    assert parts.tell("tune,zetas", "tune", runs, committed) == ["tune", "zetas"]
    sealed = next(committed.glob("*.jsonl"))
    sealed.write_text("".join(sealed.read_text().splitlines(keepends=True)[1:]))
    assert parts.tell("tune", "", runs, committed) == ["tune"]
    assert "1 of 2 runs" in capsys.readouterr().err
    with pytest.raises(KdlibError, match="Unknown part of the study 'tone'. Did you mean 'tune'"):
        parts.tell("", "tone", runs, committed)


def test_the_time_left_is_that_of_like_runs_at_the_speed_so_far():
    at, long, kd = (
        RunConfig(method=name, epochs=n) for name, n in (("at", 1), ("at", 3), ("kd", 1))
    )
    assert progress.expected([at, long], []) == [-24000, -72000]  # in proportion; no seconds
    took = [
        {"config": run.to_dict(), "cost": {"train_seconds": s}} for run, s in ((long, 60), (kd, 10))
    ]
    costs = progress.expected([at, kd, replace(kd, teacher="resnet18")], took)
    assert costs == pytest.approx([20, 10, 15])  # of another kind: as all that are known
    assert progress.line(costs, [True, False, False], 60) == (
        "1 of 3 runs are finished; about 1 min left."
    )
    assert [progress.spoken(s) for s in (20, 5400, 7200)] == ["1 min", "90 min", "2.0 h"]
