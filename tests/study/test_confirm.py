"""The study's plan, its verdicts on simulated records, what is told, and a recomputation."""

import json
import shutil
import subprocess
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from shutil import which

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import optimize
from scipy.special import expit
from synthetic import write_grid, write_run

from kdlib import RunConfig
from study import confirm, inference, pages, profiles, records
from study.cli import main
from study.confirm import CLAIMS, PLAN, Study
from study.profiles import expand, teachers

ROOT = Path(__file__).parents[2]
PROFILE, SLOPES = PLAN["profiles"]


# The plan.
def test_the_plan_is_what_the_code_does():
    assert (PLAN["alpha"], PLAN["delta"]) == (inference.ALPHA, inference.DELTA)
    runs = expand(PROFILE)
    assert {one for claim in CLAIMS for one in claim[1:3]} <= {run.method for run in runs}
    assert set(PLAN["left_out"]) <= {run.run_id for run in runs} and len(CLAIMS) == 9


def test_every_claim_was_committed_before_the_first_record():
    if not which("git") or not (ROOT / ".git").exists() or (ROOT / ".git" / "shallow").exists():
        pytest.skip("There is no history of commits here.")
    found, names = records.find_records(ROOT / "records").values(), set()
    names = {run.run_id for run in expand(PROFILE)}
    dates = [one["provenance"]["utc"] for one in found if one["run_id"] in names]
    lines = (ROOT / "study" / "plan.yaml").read_text("utf-8").splitlines()
    for line in (one for one in lines if one.startswith("  - {name")):
        command = ["git", "log", "--reverse", "--format=%cI", f"-S{line}", "--", "study/plan.yaml"]
        log = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        first = datetime.fromisoformat(log.split()[0])  # none: a claim that is not committed
        assert all(first < datetime.fromisoformat(date) for date in dates), line


# A simulated study: effects in log-odds, of which 0.065 is delta.
EFFECTS = {
    "student": 0.0, "at": 0.2, "parseval_twin": 0.2, "release_a": -0.1, "release_a+gate": 0.0,
    "kd": 0.5, "at+kd": 0.5, "release_a+gate+kd": 0.5,
}  # fmt: skip
WORDS = {  # at equal epochs, at equal compute
    "1": ("better", "equivalent"), "1c": ("better", "equivalent"),
    "2": ("equivalent", "equivalent, the same runs"), "3": ("worse", "worse, the same runs"),
    "4": ("better", "better, the same runs"), "5": ("equivalent", "equivalent, the same runs"),
    "6": ("undecided", "undecided, the same runs"), "7": ("worse", "worse, the same runs"),
    "8": ("equivalent", "equivalent, the same runs"),
}  # fmt: skip


def write_study(root, runs):
    """Records with known effects; more epochs are worth what AT is; one method scatters."""
    usual = profiles.read_profile(PROFILE)["config"]["epochs"]
    random = np.random.default_rng(0)
    samples = random.normal(scale=0.04, size=20)
    for run in runs:
        effect = EFFECTS[run.method] + 0.2 * (run.epochs > usual) + samples[run.sample]
        scale = 0.25 if run.method == "at+kd" else 0.01
        share = expit(1.2 + effect + random.normal(scale=scale))
        write_run(root, run, round(share * run.test_size) / run.test_size)
    for run in teachers(runs):
        write_run(root, run, 0.96)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The profile of the plan as it is, a small one of slopes, and all of their runs."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(profiles.PROFILES, folder / "profiles")
    plan = yaml.safe_load((folder / "profiles" / f"{PROFILE}.yaml").read_text())
    plan |= {"methods": [], "seeds": [10, 11, 12, 13], "teachers": [100, 101]}
    plan["sweeps"] = [{"fields": {"attentions": n}, "methods": ["at", "release_a+gate"]}
                      for n in (1, 2, 3, 4)]  # fmt: skip
    (folder / "profiles" / f"{SLOPES}.yaml").write_text(yaml.safe_dump(plan))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiles, "PROFILES", folder / "profiles")
        write_study(folder / "records", expand(PROFILE) + expand(SLOPES))
        yield Study([folder / "records"])


