"""Every published number and figure is in the ledger, judged by the rule, with what runs it."""

import re
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from synthetic import scatter, write_run

from kdlib.data import DATASETS
from kdlib.methods import parse_method
from kdlib.models import MODELS
from kdlib.runs import RunConfig
from study.cli import app, main
from study.ledger import page as pages
from study.ledger import rows
from study.ledger.commands import recipe_of
from study.ledger.page import WHOLE, ledger_page, make_ledger, whole
from study.ledger.rows import AGREES, DISAGREES, NOT_RUN, REFERENCE, SAME, UNDECIDED
from study.notebooks import check_parameters, find_notebook, parse_value
from study.profiles import expand
from study.records import load_records

ROOT = Path(__file__).parents[2]
COLUMNS = ["paper", "source", "dataset", "teacher", "student", "method", "metric"]


def published(name="published"):
    return pd.read_csv(rows.PUBLISHED / f"{name}.csv", dtype=str, keep_default_na=False)


def row_of(numbers, **wanted):
    return numbers[(numbers[[*wanted]] == pd.Series(wanted)).all(axis=1)].iloc[0]


# What the committed records give.
@pytest.fixture(scope="module")
def ledger():
    return make_ledger(load_records(ROOT / "records", task=None))


def test_every_published_number_is_given_once_and_has_a_row_with_ours_a_command_or_a_reason(ledger):
    table = published()
    assert list(table.columns) == [*COLUMNS, "value", "note"]
    assert (table[[*COLUMNS, "value"]].drop(columns="teacher") != "").all(axis=None)
    assert table["value"].astype(float).between(0, 100).all()
    assert not table.duplicated(COLUMNS).any()
    papers = {"dct", "srm", "frskd", "classifier-to-detector", "benchmark"}
    assert set(table["paper"]) == papers
    found = ledger.numbers.drop(columns="value").rename(columns={"printed": "value"})
    assert found[[*COLUMNS, "value"]].equals(table[[*COLUMNS, "value"]])
    for row in [*ledger.numbers.to_dict("records"), *ledger.figures.to_dict("records")]:
        ours = row.get("ours_n", len(row.get("files", [])))
        assert row["status"] in rows.STATUSES and (ours or row["command"] or row["reason"]), row
    detectors = ledger.numbers[ledger.numbers["paper"] == "classifier-to-detector"]
    assert {"mca", "mIoU", *detectors["metric"]} == set(rows.METRICS_OF) and len(detectors) == 166


def test_the_committed_pages_are_what_the_records_give_with_every_number_and_figure(ledger):
    page, again = ledger_page(ledger), "python -m kdlib ledger records"
    assert (ROOT / "LEDGER.md").read_text(encoding="utf-8") == page, again
    assert (ROOT / WHOLE).read_text(encoding="utf-8") == whole(ledger.numbers), again
    assert len(page.encode()) <= 45 * 1024
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    cells = [(line[0], one) for line in lines if line for cell in line for one in cell.split(", ")]
    numbers = [(head, one) for head, one in cells if re.fullmatch(r"[\d.]+", one)]
    shown = Counter((head.lstrip("."), float(one)) for head, one in numbers)
    wanted = published()[["method", "value"]].itertuples(index=False)
    short = [(head.removeprefix("DCT alpha=").lstrip("."), float(one)) for head, one in wanted]
    assert not Counter(short) - shown
    for name in ("figures", "traps"):
        assert all(f"| {one} " in page for one in published(name)["id"])
    found = pd.read_csv(ROOT / WHOLE, dtype=str, keep_default_na=False)
    assert found[[*COLUMNS, "value"]].equals(published()[[*COLUMNS, "value"]])


