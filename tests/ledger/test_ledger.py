"""Every published number and figure is in the ledger, judged by the rule, with what runs it."""

import csv
import io
import re
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from paper_order import order_table, pair_table, read_order
from synthetic import write_grid, write_run

from kdlib.data import DATASETS
from kdlib.methods import parse_method
from kdlib.models import MODELS
from kdlib.runs import RunConfig
from study.cli import app, main
from study.ledger.commands import PROFILE, make_command, recipe_of
from study.ledger.page import WHOLE, ledger_page, make_ledger, whole
from study.ledger.rows import (
    AGREES,
    DISAGREES,
    LEAST,
    NOT_RUN,
    PUBLISHED,
    REFERENCE,
    SAME,
    STATUSES,
    UNDECIDED,
    Effect,
    our_methods,
    published_numbers,
    stand_in,
    traps,
)
from study.notebooks import check_parameters, find_notebook, parse_value
from study.profiles import expand
from study.records import load_records
from study.statistics import comparison_of

ROOT = Path(__file__).parents[2]
COMMITTED = [ROOT / "records"]


def published_rows(name="published.csv"):
    with (PUBLISHED / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def ledger():
    return make_ledger(load_records(*COMMITTED, task=None))


@pytest.fixture(scope="module")
def page(ledger):
    return ledger_page(ledger)


def test_every_published_number_has_a_row_with_ours_a_command_or_a_reason(ledger):
    columns = ["paper", "source", "dataset", "teacher", "student", "method", "metric"]
    found = ledger.numbers[[*columns, "printed"]].to_dict("records")
    assert found == [
        {**{c: row[c] for c in columns}, "printed": row["value"]} for row in published_rows()
    ]
    for row in [*ledger.numbers.to_dict("records"), *ledger.figures.to_dict("records")]:
        ours = row.get("ours_n", len(row.get("files", [])))
        assert row["status"] in STATUSES and (ours or row["command"] or row["reason"]), row


def test_every_published_number_and_figure_is_on_the_page(page):
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    rows = [(line[0], one) for line in lines if line for cell in line for one in cell.split(", ")]
    shown = Counter((head, float(one)) for head, one in rows if re.fullmatch(r"[\d.]+", one))
    names = {row["method"]: row["method"].removeprefix("DCT alpha=") for row in published_rows()}
    wanted = Counter(
        (str(names[row["method"]]).lstrip("."), float(row["value"])) for row in published_rows()
    )
    assert not wanted - Counter(
        {(head.lstrip("."), value): n for (head, value), n in shown.items()}
    )
    assert all(f"| {row['id']} " in page for row in published_rows("figures.csv"))
    assert all(f"| {row['id']} " in page for row in published_rows("traps.csv"))


def test_the_long_form_has_a_line_for_each_number(ledger):
    found = pd.read_csv(io.StringIO(whole(ledger.numbers)), dtype=str, keep_default_na=False)
    columns = ["paper", "source", "dataset", "teacher", "student", "method", "metric", "value"]
    assert found[columns].to_dict("records") == [
        {name: row[name] for name in columns} for row in published_rows()
    ]


def test_the_committed_pages_are_what_the_records_give(ledger, page):
    again = "python -m kdlib ledger records"
    assert (ROOT / "LEDGER.md").read_text(encoding="utf-8") == page, again
    assert (ROOT / WHOLE).read_text(encoding="utf-8") == whole(ledger.numbers), again
    assert len(page.encode()) <= 45 * 1024


def test_what_the_page_points_to_exists(page):
    links = set(re.findall(r"\]\(([^)]+)\)", page))
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_command_runs_what_exists(ledger):
    commands = set(ledger.numbers["command"]) | set(ledger.figures["command"]) - {""}
    commands.add(make_command(expand(PROFILE, "cifar100", ["at"])[0]))
    for command in commands - {""}:
        program, *words = shlex.split(command)
        (check_make if program == "make" else check_kdlib)(words)


def check_make(words):
    target, *given = words
    values = dict(word.split("=") for word in given)
    assert target == "reproduce" and set(values) == {"PROFILE", "DATASET", "METHODS"}
    assert values["DATASET"] in DATASETS
    assert expand(values["PROFILE"], values["DATASET"], [values["METHODS"]])


def check_kdlib(words):
    _, bound, _ = app.parse_args(words[2:], exit_on_error=False, print_error=False)
    given = {name: parse_value(value) for name, value in bound.arguments.get("parameter", ())}
    if given:
        check_parameters(find_notebook(bound.arguments["notebook"]), given)
        assert {given["teacher"], given["student"]} <= set(MODELS) and given["dataset"] in DATASETS
        assert all(parse_method(method) for method in given["methods"])


@pytest.mark.parametrize(
    ("published", "ours", "status"),
    [
        (2.0, [0.02, 0.021, 0.022], AGREES),
        (-2.0, [-0.02, -0.021, -0.022], AGREES),
        (-2.0, [0.02, 0.021, 0.022], DISAGREES),
        (2.0, [0.001, -0.001, 0.0005], DISAGREES),
        (2.0, [0.09, -0.05, 0.02], UNDECIDED),
        (2.0, [0.02], UNDECIDED),
        (0.3, [0.02, 0.021, 0.022], UNDECIDED),
        (float("nan"), [0.02, 0.021, 0.022], UNDECIDED),
    ],
)
def test_a_direction_agrees_by_the_rule(published, ours, status):
    found = comparison_of(np.array(ours), "at", "student")
    assert Effect(found, found.p).agreement(published) == status


def row_of(numbers, **wanted):
    chosen = np.logical_and.reduce([numbers[name] == value for name, value in wanted.items()])
    return numbers[chosen].iloc[0]


def test_runs_of_the_published_protocol_are_compared_by_value(tmp_path):
    cell = {"paper": "benchmark", "teacher": "wrn_40_2", "student": "wrn_16_2", "method": "KD"}
    row = row_of(published_numbers(), **cell)
    run = recipe_of(row).run
    assert (run.batch_size, run.epochs, run.kd_weight) == (64, 240, 0.9)
    for seed in (0, 1):
        write_run(tmp_path, replace(run, data_seed=seed, init_seed=seed), row["value"] / 100 + 0.01)
    write_run(tmp_path, replace(run, epochs=10), 0.2)
    numbers = make_ledger(load_records(tmp_path)).numbers
    same = row_of(numbers, **cell)
    assert same["status"] == SAME and same["ours_n"] == 2
    assert same["ours_difference"] == pytest.approx(1)
    assert row_of(numbers, **{**cell, "method": "AT"})["status"] == NOT_RUN


def test_scenes_stand_in_for_the_scene_data_sets_alone(tmp_path):
    write_grid(tmp_path, ["student", "kd", "at", "dct", "release_a", "dct+kd"], range(4))
    numbers = make_ledger(load_records(tmp_path)).numbers
    cell = {"dataset": "MIT67", "student": "ResNet-18"}
    dct = row_of(numbers, **cell, method="DCT")
    assert dct["ours_method"] == "release_a" and dct["status"] == AGREES
    assert [other.method for other in dct["others"]] == ["dct"]
    assert dct["ours_share"] == pytest.approx(dct["ours_gain"] / (80 - 61.5), rel=0.05)
    added = row_of(numbers, **cell, method="DCT+KD")
    assert added["ours_gain_kd"] == pytest.approx(6, abs=0.5) and added["status"] == AGREES
    assert row_of(numbers, **cell, method="teacher")["status"] == REFERENCE
    stands = numbers["status"].str.startswith("stand-in")
    assert set(numbers[stands]["dataset"]) == {"ADE20K", "SUN397", "MIT67"}


@pytest.mark.parametrize(
    ("method", "found", "augmentation"),
    [
        ("FRSKD", "frskd", ("flip", "crop")),
        ("student + CutMix", "student", ("flip", "crop", "cutmix")),
        ("FRSKD + CutMix", "frskd", ("flip", "crop", "cutmix")),
    ],
)
def test_numbers_of_frskd_are_run_by_its_own_profile(method, found, augmentation):
    row = row_of(published_numbers(), paper="frskd", dataset="CIFAR-100", method=method)
    recipe = recipe_of(row)
    assert recipe.command == f"make reproduce PROFILE=frskd DATASET=cifar100 METHODS={found}"
    assert (recipe.run.method, recipe.run.augmentation) == (found, augmentation)
    assert (recipe.run.student, recipe.run.teacher) == ("resnet18_cifar", "none")
    assert (recipe.run.epochs, recipe.run.milestones, recipe.run.weight_decay) == (
        200,
        (100, 150),
        1e-4,
    )


@pytest.mark.parametrize("method", ["student", "FRSKD"])
@pytest.mark.parametrize("size", ["d0", "d1"])
def test_numbers_of_masks_are_run_by_the_profile_of_segmentation(size, method):
    student = f"EfficientDet-{size}"
    recipe = recipe_of(row_of(published_numbers(), paper="frskd", student=student, method=method))
    ours = {"student": "student", "FRSKD": "frskd_pixels"}[method]
    assert recipe.command == f"make reproduce PROFILE=segmentation DATASET=voc METHODS={ours}"
    assert (recipe.run.student, recipe.run.task) == (f"efficientdet_{size}", "segmentation")


@pytest.mark.parametrize(
    ("task", "method", "metric", "student"),
    [
        ("classification", "frskd", "top1", "ResNet-34"),
        ("segmentation", "frskd_pixels", "mIoU", "EfficientDet-d1"),
    ],
)
def test_scenes_stand_in_for_the_data_of_frskd_by_task(tmp_path, task, method, metric, student):
    for name, base in {"student": 0.5, method: 0.55}.items():
        for seed in range(3):
            run = RunConfig(method=name, task=task, data_seed=seed, init_seed=seed)
            write_run(tmp_path, run, base + seed / 100 + seed * len(name) / 10_000)
    numbers = make_ledger(load_records(tmp_path, task=None)).numbers
    own = numbers[numbers["paper"] == "frskd"]
    judged = row_of(own, student=student, method="FRSKD")
    assert (judged["ours_method"], judged["ours_n"]) == (method, 3)
    assert judged["ours_gain"] == pytest.approx(5, abs=0.2)
    # Published by less than the scatter of a paper's own sweep, a gain claims nothing.
    assert judged["status"] == (AGREES if judged["gain"] > LEAST else UNDECIDED)
    assert row_of(own, student=student, method="student")["status"] == REFERENCE
    assert set(own[own["ours_n"] > 0]["metric"]) == {metric}


def test_masks_of_the_published_protocol_are_compared_by_value(tmp_path):
    cell = {"paper": "frskd", "student": "EfficientDet-d0", "method": "FRSKD"}
    row = row_of(published_numbers(), **cell)
    write_run(tmp_path, recipe_of(row).run, row["value"] / 100 - 0.02)
    same = row_of(make_ledger(load_records(tmp_path, task=None)).numbers, **cell)
    assert same["status"] == SAME and same["ours_difference"] == pytest.approx(-2)


def test_a_protocol_that_no_profile_has_is_said_to_be_missing():
    row = row_of(published_numbers(), paper="frskd", dataset="ImageNet", method="FRSKD")
    assert recipe_of(row).reason == "no profile has FRSKD's protocol on ImageNet"


def test_methods_in_another_order_are_named(tmp_path):
    accuracy = {"student": 0.5, "kd": 0.6, "at": 0.8, "dct": 0.7}
    for method, top1 in accuracy.items():
        for seed in range(5):
            run = RunConfig(method=method, data_seed=seed, init_seed=seed)
            write_run(tmp_path, run, top1 + seed / 100 + (seed % 2) / 500 * (method == "at"))
    scenes = stand_in(load_records(tmp_path))
    order = order_table(scenes, "at its word")
    pairs = pair_table(order, scenes)
    swapped = pairs[pairs["swapped"]]
    assert set(zip(swapped["better"], swapped["worse"], strict=True)) == {
        ("KD", "DCT"), ("KD", "AT"), ("DCT", "AT"),
    }  # fmt: skip
    assert "**differs from the paper's**" in read_order(order, pairs)
    assert len(order_table(scenes, "as released")) == 3


def test_traps_concern_whom_they_concern(ledger):
    assert our_methods("DCT alpha=0.3") == our_methods("DCT")
    assert our_methods("CKD+KD") == ("semckd+kd",) and our_methods("CC") == ()
    numbers = ledger.numbers
    concerned = {
        one: numbers[[one in found for found in numbers["traps"]]] for one in traps()["id"]
    }
    assert all(len(rows) for rows in concerned.values())
    assert set(concerned["T1"]["dataset"]) == {"SUN397"}
    assert set(concerned["T2"]["metric"]) == {"mca"}
    assert set(concerned["T5"]["method"]) == {"CRD", "CRD+KD"}
    assert not numbers[numbers["paper"] == "frskd"]["traps"].map(len).any()


def test_the_command_line_writes_and_checks(tmp_path, capsys):
    write_grid(tmp_path / "records", ["student", "at"])
    page = tmp_path / "LEDGER.md"
    command = ["ledger", str(tmp_path / "records"), "--to", str(page)]
    assert main(command) == 0 and main([*command, "--check"]) == 0
    page.write_text(page.read_text().replace("47.35", "47.36", 1))
    with pytest.raises(SystemExit, match="1"):
        main([*command, "--check"])
    assert "47.36" in capsys.readouterr().err