def without(study, folder, *names):
    """The same study without some of its records."""
    shutil.copytree(study.roots[0], folder)
    for name in names:
        shutil.rmtree(folder / name)
    return Study([folder])


def words(study):
    found = study.verdicts.set_index("name")
    return dict(
        zip(found.index, zip(*(found[b] for b in confirm.BUDGETS), strict=True), strict=True)
    )


def test_known_effects_get_their_words_in_both_budgets(study):
    assert words(study) == WORDS and study.complete()
    found = study.verdicts.set_index("name")
    assert set(found["teachers"].dropna()) == {2, 3} and set(found["samples"].dropna()) == {4, 8}
    assert found.loc["3", "log_odds"] == pytest.approx(-0.2, abs=0.01)
    assert found.loc["8", "log_odds"] == pytest.approx(0.0, abs=0.05)


def test_a_slope_is_the_change_from_the_first_value_to_the_last(study):
    runs = study.tables[SLOPES]
    gain = 300 * runs["attentions"] * (runs["method"] == "release_a+gate")
    flat = runs.assign(correct=30_000 + gain)
    found = confirm.contrast(flat, CLAIMS[-1], "attentions").differences
    odds = inference.log_odds(30_000 + 300 * np.arange(1, 5), 50_000)
    np.testing.assert_allclose(found, 3 * np.polyfit(np.arange(1, 5), odds, 1)[0])


def test_there_is_no_word_while_a_run_is_missing(study, tmp_path):
    name = next(run.run_id for run in expand(PROFILE) if run.method == "kd")
    less = without(study, tmp_path / "less", name)
    found = less.verdicts.set_index("name")
    assert set(found["verdict"].drop("8")) == {"open"} and found["points"].drop("8").isna().all()
    assert found.loc["8", "verdict"] == "equivalent"  # of the other profile
    said = pages.part("_found.md", "told", less)
    assert f"183 of 184 runs of `{PROFILE}`" in said and "KD beats" not in said.split("|")[0]


def test_a_run_that_diverged_takes_its_training_set_with_it(study, tmp_path, monkeypatch):
    lost = [run.run_id for run in expand(PROFILE) if run.method == "kd" and run.teacher_seed == 100]
    for count, word, says in ((1, "better", "is left out"), (2, "undecided", "2 training sets")):
        monkeypatch.setitem(PLAN, "left_out", lost[:count])
        found = without(study, tmp_path / str(count), *lost[:count]).verdicts.set_index("name")
        assert found.loc["4", "verdict"] == word and says in found.loc["4", "note"]
        assert found.loc["3", "verdict"] == "worse" and "diverged" not in found.loc["3", "note"]


def test_what_was_found_is_told_in_at_most_eight_sentences_and_nine_rows(study, capsys):
    assert main(["results", str(study.roots[0])]) == 0
    told, said = capsys.readouterr().out, pages.found(study.roots, full=True)
    assert told.strip() in said and "| " not in told
    sentences = [line for line in said.splitlines() if line.startswith("* ")]
    assert len(sentences) <= 8 and "nan" not in said.lower() and "None" not in said
    assert [line.split()[1] for line in said.splitlines() if line.startswith("| ")][1:] == [*WORDS]
    row = study.verdicts.set_index("name").loc["3"]
    size = f"{-row['points']:.2f} points ({row['points_low']:+.2f} to {row['points_high']:+.2f})"
    assert f"* The authors' method falls behind AT by {size}, which is" in said
    assert "at equal compute AT and the student alone are equivalent" in sentences[0]
    assert "does not depend on the number of attentions" in said
    assert "Nobody can say yet whether the authors' method with KD and AT with KD differ (" in said
    assert "No published number was reproduced" in sentences[-1]


def test_every_word_has_its_sentence(study):
    found = study.verdicts
    for word in ("better", "worse", "equivalent", "undecided", "open"):
        told = study.verdicts.assign(verdict=word, points=0.5)
        study.__dict__["verdicts"] = told
        said = pages.part("_found.md", "sentences", study)
        assert len(said.strip().splitlines()) == {"undecided": 2, "open": 1}.get(word, 7)
    study.__dict__["verdicts"] = found


