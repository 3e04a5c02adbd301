"""A run's name is a function of its configuration; a record is whole or absent."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kdlib.errors import KdlibError
from kdlib.files import write_atomic, write_text
from kdlib.runs import ADDED_LATER, RunConfig, configs_of, read_record, write_record
from study.records import load_records

RECORDS = Path(__file__).parents[1] / "records"


def test_the_same_config_gives_the_same_directory():
    assert RunConfig(method="dct").run_id == RunConfig(method="dct").run_id


@pytest.mark.parametrize("change", [{"weight": 2.0}, {"epochs": 3}, {"init_seed": 1}])
def test_any_change_gives_another_directory(change):
    config = RunConfig(method="dct")
    assert replace(config, **change).run_id != config.run_id


def test_a_plain_student_does_not_depend_on_the_teacher():
    config = RunConfig(method="student")
    assert replace(config, teacher_epochs=99, temperature=2.0).run_id == config.run_id
    assert config.canonical().teacher == "none"


def test_all_methods_and_seeds_share_one_teacher():
    first = RunConfig(method="dct", data_seed=1, init_seed=1).teacher_config()
    second = RunConfig(method="at+kd", data_seed=2, init_seed=2, weight=3.0).teacher_config()
    assert first == second and first.student == "scenes_large"


def test_a_dev_student_learns_from_a_teacher_that_never_saw_the_dev_images():
    assert RunConfig(method="kd", split="dev").teacher_config().split == "dev"


def test_each_method_is_a_run_with_the_fields_of_its_own():
    plain, weighted = configs_of(["at", "dct"], [{}, {"weight": 2.0}], {"epochs": 3})
    assert (plain.method, plain.weight, plain.epochs) == ("at", None, 3)
    assert (weighted.method, weighted.weight, weighted.epochs) == ("dct", 2.0, 3)
    assert configs_of(["at"], [], {"epochs": 3}) == [plain]


@pytest.mark.parametrize(
    ("methods", "options", "says"),
    [([], [], "empty"), (["at"], [{}, {}], "1 methods but 2"), (["at"], [{"wait": 1}], "'weight'")],
)
def test_methods_and_options_that_do_not_fit_are_refused(methods, options, says):
    with pytest.raises(KdlibError, match=says):
        configs_of(methods, options, {})


def test_an_unknown_parameter_names_the_nearest_and_all_valid_ones():
    with pytest.raises(KdlibError, match="Did you mean 'epochs'.*batch_size"):
        RunConfig.from_dict({"epoch": 3})


@pytest.mark.parametrize(
    "bad",
    [{"precision": "float8"}, {"schedule": "cosine"}, {"epochs": 0}, {"teacher_learning_rate": 0}],
)
def test_a_bad_value_is_refused_with_its_name(bad):
    with pytest.raises(KdlibError, match=next(iter(bad))):
        RunConfig(**bad)


def test_config_survives_json():
    config = RunConfig(method="dct", milestones=(3, 5))
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 99}'])
def test_a_damaged_record_is_an_error_that_names_the_file(tmp_path, text):
    write_text(tmp_path / "record.json", text)
    with pytest.raises(KdlibError, match=r"record\.json"):
        read_record(tmp_path / "record.json")


def test_a_record_with_a_number_that_is_none_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_record(tmp_path, {"schema_version": 1, "top1": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_committed_records_keep_their_names_whatever_fields_are_added():
    paths = sorted(RECORDS.glob("*/record.json"))
    assert len(paths) > 100
    for path in paths:
        record = read_record(path)
        config = RunConfig.from_dict(record["config"])
        assert config.config_hash == record["config_hash"], path
        assert config.run_id == record["run_id"] == path.parent.name


def test_a_field_added_later_counts_as_soon_as_it_is_set():
    config = RunConfig(method="kd")
    changes = {
        "start": "DEFAULT", "teacher_start": "DEFAULT", "teacher_learning_rate": 0.01,
        "task": "segmentation", "gradient_clip": 2.0, "crop_size": 24,
    }  # fmt: skip
    assert set(changes) == set(ADDED_LATER)
    names = {replace(config, **{name: value}).run_id for name, value in changes.items()}
    assert len(names | {config.run_id}) == 1 + len(changes)


def test_a_teacher_has_a_start_and_a_learning_rate_of_its_own():
    config = RunConfig(method="kd", teacher_start="IMAGENET1K_V1", teacher_learning_rate=0.01)
    teacher = config.teacher_config()
    assert (teacher.start, teacher.learning_rate) == ("IMAGENET1K_V1", 0.01)
    assert (config.start, config.learning_rate) == (None, 0.1)
    plain = replace(config, method="student").canonical()
    assert plain.run_id == RunConfig(method="student").run_id
    assert RunConfig(method="kd").teacher_config().learning_rate == 0.1


def test_records_from_before_a_field_was_added_get_its_default():
    table = load_records(RECORDS)
    assert set(ADDED_LATER) <= set(table.columns)
    defaults = RunConfig().to_dict()
    for name in ADDED_LATER:
        assert (table[name].map(str) == str(defaults[name])).all()


def test_a_network_of_scenes_may_have_its_first_name_and_runs_keep_theirs():
    path = RECORDS / "scenes-a2-scenes_student-dct-s0-9ac233421e" / "record.json"
    written, read = json.loads(path.read_text())["config"], read_record(path)["config"]
    assert (written["teacher"], written["student"]) == ("scenes_teacher", "scenes_student")
    assert (read["teacher"], read["student"]) == ("scenes_large", "scenes_medium")
    config = RunConfig.from_dict(written)
    assert config == RunConfig.from_dict(read) and config.student == "scenes_medium"
    assert config.run_id == path.parent.name and written.items() <= config.to_file().items()
