"""Tables and sentences say what the records say, and the opposite when that is turned round."""

import json
import re

import pytest
from synthetic import edit_record, write_detectors, write_grid, write_run

from kdlib import KdlibError, RunConfig
from study import results
from study.figures.attention import relevance_by_stage, ssim_by_stage, ssim_by_stage_table
from study.pages import update_readme
from study.profiles import expand, read_profile, teachers
from study.records import load_records


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
    assert "top-1 %" in images and "| dct " in images and "mIoU" not in images
    assert "mIoU %" in masks and "top-1" not in masks.split("compared")[0] and "nan" not in text
    assert "frskd_pixels − student" in masks and "+10.00" in masks
    assert "mAP75 %" in text and "top-1 %" in text.split("Classifiers that teach")[1]


def test_a_profile_has_its_runs_whichever_seeds_were_asked_for(tmp_path):
    runs = expand("quick", methods=["student", "dct"], seeds=[7])
    for run in [*runs, runs[1].teacher_config(), RunConfig(method="dct", epochs=2)]:
        write_run(tmp_path, run, 0.7)
    table = load_records(tmp_path)
    assert len(table) == 5 and len(results.of_profile(table, "quick")) == 4
    with pytest.raises(KdlibError, match="No run of profile 'paper'"):
        results.print_results([tmp_path], "paper")


def test_the_usual_batch_ends_with_one_table_of_twelve_rows_at_most(tmp_path, capsys):
    """Also where more lies beside it: the plain student of more epochs is a row like the others."""
    runs = expand("quick")
    for run in [*runs, *teachers(runs), RunConfig(method="dct", epochs=2)]:
        write_run(tmp_path, run, 0.8)
    write_detectors(tmp_path, RunConfig(task="detection", student="scenes_ssd", crop_size=24))
    results.print_results([tmp_path], "quick")
    said = capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in said.splitlines() if line.startswith("| ")][1:]
    methods = read_profile("quick")["methods"]
    assert set(rows) == {"teacher", *methods, "student [epochs=86]"} and len(rows) == 10
    assert said.count("**") == 2 and "epochs 80" in said


def test_the_first_difference_is_shown_from_both_sides(tmp_path):
    page = tmp_path / "page"
    page.write_text("a\nb")
    results.check_texts([(page, "a\nb")], "make it")
    for made, says in (("a\nc", "line 2:\n  file:    b\n  records: c"), ("a\nb\nc", "(no line)")):
        with pytest.raises(KdlibError, match=re.escape(says) + "(.|\n)*make it"):
            results.check_texts([(page, made)], "make it")
