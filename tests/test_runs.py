"""A run's name is a function of its configuration; a record is whole or absent."""

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from grids import configs_of

from kdlib.errors import KdlibError
from kdlib.models import MODELS
from kdlib.runs import ADDED_LATER, RunConfig, earlier, read_record, write_record
from kdlib.tasks import TASKS
from study.records import load_records
from study.sealed import entries_of, seal

RECORDS = Path(__file__).parents[1] / "records"
DCT = RunConfig(method="dct")


def test_every_change_of_a_run_gives_it_another_directory_and_no_change_the_same():
    new = {
        "start": "DEFAULT", "teacher_start": "DEFAULT", "teacher_learning_rate": 0.01,
        "task": "segmentation", "gradient_clip": 2.0, "crop_size": 24, "sample": 1,
        "teacher_sample": 1, "teacher_train_size": 9, "guide": "mean",
    }  # fmt: skip
    changes = {"weight": 2.0, "epochs": 3, "init_seed": 1, **new}.items()
    names = {replace(DCT, **{name: value}).run_id for name, value in changes}
    assert len(names | {DCT.run_id}) == 1 + len(changes) and set(new) == set(ADDED_LATER)
    assert RunConfig(method="dct").run_id == DCT.run_id
    plain = RunConfig(method="student")  # does not depend on the teacher
    changed = replace(plain, teacher_epochs=99, temperature=2.0, teacher_start="IMAGENET1K_V1")
    assert changed.run_id == plain.run_id and plain.canonical().teacher == "none"


def test_all_methods_and_seeds_share_one_teacher_with_a_start_and_a_rate_of_its_own():
    first = RunConfig(method="dct", data_seed=1, init_seed=1).teacher_config()
    second = RunConfig(method="at+kd", data_seed=2, init_seed=2, weight=3.0).teacher_config()
    assert first == second and first.student == "scenes_large"
    assert earlier([DCT, replace(DCT, method="kd")]) == [DCT.teacher_config()]
    assert earlier([replace(DCT, teacher_weights="file")]) == []
    own = {"teacher_start": "IMAGENET1K_V1", "teacher_learning_rate": 0.01, "split": "dev"}
    teacher = replace(DCT, **own).teacher_config()
    assert (teacher.start, teacher.learning_rate) == ("IMAGENET1K_V1", 0.01)
    assert teacher.split == "dev"  # it never saw the images on which anything is chosen
    assert DCT.teacher_config().learning_rate == 0.1
    mixed = replace(DCT, augmentation=("mixup",)), replace(DCT, augmentation=())
    assert mixed[0].teacher_config() == mixed[1].teacher_config()  # that of whole images
    assert RunConfig(method="frskd").canonical().teacher == "none"


def test_each_method_is_a_run_with_the_fields_of_its_own():
    plain, weighted = configs_of(["at", "dct"], [{}, {"weight": 2.0}], {"epochs": 3})
    assert plain == RunConfig(method="at", epochs=3)
    assert weighted == RunConfig(method="dct", weight=2.0, epochs=3)
    assert configs_of(["at"], [], {"epochs": 3}) == [plain]
    for methods, options, says in (
        ([], [], "empty"),
        (["at"], [{}, {}], "1 methods but 2"),
        (["at"], [{"wait": 1}], "Did you mean 'weight'"),
        ("at", [], "methods is 'at'"),
        (["at"], {}, "options is {}"),
    ):
        with pytest.raises(KdlibError, match=says):
            configs_of(methods, options, {})


