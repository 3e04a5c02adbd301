"""Figures of the study, of simulated records: what tables say, and that nothing is cut off."""

import matplotlib as mpl
import pandas as pd
import pytest
from synthetic import fits, write_analyses, write_run

from study.figures import drawings, effects, figure_named
from study.profiles import expand, teachers
from study.records import load_records

mpl.use("Agg")
SAMPLES, TEACHER = (10, 11, 12), 100
GAINS = {"student": 0.0, "kd": 0.04, "at": 0.02, "dct_options": 0.05}  # of the others: 0.03
GUIDES = {"teacher": 1.0, "relevant": 1.5, "objects": 0.5, "other_image": 0.0}  # of the others: -1
near = pytest.approx


def accuracy(run):
    """Higher by the sample and the gain, of which a guide leaves a share."""
    gain = GAINS.get(run.method, 0.03) * GUIDES.get(run.guide, -1.0)
    return 0.7 + run.sample / 1000 + gain + run.method_options.get("drop_dc", True) / 100


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Of each figure of the study its runs; all but ``verdicts``, which takes all teachers."""
    root, parts = tmp_path_factory.mktemp("study"), ("confirm", "causal", "mechanism", "attentions")
    planned = [run for one in parts for run in expand(f"study_{one}", seeds=SAMPLES)]
    planned = {run.run_id: run for run in planned if run.teacher_seed in (0, TEACHER)}
    for run in planned.values():
        write_run(root, run, accuracy(run))
    for run in teachers(planned.values()):
        write_run(root, run, 0.97)
    write_analyses(root)
    every = drawings(load_records(root))
    found = {name: own for name, end, own in every if end == "study"}
    assert found.pop("verdicts") is not None
    return found


NAMES = ("learning_curves", "controls", "mechanism", "attentions", "fidelity", "objects")


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_of_the_study_cuts_nothing_off(name, runs):
    assert fits(figure_named(name)(runs[name]))
    assert figure_named(name).table(runs[name].iloc[:0]).empty


def test_tables_say_what_the_runs_are(runs):
    found = effects.controls_table(runs["controls"]).set_index(["method", "guide", "baseline"])
    assert found["n"].eq(3).all() and found["low"].to_numpy() == near(found["high"].to_numpy())
    for key, gain in {
        ("at", "teacher", "student"): 0.02, ("at", "other_image", "teacher"): -0.02,
        ("parseval_twin", "relevant", "student"): 0.045, ("kd", "noise", "teacher"): -0.08,
    }.items():  # fmt: skip
        assert found.loc[key, "difference"] == near(gain)
    found = effects.mechanism_table(runs["mechanism"])
    grid = found[found["kind"] == "none"].pivot(
        index="levels", columns="column", values="difference"
    )
    assert grid.shape == (3, 4) and grid.notna().all(axis=None)
    assert grid["root, centred"].tolist() == near([0.05] * 3)
    assert grid["squared, not centred"].tolist() == near([0.04] * 3)
    assert set(found["kind"]) == {"none", "fft_abs", "dct_abs", "l1", "low", "high"}
    found = effects.attentions_table(runs["attentions"])
    assert found["attentions"].value_counts().to_dict() == dict.fromkeys((1, 2, 3, 4), 3)
    assert found["teacher"].tolist() == [0.97] * 12 and found["student"].tolist() == near(
        [0.721] * 12
    )


def test_curves_say_how_many_epochs_and_operations_a_method_saves(runs):
    found = effects.learning_curves_table(runs["learning_curves"])
    last = found[found["epoch"] == 80].set_index("method")
    assert last.loc["at", "mean"] == near(0.741 * (1 - 0.5 / 80), abs=1e-4)
    # Accuracy is its last times 1 - 1 / (2 epoch), and reaches what is 2 of 74 lower by then.
    assert last.loc["at", "saves"] == near(80 - 16, abs=1) and last.loc["kd", "saves"] > 64
    step, answers = (factor * 5678 * 2000 / 1e12 for factor in (3 * 80, 2))
    assert last["tera"][["student", "at"]].tolist() == near([step, step + answers])
    assert found.loc[found["n"].isna(), "epoch"].tolist() == [86]


def test_verdicts_are_drawn_with_their_words():
    ends = {f"reduction{kind}_{end}": 3.0 for kind in ("", "_family") for end in ("low", "high")}
    row = {"reduction": 3.0, **ends, "points": -0.04, "method": "at", "baseline": "student"}
    more = {"budget": "equal compute", "over": "attentions", "verdict": "undecided"}
    figure = figure_named("verdicts").of(pd.DataFrame([{**row, **more}] * 9))
    assert fits(figure)
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert texts == {"undecided, +0.0 points"}
    names = {label.get_text() for label in figure.axes[0].get_yticklabels()}
    assert names == {"AT − student, equal compute, slope over attentions"}