def test_pages_tell_the_study_once_it_is_complete_and_what_is_not_computed(study, tmp_path):
    old = write_grid(tmp_path / "old" / "records", ["student", "at", "dct"])
    shutil.copytree(study.roots[0], tmp_path / "records")
    shutil.copytree(old, tmp_path / "records", dirs_exist_ok=True)
    texts = []
    for folder in (tmp_path / "old", tmp_path):
        pages.update_readme(folder / "README.md", [folder / "records"])
        texts.append([(folder / name).read_text() for name in ("README.md", "RESULTS.md")])
    (before, results), (after, more) = texts
    assert (
        "is being computed" in before and "0 of 184 runs" in before and "beats AT by" not in before
    )
    assert "is being computed" not in after and ", epochs " in more and len(after) < 12 * 1024
    for found in (results, more):  # here all are made, there none
        assert ("make study PARTS=tune" in found) and ("0 of 57 runs" in found)
    hours = sum(one["cost"]["train_seconds"] for one in study.records.values()) / 3600
    assert f"{hours:.1f} hours of one processor core" in more and "| teachers" in more


def test_training_sets_are_no_settings_and_guides_are_variants(tmp_path):
    usual = RunConfig(method="at", sample=3, teacher_sample=5)
    assert records.setting_of(usual) == records.setting_of(RunConfig()) == "294ec1e1"
    for guide in ("teacher", "mean"):
        write_run(tmp_path, replace(usual, guide=guide), 0.7)
    table = records.load_records(tmp_path)
    assert table["label"].tolist() == ["at", "at [guide=mean]"]


# The same from scratch: plain pandas and numpy, with nothing of the study's own code.
def plain_runs(folder, profile):
    """The runs of a profile that has no sweep but of epochs, by what the lines of records say."""
    lines = [json.loads(line)["record"] for path in folder.glob("*.jsonl") for line in path.open()]
    found = lines or [json.loads(path.read_text()) for path in folder.glob("*/record.json")]
    rows = [{**one["config"], "top1": one["results"].get("top1")} for one in found]
    table = pd.DataFrame(rows)
    plan = yaml.safe_load(profile.read_text())
    fields = {"split": "train", "dataset": "scenes", "attentions": 2, "task": "classification"}
    for name in ("train_size", "test_size", "distractors", "learning_rate", "weight_decay"):
        fields[name] = plan["config"][name]
    for name, value in fields.items():
        table = table[table[name] == value]
    keep = table["sample"].isin(plan["seeds"]) & table["method"].isin(plan["methods"])
    keep &= table["teacher_seed"].isin(plan["teachers"]) | (table["teacher"] == "none")
    return table[keep & (table["guide"] == "teacher")], plan


def plain_difference(table, method, baseline):
    """Differences in log-odds, teachers x training sets."""
    count = (table["top1"] * table["test_size"]).round()
    odds = np.log((count + 0.5) / (table["test_size"] - count + 0.5))
    one, other = (
        odds[own].groupby([table["teacher_seed"][own], table["sample"][own]]).first().unstack()
        for own in (table["method"] == method, table["method"] == baseline)
    )
    level = (one.to_numpy().mean() + other.to_numpy().mean()) / 2
    return one.to_numpy() - other.to_numpy(), level


def plain_squares(tables):
    """Mean squares of teachers, of training sets and of the rest; tables (..., T, S)."""
    mean = tables.mean((-2, -1), keepdims=True)
    rows, columns = tables.mean(-1, keepdims=True), tables.mean(-2, keepdims=True)
    many, few = tables.shape[-1], tables.shape[-2]
    sums = (
        many * (rows - mean) ** 2,
        few * (columns - mean) ** 2,
        (tables - rows - columns + mean) ** 2,
    )
    freedom = (few - 1, many - 1, (few - 1) * (many - 1))
    return [s.sum((-2, -1)) / f for s, f in zip(sums, freedom, strict=True)], freedom


