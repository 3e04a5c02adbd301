"""Records of SRM become tables; where there are none, the tables are empty."""

import pandas as pd
import pytest
from synthetic import synthetic_record, write_run

from kdlib.methods import run_before
from kdlib.runs import RunConfig, write_record
from study.records import load_records
from study.results import (
    coding_table,
    dictionary_table,
    grid_of,
    probe_table,
    read_codings,
    shares_of,
    switches_of,
    with_options,
)

CODINGS = [
    {"dictionary": "SRM", "code": "its own", "kept": 2, "explained": 0.5},
    {"dictionary": "k-means", "code": "nearest", "kept": 1, "explained": 0.4},
]
STAGE = {
    "channels": 4, "atoms": 8, "kept": 2, "energy": 2.0, "error": 1.0, "explained": 0.5,
    "dead_atoms": 1, "codings": CODINGS,
}  # fmt: skip


def write_dictionary(root, run):
    record = synthetic_record(run_before(run_before(run)))
    for name in ("results", "ssim", "relevance"):
        record.pop(name)
    stages = [STAGE, {**STAGE, "explained": 0.7}]
    record["dictionary"] = {"stages": stages, "images": 3, "last_epoch": 3, "best_epoch": 2}
    write_record(root / record["run_id"], record)


def srm(seed=0, **options):
    run = RunConfig(method="srm", data_seed=seed, init_seed=seed, split="dev")
    return RunConfig.from_dict({**run.to_dict(), "method_options": {"sparsity": 0.05, **options}})


@pytest.fixture
def root(tmp_path):
    for mu, top1 in ((1.5, 0.5), (2.0, 0.6), (3.0, 0.7)):
        write_run(tmp_path, srm(mu=mu), top1)
        write_dictionary(tmp_path, srm(mu=mu))
    write_run(tmp_path, srm(mu=2.0, sparsity=0.1), 0.65)
    for seed in (0, 1):
        write_run(tmp_path, srm(seed, targets="local"), 0.4 + seed / 100)
        write_run(tmp_path, srm(seed, release=False), 0.45 + seed / 100)
    write_run(tmp_path, run_before(srm()), 0.2)
    write_run(tmp_path, RunConfig(method="student", split="dev"), 0.3)
    return tmp_path


def test_every_stage_of_every_dictionary_is_a_row(root):
    table = dictionary_table(root)
    assert table["mu"].tolist() == sorted(table["mu"].tolist()) or set(table["mu"]) == {1.5, 2, 3}
    assert table.groupby("run_id")["stage"].apply(list).tolist() == [[1, 2]] * 3
    assert set(table["explained"]) == {0.5, 0.7} and set(table["sparsity"]) == {0.05}


def test_every_coding_of_every_stage_is_a_row(root):
    table = coding_table(root)
    assert len(table) == len(dictionary_table(root)) * len(CODINGS)
    assert table.groupby("dictionary")["explained"].max().to_dict() == {"SRM": 0.5, "k-means": 0.4}
    assert "codings" not in dictionary_table(root)


def test_the_reading_tells_codes_from_atoms():
    values = {"its own": (0.6, 0.6), "nearest": (0.55, 0.75), "matching pursuit": (0.7, 0.9)}
    rows = [
        {"dictionary": name, "code": code, "stage": stage, "explained": value - loss}
        for name, loss in (("SRM", 0.0), ("k-means", 0.05))
        for code, pair in values.items()
        if (name, code) not in {("SRM", "nearest"), ("k-means", "its own")}
        for stage, value in enumerate(pair, 1)
    ]
    text = read_codings(shares_of(pd.DataFrame(rows)))
    assert "1 of 2 stages (1)" in text and "at 2 (1, 2)" in text


def test_a_probe_is_told_with_its_options(root):
    (row,) = probe_table(root).to_dict("records")
    assert (row["top1"], row["sparsity"], row["targets"]) == (0.2, 0.05, "global-local")


def test_options_not_given_are_at_their_defaults(root):
    runs = with_options(load_records(root))
    assert set(runs["method"]) == {"srm"} and set(runs["mu"]) == {1.5, 2.0, 3.0}


def test_the_grid_holds_what_else_is_at_its_default(root):
    grid = grid_of(load_records(root))
    assert grid.loc[3.0, 0.05] == 0.7 and grid.loc[2.0, 0.1] == 0.65
    assert grid.loc[2.0, 0.05] == 0.6 and grid.loc[1.5].isna().sum() == 1


def test_switches_stand_beside_the_default_seed_by_seed(root):
    table = switches_of(load_records(root))
    assert table.columns.tolist() == ["default", "release no", "targets local"]
    assert table.loc[1, "targets local"] == pytest.approx(0.41) and table.loc[0, "default"] == 0.6


def test_without_runs_of_srm_the_tables_are_empty(tmp_path):
    write_run(tmp_path, RunConfig(method="student"), 0.3)
    runs = load_records(tmp_path)
    assert dictionary_table(tmp_path).empty and probe_table(tmp_path).empty
    assert coding_table(tmp_path).empty
    assert grid_of(runs).empty and switches_of(runs).empty