def test_every_command_runs_what_exists(ledger):
    commands = {*ledger.numbers["command"], *ledger.figures["command"]} - {""}
    for program, *words in map(shlex.split, commands):
        if program == "make":
            assert words[0] == "reproduce"
            values = dict(word.split("=") for word in words[1:])
            assert expand(values.pop("PROFILE"), values.pop("DATASET"), [values.pop("METHODS")])
            assert not values
            continue
        _, bound, _ = app.parse_args(words[2:], exit_on_error=False, print_error=False)
        given = {name: parse_value(value) for name, value in bound.arguments.get("parameter", ())}
        if given:
            check_parameters(find_notebook(bound.arguments["notebook"]), given)
            (run,) = (RunConfig(**fields) for fields in given["runs"])
            assert {run.teacher, run.student} <= set(MODELS)
            assert run.dataset in DATASETS and parse_method(run.method)


# Why nothing runs a number, beside what the committed pages say.
SSD = {"student": "SSD300-VGG16", "metric": "mAP"}
BENCHMARK = {"paper": "benchmark", "teacher": "wrn_40_2", "student": "wrn_16_2", "method": "KD"}
FRSKD = {"paper": "frskd", "dataset": "CIFAR-100"}
MASKS = {"paper": "frskd", "student": "EfficientDet-d0", "method": "FRSKD"}
ALONE = {"dataset": "ADE20K", "student": "ResNet-18", "method": "student"}


@pytest.mark.parametrize(("wanted", "changes", "reason"), [
    (ALONE, {"dataset": "Places"}, "data set Places is not offered"),
    (ALONE, {"teacher": "ResNet-34"}, "profile paper has no resnet34 with resnet18 on ade20k"),
    (FRSKD, {"student": "vgg8"}, "profile frskd has no FRSKD of vgg8 on CIFAR-100"),
    ({"method": "loc (pixels)"}, {"student": "vgg8"}, "profile detection has no vgg8 on coco"),
])  # fmt: skip
def test_what_there_is_not_is_named(wanted, changes, reason):
    recipe = recipe_of({**row_of(rows.published_numbers(), **wanted), **changes})
    assert reason in recipe.reason and not recipe.command and not recipe.run


# What stands beside it, as committed records have none: masks, boxes, runs of published protocols.
DETECTOR = RunConfig(task="detection", student="scenes_ssd", teacher="scenes_medium", crop_size=24)
MAP = {"student": 0.40, "kd_cls": 0.42, "loc": 0.38, "kd_loc": 0.45, "kd_cls_loc": 0.50}
BOXES = {"student": "RetinaNet-R50", "method": "KD_cls + loc + KD_loc", "metric": "mAP"}


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Three seeds of the study's other methods, of masks and of boxes with an ablation."""
    root = tmp_path_factory.mktemp("records")
    for run in expand("study_methods"):
        shift = 0.01 * run.init_seed + scatter(run.method, run.init_seed) / 10
        write_run(root, run, {"student": 0.5, "frskd": 0.55}.get(run.method, 0.52) + shift)
    masks, hot = RunConfig(task="segmentation"), {"method_options": {"temperature": 1.0}}
    runs = [(masks, 0.5)]
    runs += [(replace(masks, method="frskd_pixels"), 0.55)]
    runs += [(replace(DETECTOR, method=method), ap) for method, ap in MAP.items()]
    for seed in range(3):
        for run, value in [*runs, (replace(DETECTOR, method="kd_cls", **hot), 0.2)]:
            shift = 0.01 * seed + scatter(run.method, seed) / 10
            write_run(root, replace(run, data_seed=seed, init_seed=seed), value + shift)
    made = ((BENCHMARK, 0.01, (0, 1)), (MASKS, -0.02, (0,)), (BOXES, 0.03, (0,)))
    for cell, shift, seeds in made:
        row = row_of(rows.published_numbers(), **cell)
        for seed in seeds:
            run = replace(recipe_of(row).run, data_seed=seed, init_seed=seed)
            write_run(root, run, row["value"] / 100 + shift)
        write_run(root, replace(run, epochs=10), 0.2)
    return make_ledger(load_records(root, task=None))


