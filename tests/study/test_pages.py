"""Pages say what records and measurements say, and point to what exists."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import write_detectors, write_grid, write_run

from kdlib import KdlibError, RunConfig
from study.cli import main
from study.notebooks import NOTEBOOKS, notebook_names
from study.pages import PAGES, page, rendered, update_readme
from study.results import check_texts

ROOT = Path(__file__).parents[2]
README, REPORTS = ROOT / "README.md", [ROOT / "RESULTS.md", ROOT / "LEDGER.md"]
DOCS = sorted((ROOT / "docs").glob("*.md"))


def test_the_pages_and_the_records_agree():
    check_texts(rendered(README, [ROOT / "records"]), "make it")


@pytest.mark.parametrize("path", [README, *REPORTS, *DOCS], ids=lambda path: path.name)
def test_what_a_page_points_to_exists(path):
    links = re.findall(r"\]\(([^)#][^)]*)\)", path.read_text())
    local = [link.partition("#")[0] for link in links if not link.startswith("http")]
    assert [link for link in local if not (path.parent / link).exists()] == []
    assert path not in DOCS or f"(docs/{path.name})" in README.read_text()


def test_the_readme_is_short_maps_every_notebook_and_its_example_runs():
    text = README.read_text()
    assert len(text.encode()) <= 12 * 1024
    assert all(f"({NOTEBOOKS.name}/{name}.ipynb)" in text for name in notebook_names())
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(example, {})


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A README made from records of two data sets, of detectors, and of what is no result."""
    folder = tmp_path_factory.mktemp("pages")
    root = write_grid(folder / "records", ["student", "at", "dct"])
    write_grid(root, ["student", "at", "dct"], dataset="fashion_scenes")
    write_grid(root, ["student", "dct"], seeds=[0], split="dev")
    detector = RunConfig(task="detection", student="scenes_ssd", crop_size=24)
    write_detectors(root, detector)
    for seed in range(3):
        hot = {"method_options": {"temperature": 1.0}, "data_seed": seed, "init_seed": seed}
        write_run(root, replace(detector, method="kd_cls", **hot), 0.4)
    assert update_readme(folder / "README.md", [root]) == PAGES
    return folder / "README.md"


def test_pages_agree_until_a_number_changes(written, capsys):
    roots = [written.parent / "records"]
    check_texts(rendered(written, roots), "make it")
    results = written.parent / "RESULTS.md"
    row = next(line for line in results.read_text().splitlines() if line.startswith("| kd_cls "))
    results.write_text(results.read_text().replace(row, row.replace("| 3 ", "| 5 "), 1))
    with pytest.raises(KdlibError, match=r"RESULTS\.md.*line \d+"):
        check_texts(rendered(written, roots), "make it")
    command = ["results", str(roots[0]), "--readme", str(written)]
    assert main(command) == 0 and "RESULTS.md changed" in capsys.readouterr().out
    assert main(command) == 0 and "nothing changed" in capsys.readouterr().out


def test_main_comparisons_are_shown_and_dev_splits_and_ablations_are_not(written):
    text = written.with_name("RESULTS.md").read_text()
    accuracy = text.split("## Detectors")[1]
    assert "temperature" not in accuracy and "| kd_cls − student " in accuracy
    assert text.count("Not computed yet") == 2 and "| at " not in text
    assert "**scenes, attentions 2, scenes_ssd, detection**" in accuracy
    assert "mAP75 %" in accuracy and re.search(r"\| scenes_large +\| scenes +\| 24 ", accuracy)


def test_measurements_that_are_missing_name_their_command(tmp_path):
    names = [name for name in PAGES if name.startswith("docs/")]
    bare = {name: page(name, tmp_path) for name in names}
    assert "python -m benchmarks loading" in bare["docs/data.md"]
    assert "make faults" in bare["docs/faults.md"] and "Not measured yet" in bare["docs/grids.md"]