def plain_error(tables, least):
    """The variance of the mean and its parts, teacher's and sample's no less than ``least``."""
    (t, s, rest), (a, b, c) = plain_squares(tables)
    pools = (rest, (a * t + c * rest) / (a + c), (b * s + c * rest) / (b + c))
    rest = np.minimum.reduce([*pools, (a * t + b * s + c * rest) / (a + b + c)])
    t, s = np.maximum(t, least[0] * rest), np.maximum(s, least[1] * rest)
    return (t + s - rest) / tables.shape[-1] / tables.shape[-2], (t, s, rest)


def plain_delta(level):
    """The difference that takes the planned share of the errors away."""
    left = lambda d: expit(-level - d / 2) / expit(-level + d / 2)  # noqa: E731
    return optimize.brentq(lambda d: 1 - left(d) - PLAN["delta"], 0, 1)


def plain_verdicts(differences, count):
    """Difference, p of it and p of equivalence times the claims; by a bootstrap of whole tables."""
    ratios = []
    for table, _ in differences:
        (t, s, rest), (_, _, c) = plain_squares(table)
        ratios.append(
            [
                (x / rest * (c - 2) / c - 1) / n
                for x, n in zip((t, s), table.shape[::-1], strict=True)
            ]
        )
    mean, scatter = np.mean(ratios, 0), np.std(ratios, 0) / (len(ratios) - 1) ** 0.5
    shares = np.maximum([mean[0] + scatter[0], mean[1]], 0)
    for table, level in differences:
        few, many = table.shape
        least = 1 + shares[0] * many, 1 + shares[1] * few
        variance, (t, s, rest) = plain_error(table, least)
        random = np.random.default_rng(1)
        drawn = rest**0.5 * random.normal(size=(40_000, few, many))
        drawn += ((t - rest) / many) ** 0.5 * random.normal(size=(40_000, few, 1))
        drawn += ((s - rest) / few) ** 0.5 * random.normal(size=(40_000, 1, many))
        ratio = np.abs(drawn.mean((1, 2)) / plain_error(drawn, least)[0] ** 0.5)
        found, delta = table.mean(), plain_delta(level)
        ends = abs(found) / variance**0.5, (delta - abs(found)) / variance**0.5
        tail = (ratio > ends[1]).mean() / 2
        yield found, count * (ratio > ends[0]).mean(), count * (tail if ends[1] > 0 else 1 - tail)


def check_recomputed(study, profile):
    table, plan = plain_runs(Path(study.roots[0]), profile)
    epochs = plan["config"]["epochs"]
    means = table[table["epochs"] == epochs].groupby("method")["top1"].agg(["size", "mean", "std"])
    ours = study.summary(PROFILE).set_index("label")
    np.testing.assert_allclose(
        means, ours.loc[means.index, ["n", "top1", "top1_std"]].astype(float)
    )
    taught = table["method"] != "student"
    pairs = []
    for claim in (one for one in PLAN["claims"] if "over" not in one):
        plain = table["epochs"] > epochs if "budget" in claim else table["epochs"] == epochs
        own = table[taught | plain]
        copies = [own[own["method"] == "student"].assign(teacher_seed=t) for t in plan["teachers"]]
        both = pd.concat([own[own["method"] != "student"], *copies])
        pairs.append(plain_difference(both, claim["method"], claim["baseline"]))
    rows = study.verdicts.to_dict("records")
    for (found, p, equal), row in zip(plain_verdicts(pairs, len(rows)), rows, strict=False):
        assert found == pytest.approx(row["log_odds"])
        assert min(p, equal, 1) == pytest.approx(row["p_family"], abs=0.005, rel=0.1), row["name"]
        word = "undecided" if p > 0.05 else "better" if found > 0 else "worse"
        word = "equivalent" if equal <= 0.05 else word
        close = any(abs(one - 0.05) < 0.01 for one in (p, equal))  # a bootstrap's scatter decides
        assert close or word == row["verdict"], row["name"]


def test_plain_code_finds_the_same_means_and_verdicts_in_simulated_records(study):
    check_recomputed(study, profiles.PROFILES / f"{PROFILE}.yaml")


def test_plain_code_finds_the_same_means_and_verdicts_in_the_committed_records():
    study = Study([ROOT / "records"])
    if not study.complete():
        pytest.skip("The runs of the study are not all there yet.")
    check_recomputed(study, ROOT / "profiles" / f"{PROFILE}.yaml")