@pytest.mark.parametrize(("wanted", "status", "found"), [
    (BENCHMARK, SAME, {"difference": 1.0, "n": 2}),
    ({**BENCHMARK, "method": "AT"}, NOT_RUN, {"n": 0}),
    (MASKS, SAME, {"difference": -2.0, "n": 1}),
    # A gain by less than the scatter of a paper's own sweep claims nothing, as none does.
    ({"student": "ResNet-34", "method": "FRSKD"}, UNDECIDED, {"method": "frskd", "gain": 5.0}),
    ({**FRSKD, "method": "FRSKD"}, UNDECIDED, {"method": "frskd", "n": 3}),
    ({"student": "EfficientDet-d1", "method": "FRSKD"}, AGREES,
     {"method": "frskd_pixels", "gain": 5.0, "n": 3}),
    ({"student": "EfficientDet-d1", "method": "student"}, REFERENCE, {"mean": 51.0}),
    (BOXES, SAME, {"difference": 3.0, "n": 1}),
    ({**SSD, "method": "KD_cls"}, AGREES, {"method": "kd_cls", "n": 3}),
    ({**SSD, "method": "loc (pixels)"}, DISAGREES, {"method": "loc"}),
    ({**SSD, "method": "loc (pixels)", "metric": "AP50"}, AGREES, {}),  # published as a loss
    ({**SSD, "method": "KD_cls", "metric": "AP75"}, AGREES, {"mean": 41.0, "gain": 2.0}),
    ({**SSD, "method": "loc + KD_loc", "metric": "AP50"}, UNDECIDED, {}),
    ({**SSD, "method": "KD_cls + loc + KD_loc", "metric": "APs"}, AGREES, {}),
    ({**SSD, "method": "KD_cls + loc + KD_loc", "metric": "APl"}, NOT_RUN, {}),  # Scenes has none
    ({"teacher": "ResNeXt-101 (crops)"}, rows.NOT_OFFERED, {"n": 0}),
])  # fmt: skip
def test_what_stands_beside_a_number_and_its_status(ours, wanted, status, found):
    row = row_of(ours.numbers, **wanted)
    assert row["status"] == status
    for name, value in found.items():
        wanted = value if isinstance(value, str) else pytest.approx(value, abs=0.2)
        assert row[f"ours_{name}"] == wanted, name


def test_stand_ins_are_for_the_numbers_that_they_are_like(ours):
    numbers = ours.numbers[ours.numbers["status"].str.startswith("stand-in")]
    by_paper = dict(tuple(numbers.groupby("paper")))
    assert {"frskd", "classifier-to-detector"} == set(by_paper)
    boxes = by_paper["classifier-to-detector"]
    assert set(boxes["student"]) == {"SSD300-VGG16", "SSD512-VGG16"}
    assert set(boxes["teacher"]) == {"ResNet-50 (crops)"}
    swept = boxes[boxes["method"].str.contains("lambda")]
    assert swept["method"].tolist() == ["KD_cls lambda .4 T 2"]
    # What a detector alone reaches does not depend on who teaches it in another row.
    assert row_of(ours.numbers, **BOXES)["gain"] == pytest.approx(0.5)


def test_the_command_line_writes_and_checks(ours, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "make_ledger", lambda table: ours)
    write_run(tmp_path / "records", RunConfig(method="student"))
    path = tmp_path / "LEDGER.md"
    command = ["ledger", str(tmp_path / "records"), "--to", str(path)]
    assert main(command) == 0 and main([*command, "--check"]) == 0
    path.write_text(path.read_text().replace("47.35", "47.36", 1))
    with pytest.raises(SystemExit) as failure:
        main([*command, "--check"])
    said = str(failure.value)  # which Python prints, and exits with 1
    assert "47.36" in said and f"kdlib ledger {tmp_path / 'records'} --to {path}" in said
