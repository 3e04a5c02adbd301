"""The README says what the records say, and points to what exists."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import scatter, write_grid, write_run

from kdlib.errors import KdlibError
from kdlib.runs import RunConfig
from study.cli import main
from study.notebooks import NOTEBOOKS, notebook_names
from study.pages import PAGES, check_readme, readme_blocks, update_readme

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCKS = (
    "headline", "summary", "claims", "ledger", "methods", "profiles", "times", "steps", "loading",
)  # fmt: skip
EMPTY = "\n".join(f"<!-- results:{name} -->\n<!-- /results:{name} -->" for name in BLOCKS)
COMMANDS = {"make test": {"seconds": 600, "cores": 2, "machine": "A processor", "commit": "0" * 40}}
LOADING = {
    "photographs": [
        {
            "size": "500 x 400", "kilobytes": 48, "making": 700,
            "decoded": {"bytes": 800, "batches": 600}, "cached": {"bytes": 8000, "batches": 1500},
        }
    ],
    "provenance": {"machine": "A processor", "cores": 2, "commit": "0" * 40},
}  # fmt: skip
STEPS = {
    "overhead": {"at": {"median": 0.012}, "dct": {"median": 0.034}},
    "lock_step": {"speedup": {"median": 1.8}},
    "torchdistill": {"times_our_step": {"at": {"median": 1.05}}},
    "images_per_second": {"composing": 3000, "reading": 90000},
    "provenance": {"machine": "A processor", "device": "cpu", "precision": "float32"},
}


def test_the_readme_and_the_records_agree():
    try:
        check_readme(README, [ROOT / "records"])
    except KdlibError as error:
        pytest.fail(f"{error} python -m kdlib results records --readme README.md")


@pytest.mark.parametrize("page", [README, *sorted((ROOT / "docs").glob("*.md"))], ids=str)
def test_what_a_page_points_to_exists(page):
    links = re.findall(r"\]\(([^)#][^)]*)\)", page.read_text())
    local = [link.partition("#")[0] for link in links if not link.startswith("http")]
    assert [link for link in local if not (page.parent / link).exists()] == []
    assert page != README or len(local) > 10


def test_the_readme_leads_to_every_page_of_docs_and_others_than_these_are_measured():
    pages = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    assert pages == sorted([*(Path(page).name for page in PAGES), "your_own_loop.md"])
    assert all(f"(docs/{page})" in README.read_text() for page in pages)


def test_the_map_names_every_notebook():
    text = README.read_text()
    assert all(f"({NOTEBOOKS.name}/{name}.ipynb)" in text for name in notebook_names())


@pytest.fixture
def written(tmp_path) -> Path:
    """A README without results, beside records of two data sets."""
    write_grid(tmp_path / "records", ["student", "at", "dct"])
    write_grid(tmp_path / "records", ["student", "at", "dct"], dataset="fashion_scenes")
    write_grid(tmp_path / "records", ["student", "dct"], seeds=[0], split="dev")
    (tmp_path / "README.md").write_text(EMPTY)
    return tmp_path / "README.md"


def test_a_readme_is_made_and_agrees_until_a_number_changes(written):
    roots = [written.parent / "records"]
    with pytest.raises(KdlibError, match="results:headline"):
        check_readme(written, roots)
    assert update_readme(written, roots) == list(BLOCKS)
    assert update_readme(written, roots) == []
    check_readme(written, roots)
    row = next(line for line in written.read_text().splitlines() if line.startswith("| dct "))
    written.write_text(written.read_text().replace(row, row.replace("| 3 ", "| 5 "), 1))
    with pytest.raises(KdlibError, match="results:summary"):
        check_readme(written, roots)


def test_main_comparisons_are_shown_and_the_dev_split_is_not(written):
    texts = readme_blocks(written, [written.parent / "records"])
    settings = re.findall(r"\*\*(.*?)\*\*", texts["summary"])
    assert [text.split(",")[0] for text in settings] == ["scenes", "fashion_scenes"]
    assert "dev split" not in texts["summary"] + texts["claims"]
    assert texts["claims"].count("DCT beats AT") == 2


def test_detectors_have_tables_of_their_own_and_ablations_none(written):
    root = written.parent / "records"
    detector = RunConfig(task="detection", student="scenes_ssd", crop_size=24)
    hot = {"method": "kd_cls", "method_options": {"temperature": 1.0}}
    for seed in range(3):
        for own in ({}, {"method": "kd_cls"}, {"method": "kd_loc"}, hot):
            run = replace(detector, **own, data_seed=seed, init_seed=seed)
            write_run(root, run, 0.4 + scatter(run.method, seed))
    write_run(root, replace(detector, method="kd_cls").teacher_config(), 0.9)
    texts = readme_blocks(written, [root])
    assert "**scenes, attentions 2, scenes_ssd, detection**" in texts["summary"]
    assert "mAP75 %" in texts["summary"] and "temperature" not in texts["summary"]
    assert "scenes_large, which learnt the objects of scenes cut out" in texts["summary"]
    assert texts["claims"].count("A neighbour: image classifiers in detectors") == 2
    assert "KD_cls helps a detector" in texts["claims"]


def test_measurements_come_from_files_beside_the_readme(written):
    roots = [written.parent / "records"]
    before = readme_blocks(written, roots)
    assert "Not measured yet" in before["times"] and "Not measured yet" in before["steps"]
    results = written.parent / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "commands.json").write_text(json.dumps(COMMANDS))
    (results / "loading.json").write_text(json.dumps(LOADING))
    (results / "one-float32.json").write_text(json.dumps(STEPS))
    (results / "one-bfloat16.json").write_text(json.dumps({**STEPS, "torchdistill": None}))
    after = readme_blocks(written, roots)
    assert re.search(r"`make test` +\| 10 +\| 2 ", after["times"])
    assert re.search(r"\| 8,000 +\| 10.0 × .*\| 2.5 × ", after["loading"])
    assert "+1.2%" in after["steps"] and "+3.4%" in after["steps"] and "1.80 ×" in after["steps"]
    assert after["steps"].count("1.05 × ours") == 1


def test_the_command_line_makes_it(written, capsys):
    command = ["results", str(written.parent / "records"), "--readme", str(written)]
    assert main(command) == 0 and "headline" in capsys.readouterr().out
    assert main(command) == 0 and "nothing changed" in capsys.readouterr().out
