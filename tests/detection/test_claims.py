"""Records of detectors: their schema, their table, verdicts on the claims, what is printed."""

import json
from dataclasses import replace

import pytest
from synthetic import edit_record, scatter, synthetic_record, write_run

from kdlib.errors import KdlibError
from kdlib.runs import RunConfig
from study.records import (
    load_records,
    recorded_tasks,
    student_settings,
    summary_table,
    teacher_runs,
    validate_record,
)
from study.results import print_results
from study.statistics import (
    CLAIMS_CLAIMS,
    CLAIMS_FAMILIES,
    ERROR_CLAIMS,
    METHODS,
    claims_verdicts,
    main_runs,
    smallest_effect,
    with_spreads,
)

SETTING = RunConfig(task="detection", student="scenes_ssd", teacher="scenes_medium", crop_size=24)
MAP = {"student": 0.40, "kd_cls": 0.42, "loc": 0.44, "kd_loc": 0.45, "kd_cls_loc": 0.50}
DAP = {"student": (0.10, 0.10), "kd_cls": (0.05, 0.12), "kd_loc": (0.11, 0.04)}


def write_detectors(root, **fields):
    """Three seeds of each method, with errors of classification and localisation of their own."""
    for seed in range(3):
        for method, ap in MAP.items():
            run = replace(SETTING, method=method, data_seed=seed, init_seed=seed, **fields)
            directory = write_run(root, run, ap + 0.01 * seed + scatter(method, seed) / 10)
            _set_errors(directory, method, seed)
    write_run(root, replace(SETTING, method="kd_cls", **fields).teacher_config(), 0.9)
    return root


def _set_errors(directory, method, seed):
    results = json.loads((directory / "record.json").read_text())["results"]
    cls, loc = DAP.get(method, (0.1, 0.1))
    results["errors"]["cls"]["dap"] = cls + scatter(method, seed) / 10
    results["errors"]["loc"]["dap"] = loc + scatter(f"{method} loc", seed) / 10
    edit_record(directory, results=results)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_detectors(tmp_path_factory.mktemp("detectors"))


@pytest.fixture(scope="module")
def table(root):
    return load_records(root, task="detection")


def test_detectors_and_classifiers_of_crops_are_tasks_of_their_own(root, table):
    assert recorded_tasks(root) == ["detection", "crops"]
    assert set(table["task"]) == {"detection"} and len(table) == 15
    assert load_records(root, task="crops")["top1"].tolist() == [0.9]
    with pytest.raises(KdlibError, match="no record"):
        load_records(root)


def test_a_row_has_what_detectors_are_measured_by(table):
    row = table[(table["label"] == "loc") & (table["init_seed"] == 0)].iloc[0]
    assert (row["map"], row["ap50"], row["ap95"]) == pytest.approx((0.44, 0.62, 0.26), abs=1e-3)
    assert (row["map50"], row["map75"]) == (row["ap50"], row["ap75"])
    assert row["dap_miss"] == pytest.approx(0.056, abs=1e-3)
    assert row[["map_large", "ssim", "top1"]].isna().all()


def test_size_of_crops_and_teacher_make_no_setting_of_their_own(root, table):
    """The detector alone has no crops, so none of their size either."""
    assert table["setting"].nunique() == 1 and set(table["crop_size"]) == {24, 32}
    everything = load_records(root, task=None)
    (setting,) = student_settings(everything)
    assert teacher_runs(everything, setting)["task"].tolist() == ["crops"]


def test_classifiers_of_other_crops_are_another_setting(tmp_path):
    for size in (16, 32):
        write_run(tmp_path, replace(SETTING, method="kd_cls", crop_size=size).teacher_config(), 0.9)
    assert load_records(tmp_path, task="crops")["setting"].nunique() == 2


def test_the_summary_has_map_and_its_scatter(table):
    summary = summary_table(table).set_index("label")
    assert list(summary.index) == list(MAP)
    assert summary.loc["student", "map"] == pytest.approx(0.41, abs=1e-3)
    assert summary.loc["loc", "map75_std"] == pytest.approx(0.01, abs=1e-3)


