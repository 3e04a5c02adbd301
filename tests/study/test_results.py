"""Tables and sentences say what the records say, and the opposite when that is turned round."""

import json
import re

import pandas as pd
import pytest
from synthetic import edit_record, write_detectors, write_grid, write_run

from kdlib import KdlibError, RunConfig
from study import results
from study.figures.attention import relevance_by_stage, ssim_by_stage, ssim_by_stage_table
from study.pages import update_readme
from study.profiles import expand
from study.records import load_records
from study.statistics import comparison_of, judge, seeds_to_resolve


@pytest.mark.parametrize(("differences", "metric", "says"), [
    ((0.02, 0.021, 0.022), "top1", ["helps: holds", "above 0 and the corrected p"]),
    ((-0.02, -0.021, -0.022), "top1", ["the reverse is what was seen"]),
    ((0.001, 0.0, -0.001), "top1", ["wholly below 0.50 points"]),
    ((0.03, -0.02, 0.01), "top1", ["undecided at n=3", "room for no gain and for one that"]),
    ((0.1,), "top1", ["one seed decides nothing"]),
    ((), "top1", ["no seed in common"]),
    ((0.019, 0.02, 0.021), "top1", ["(DCT + KD) − AT is +2.00 points (95 % interval +1.75 to"]),
    ((0.19, 0.2, 0.21), "ssim", ["is +0.200 (95 % interval"]),
    ((0.01, 0.02, 0.03), "energy_share", ["is +2.00 points (95 % interval"]),
])  # fmt: skip
def test_every_verdict_has_its_numbers_and_its_reason(differences, metric, says):
    one = comparison_of(pd.Series(differences), "dct+kd", "at", metric)
    text = results.read_comparison(judge({"It helps": one}).iloc[0])
    assert all(words in text for words in says) and "nan" not in text
    one = comparison_of(pd.Series([0.02, 0.03, 0.045]), "dct", "at")
    said = results.read_comparison(judge(dict.fromkeys("abcde", one)).iloc[0])
    assert "undecided at n=3" in said and "above 0, but the corrected p is not below" in said


def test_a_measure_that_is_not_finite_is_missing_in_every_table_and_page(tmp_path):
    root = write_grid(tmp_path / "records", ["student", "kd", "at", "dct"])
    for directory in [*root.glob("*-dct-s*"), *root.glob("*-at-s1-*")]:
        record = json.loads((directory / "record.json").read_text())
        for measures in (record["relevance"]["student"].values(), [record["ssim"]]):
            for stages in measures:
                stages[-1] = None
        edit_record(directory, **record)
    counts = ssim_by_stage_table(table := load_records(root)).set_index(["label", "stage"])["n"]
    assert (counts["at", 2], counts["at", 3]) == (3, 2) and ("dct", 3) not in counts
    assert table.set_index("label").loc["dct", "ssim"].isna().all()
    update_readme(tmp_path / "README.md", [root])
    assert not any(re.search(r"\bnan\b", page.read_text()) for page in tmp_path.glob("*.md"))
    assert ssim_by_stage(table) and relevance_by_stage(table)


@pytest.mark.parametrize(("differences", "says"), [
    ((0.004, -0.004, 0.001), "DCT and Parseval twin"), ((0.4, -0.4, 0.1), "more than 200 seeds"),
    ((0.01,), "two seeds"),
])  # fmt: skip
def test_the_noise_says_how_many_seeds_it_takes(differences, says):
    noise = comparison_of(pd.Series(differences), "dct", "parseval_twin")
    text, needed = results.read_noise(noise), seeds_to_resolve(0.005, noise.std)
    assert says in text and (not needed or f"it would take {needed} seeds" in text)
    assert noise.n < 2 or results.amount(noise.resolvable, "top1", sign="") in text


def test_results_are_printed_for_a_reader_a_table_a_task(tmp_path, capsys):
    pixels = {"task": "segmentation", "student": "scenes_segmenter"}
    for seed in range(3):
        seeds = {"data_seed": seed, "init_seed": seed}
        for method, value in (("student", 0.5), ("frskd_pixels", 0.6)):
            write_run(tmp_path, RunConfig(method=method, **pixels, **seeds), value + seed / 1000)
    write_grid(tmp_path, ["student", "dct", "at"])
    write_detectors(tmp_path, RunConfig(task="detection", student="scenes_ssd", crop_size=24))
    results.print_results([tmp_path])
    text = capsys.readouterr().out
    images, masks = text.split("scenes_segmenter, segmentation", 1)
    assert "top-1 %" in images and "dct − at" in images and "mIoU" not in images
    assert "mIoU %" in masks and "top-1" not in masks.split("claim")[0] and "nan" not in text
    assert "frskd_pixels − student" in masks and "+10.00" in masks
    assert "mAP75 %" in text and "top-1 %" in text.split("Classifiers that teach")[1]


def test_the_best_of_each_task_are_few_rows_with_the_plain_student(tmp_path, capsys):
    write_grid(tmp_path)
    write_grid(tmp_path, ["student", "at"], attentions=(3,))
    results.print_results([tmp_path], full=False)
    text = capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == results.SHOWN_BEST + 1 and rows[0] == "teacher" and rows[-1] == "student"
    assert rows[1:3] == ["dct+kd", "release_a+kd"] and "attentions 3" not in text
    assert "9 of 14 rows" in text and "2 settings in all" in text and "--full" in text


def test_a_profile_has_its_runs_whichever_seeds_were_asked_for(tmp_path):
    runs = expand("quick", methods=["student", "dct"], seeds=[7])
    for run in [*runs, runs[1].teacher_config(), RunConfig(method="dct", epochs=2)]:
        write_run(tmp_path, run)
    table = load_records(tmp_path)
    assert len(table) == 4 and len(results.of_profile(table, "quick")) == 3
    with pytest.raises(KdlibError, match="No run of profile 'paper'"):
        results.print_results([tmp_path], "paper")


def test_the_first_difference_is_shown_from_both_sides(tmp_path):
    page = tmp_path / "page"
    page.write_text("a\nb")
    results.check_texts([(page, "a\nb")], "make it")
    for made, says in (("a\nc", "line 2:\n  file:    b\n  records: c"), ("a\nb\nc", "(no line)")):
        with pytest.raises(KdlibError, match=re.escape(says) + "(.|\n)*make it"):
            results.check_texts([(page, made)], "make it")
