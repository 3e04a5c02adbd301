"""Records of SRM become the tables of notebook 09; where there are none, they are empty."""

import pytest
import srm_tables
from srm_tables import coding_table, dictionary_table, probe_table
from synthetic import synthetic_record, write_run

from kdlib.methods import run_before
from kdlib.runs import RunConfig, write_record
from study.records import load_records

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
    return RunConfig(**{**run.to_dict(), "method_options": {"sparsity": 0.05, **options}})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("srm")
    for mu, top1 in ((1.5, 0.5), (2.0, 0.6), (3.0, 0.7)):
        write_run(root, srm(mu=mu), top1)
        write_dictionary(root, srm(mu=mu))
    write_run(root, srm(mu=2.0, sparsity=0.1), 0.65)
    for seed in (0, 1):
        write_run(root, srm(seed, targets="local"), 0.4 + seed / 100)
        write_run(root, srm(seed, release=False), 0.45 + seed / 100)
    write_run(root, run_before(srm()), 0.2)
    write_run(root, RunConfig(method="student", split="dev"), 0.3)
    return root


def test_stages_of_dictionaries_their_codings_and_probes_are_rows(root):
    table, codings, (probe,) = dictionary_table(root), coding_table(root), probe_table(root).index
    assert set(table["mu"]) == {1.5, 2, 3} and "codings" not in table
    assert table.groupby("run_id")["stage"].apply(list).tolist() == [[1, 2]] * 3
    assert set(table["explained"]) == {0.5, 0.7} and set(table["sparsity"]) == {0.05}
    assert len(codings) == len(table) * len(CODINGS)
    best = codings.groupby("dictionary")["explained"].max().to_dict()
    assert best == {"SRM": 0.5, "k-means": 0.4}
    row = probe_table(root).loc[probe]
    assert (row["top1"], row["sparsity"], row["targets"]) == (0.2, 0.05, "global-local")


def test_the_grid_has_all_else_at_its_default_and_switches_stand_beside_it(root, tmp_path):
    runs = load_records(root)
    grid, switches = srm_tables.grid_of(runs), srm_tables.switches_of(runs)
    assert grid.loc[3.0, 0.05] == 0.7 and grid.loc[2.0, 0.1] == 0.65
    assert grid.loc[2.0, 0.05] == 0.6 and grid.loc[1.5].isna().sum() == 1
    assert switches.columns.tolist() == ["default", "release no", "targets local"]
    assert switches.loc[1, "targets local"] == pytest.approx(0.41)
    assert switches.loc[0, "default"] == 0.6
    # Without runs of SRM the tables are empty.
    write_run(tmp_path, RunConfig(method="student"), 0.3)
    runs = load_records(tmp_path)
    assert all(make(tmp_path).empty for make in (dictionary_table, coding_table, probe_table))
    assert srm_tables.grid_of(runs).empty and srm_tables.switches_of(runs).empty