def test_every_claim_is_judged_in_its_family(table):
    helps, errors = (claims_verdicts(table, claims) for claims in CLAIMS_FAMILIES.values())
    assert helps["claim"].tolist() == [claim.text for claim in CLAIMS_CLAIMS]
    assert set(helps["verdict"]) == {"holds"}
    assert errors["claim"].tolist() == [claim.text for claim in ERROR_CLAIMS]
    found = errors.set_index("claim")["verdict"].tolist()
    assert found[:4] == ["holds", "holds", "does not hold", "does not hold"]


def test_fewer_errors_are_what_the_other_has_more_of(table):
    errors = claims_verdicts(table, ERROR_CLAIMS).set_index("claim")
    saved = errors.loc["KD_loc leaves fewer localisation errors"]
    assert (saved["method"], saved["baseline"]) == ("student", "kd_loc")
    assert saved["difference"] == pytest.approx(0.06, abs=1e-3)
    assert smallest_effect("dap_loc") == smallest_effect("map") == 0.005


def test_gains_at_two_ious_are_compared_by_their_difference(table):
    changed = table.copy()
    loc = changed["method"] == "kd_loc"
    changed.loc[loc, "map75"] += 0.05 + 0.001 * changed.loc[loc, "init_seed"]
    spreads = with_spreads(changed)
    assert (spreads["ap50_less_ap75"] == -spreads["ap75_less_ap50"]).all()
    row = claims_verdicts(changed, ERROR_CLAIMS).iloc[-1]
    assert row["difference"] == pytest.approx(0.051, abs=1e-4) and row["verdict"] == "holds"


def test_ablations_do_not_stand_for_their_method(tmp_path):
    write_detectors(tmp_path)
    for seed in range(3):
        seeds = {"data_seed": seed, "init_seed": seed}
        options = {"method": "kd_cls", "method_options": {"temperature": 1.0}}
        write_run(tmp_path, replace(SETTING, **options, **seeds), 0.2)
        write_run(tmp_path, replace(SETTING, method="kd_loc", crop_size=8, **seeds), 0.2)
        write_run(tmp_path, replace(SETTING, method="loc", weight=9.0, **seeds), 0.2)
    table = load_records(tmp_path, task="detection")
    assert any("temperature" in label for label in table["label"])
    main = main_runs(table)
    assert set(main["label"]) == {"student", *METHODS} and len(main) == 15
    assert main["map"].min() > 0.2
    assert set(claims_verdicts(table)["verdict"]) == {"holds"}


def test_without_detectors_nothing_is_judged(table):
    alone = table[table["method"] == "student"]
    assert claims_verdicts(alone).empty and claims_verdicts(table.iloc[:0]).empty


def test_results_print_detectors_and_a_line_of_their_teachers(root, capsys):
    print_results([root])
    text = capsys.readouterr().out
    assert "mAP75 %" in text and "| kd_cls_loc | 3 " in text.replace("  ", " ")
    assert all(f"{name}. **scenes" in text for name in CLAIMS_FAMILIES)
    assert "student − kd_cls, dAP of classification errors" in text
    assert "cut out and made 24 x 24 pixels, names 90.0 % of them rightly, n 1." in text
    assert "top-1 %" not in text and "nan" not in text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"map": 1.5}, "results.map: 1.5"),
        ({"map75": None}, "results.map75"),
        ({"ap_by_iou": [0.5] * 9}, "results.ap_by_iou"),
        ({"errors": {"cls": {"count": 1, "dap": 0.1}}}, "results.errors: 'loc' is a required"),
        ({"top1": 0.5}, "results"),
        ({"map_small": -1}, "results.map_small: -1"),
    ],
)
def test_a_damaged_record_of_a_detector_is_named(changes, says, tmp_path):
    record = synthetic_record(replace(SETTING, method="loc"), 0.4)
    path = tmp_path / record["run_id"] / "record.json"
    validate_record(record, path)
    record["results"] |= changes
    with pytest.raises(KdlibError, match=says):
        validate_record(record, path)


def test_a_classifier_of_crops_has_the_results_of_classifiers(tmp_path):
    record = synthetic_record(replace(SETTING, method="kd_cls").teacher_config(), 0.9)
    path = tmp_path / record["run_id"] / "record.json"
    validate_record(record, path)
    del record["results"]["top5"]
    with pytest.raises(KdlibError, match="'top5' is a required property"):
        validate_record(record, path)