@pytest.mark.parametrize(("fields", "says"), [
    ({"epoch": 3}, "Unknown run parameter 'epoch'. Did you mean 'epochs'.*batch_size"),
    ({"precision": "float8"}, "Unknown precision 'float8'. Did you mean 'float32'.*bfloat16"),
    ({"optimiser": "adamw"}, "Did you mean 'adam'.*adam, sgd"), ({"momentum": 1}, "be less than 1"),
    ({"epochs": 0}, "epochs is 0; it should be greater than or equal to 1"),
    ({"epochs": 2.0}, "epochs is 2.0; it should be a valid integer"),
    ({"data_seed": 2**63}, "data_seed is .*less than or equal to"),
    ({"learning_rate": 0}, "learning_rate is 0; it should be greater than 0"),
    ({"kd_weight": -1.0}, "kd_weight is -1.0; it should be greater than or equal to 0"),
    ({"weight": float("nan")}, "weight is nan; it should be a finite number"),
    ({"milestones": [3, 0]}, "milestones.1 is 0"),
    ({"augmentation": "flip"}, "augmentation is 'flip'; it should be a valid list"),
    ({"teacher": "../other"}, "teacher is '../other'; a name has 1 to 80"),
    ({"method_options": {"a": float("inf")}}, "method_options is .*give numbers, texts"),
    ({"method_options": {1: 2}}, "method_options"),
])  # fmt: skip
def test_a_bad_field_is_refused_with_its_name_its_value_and_what_is_valid(fields, says):
    with pytest.raises(KdlibError, match=says):
        RunConfig(**fields)


def test_config_survives_json_and_numbers_stay_as_they_are_given():
    config = RunConfig(method="dct", milestones=[3, 5], weight=2)
    assert RunConfig(**json.loads(json.dumps(config.to_dict()))) == config
    assert repr(config.weight) == "2" and config.milestones == (3, 5)
    assert get_args(get_type_hints(RunConfig)["task"]) == tuple(TASKS)


def test_a_record_is_whole_or_an_error_that_names_the_file(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_record(tmp_path, {"schema_version": 1, "top1": float("nan")})
    assert list(tmp_path.iterdir()) == []
    for text in ("", "{", "[]", '{"schema_version": 99}', "[" * 10_000):
        (tmp_path / "record.json").write_text(text)
        with pytest.raises(KdlibError, match=r"record\.json.*elete"):
            read_record(tmp_path / "record.json")


def test_a_network_that_is_revised_makes_other_runs_of_those_that_have_it_alone(monkeypatch):
    runs = [RunConfig(method="kd"), RunConfig(student="resnet8"), RunConfig(student="scenes_large")]
    before = [run.config_hash for run in runs]
    revised = MODELS["scenes_large"]._replace(revision=3)
    monkeypatch.setitem(MODELS, "scenes_large", revised)
    after = [replace(run) for run in runs]  # the teacher of the first, not of a plain run
    assert [run.revision for run in after] == [3, 1, 3]
    pairs = zip(after, before, strict=True)
    assert [run.config_hash == digest for run, digest in pairs] == [False, True, False]
    assert [run.hash_at(1) for run in after] == before


def test_committed_records_keep_their_names_whatever_fields_and_names_are_added(tmp_path):
    entries, defaults = [entry for _, entry in entries_of(RECORDS)], RunConfig().to_dict()
    named = set()
    assert len(entries) > 100
    for record in (entry["record"] for entry in entries):
        config = RunConfig(**record["config"])
        hashes = [config.hash_at(n + 1) for n in range(config.revision)]
        assert record["config_hash"] in hashes and record["run_id"][-10:] in str(hashes)
        assert record["config"].items() <= config.to_file().items()
        named.add((record["config"]["student"], config.student))
    assert ("scenes_teacher", "scenes_large") in named, "the first names of networks are names too"
    counted = load_records(RECORDS, task=None)["run_id"].tolist()
    old = min(
        (e for e in entries if e["run_id"] in counted), key=lambda e: len(e["record"]["config"])
    )
    seal(tmp_path, [(old, [])])  # from before fields were added
    (row,) = load_records(tmp_path, task=None).to_dict("records")
    later = set(ADDED_LATER) - set(old["record"]["config"])
    assert later and all(str(row[name]) == str(defaults[name]) for name in later)
