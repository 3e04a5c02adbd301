"""Notebooks keep the rules of the house; those that read records do so whatever there is to read.

That their outputs are still what they compute, nbval checks (`make test`).
"""

import ast
import re
import sys
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
from synthetic import write_grid

from kdlib.errors import KdlibError
from study.notebooks import NOTEBOOKS

plt.switch_backend("Agg")

MAIN = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
SOLUTIONS = sorted((NOTEBOOKS / "solutions").glob("*.ipynb"))
BATCH = sorted((NOTEBOOKS / "batch").glob("*.ipynb"))
FEWEST_CELLS, MOST_CELLS, MOST_LINES, MOST_BYTES = 15, 40, 30, 1 << 20
LINK = re.compile(r"\]\(([^)\s]+)\)")
ABSOLUTE = re.compile(
    r"(?<![\w.:/])/(?:home|root|work|tmp|Users|private|mnt|opt|usr|var)/\w|\b[A-Z]:\\\w"
)

SETTING = {"epochs": 5, "teacher_epochs": 7, "learning_rate": 0.2, "precision": "auto"}


@cache
def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def of(*paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


@of(*MAIN, *SOLUTIONS, *BATCH)
def test_every_notebook_says_its_title_and_time_and_has_stored_outputs(path):
    first, cells = read(path).cells[0], code_cells(path)
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert "*Time:*" in first.source
    assert all(cell.execution_count for cell in cells if cell.source.strip())
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs and all(output.output_type != "error" for output in outputs)
    assert not any(": True" in output.get("text", "") for output in outputs)  # sentences say it
    assert path.stat().st_size < MOST_BYTES  # quick to read on the web
    texts = [cell.source for cell in read(path).cells]
    for output in outputs:
        data = output.get("data", {})
        texts += [output.get("text", ""), *(str(data[k]) for k in data if k.startswith("text/"))]
    assert [text for text in texts if ABSOLUTE.search(text)] == []  # of anybody's disk


@of(*MAIN, *SOLUTIONS, *BATCH)
def test_the_second_code_cell_holds_the_parameters_each_with_a_comment_and_no_other_is_long(path):
    tagged = ["parameters" in cell.metadata.get("tags", []) for cell in code_cells(path)]
    assert tagged[1] and sum(tagged) == 1
    first, parameters, *others = (cell.source for cell in code_cells(path))
    place = path.relative_to(NOTEBOOKS).with_suffix("").as_posix()
    assert others[0].startswith(f'begin("{place}")\n')
    lines = parameters.splitlines()
    for statement in ast.parse(parameters).body:
        assert isinstance(statement, ast.Assign)
        assert "#" in lines[statement.end_lineno - 1], lines[statement.lineno - 1]
    assert max(len(source.splitlines()) for source in (first, *others)) <= MOST_LINES


@of(*MAIN, *SOLUTIONS)
def test_links_lead_somewhere_and_from_each_notebook_to_its_neighbours_and_solutions(path):
    links = [LINK.findall(c.source) for c in read(path).cells if c.cell_type == "markdown"]
    targets = {link.split("#")[0] for found in links for link in found if "://" not in link}
    assert [target for target in targets if not (path.parent / target).exists()] == []
    if path in SOLUTIONS:
        notebook = f"{path.stem.removesuffix('_solutions')}.ipynb"
        assert NOTEBOOKS / notebook in MAIN and f"../{notebook}" in targets
        return
    assert FEWEST_CELLS <= len(read(path).cells) <= MOST_CELLS
    place, cells = MAIN.index(path), read(path).cells
    assert int(path.stem[:2]) == place and "**You will learn**" in cells[0].source
    neighbours = MAIN[max(0, place - 1) : place] + MAIN[place + 1 : place + 2]
    assert {neighbour.name for neighbour in neighbours} <= set(links[0])
    assert any("## Exercises" in cell.source for cell in cells)
    assert f"solutions/{path.stem}_solutions.ipynb" in LINK.findall(cells[-1].source)


# The notebooks that only read records, on records that are not all there; nbval has the others.


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a notebook's cells here, for speed; gives what it showed as text."""

    def run(name, **parameters):
        path = NOTEBOOKS / f"{name}.ipynb"
        monkeypatch.chdir(path.parent)
        # In a kernel of its own it is not loaded; here other tests may have done so.
        monkeypatch.delitem(sys.modules, "kdlib.train", raising=False)
        names = {"__name__": name}
        try:
            for number, cell in enumerate(code_cells(path)):
                show(cell.source, f"{name}, code cell {number}", names)
                if "parameters" in cell.metadata.get("tags", []):
                    assert set(parameters) <= set(names)
                    names.update(parameters)
        finally:
            plt.close("all")
        return capsys.readouterr().out

    return run


def show(source, name, names):
    """Run a cell and print the value of its last expression, as a kernel would."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), name, "eval"), names)
        print(getattr(value, "data", value))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folders of records, by what is in them."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("one_seed", "no_teacher")}
    write_grid(folders["one_seed"], ("student", "at", "dct"), seeds=[0], **SETTING)
    write_grid(folders["no_teacher"], ("student",), [0, 1], **SETTING)
    return folders


def roots(name, folder):
    """Parameters that make a notebook read records from a folder and nowhere else."""
    own = {"06_compare": {"tuning_root": str(folder)}}.get(name, {})
    return {"records_root": str(folder), **own}


@pytest.mark.parametrize(("name", "records", "given", "said"), [
    ("06_compare", "one_seed", {}, ["one seed decides nothing",
        "has no run on the dev split of scenes",
        "**DCT beats AT: undecided at n=1.**",
        "**DCT + KD beats KD: not tested here.** It needs `dct+kd` and `kd`",
        "this figure needs dct and parseval_twin, each with two seeds"]),
    ("06_compare", "no_teacher", {}, ["0 of", "One method alone is not compared"]),
    ("07_attentions", "one_seed", {}, ["make reproduce PROFILE=attentions", "at n=1"]),
    ("07_attentions", "no_teacher", {}, ["dct and at are missing"]),
    ("08_analyses", "one_seed", {}, [
        *(f"nothing for {one} yet" for one in ("attention_maps", "map_spectra", "calibration")),
        "nothing for robustness yet", "make reproduce PROFILE=tune", "PROFILE=full"]),
    ("14_ledger", "one_seed", {"cell_method": "AT"}, [
        " points over the student, n = 1", "was made from other records"]),
    ("14_ledger", "no_teacher", {"cell_method": "AT"}, ["at: has no runs here"]),
])  # fmt: skip
def test_a_notebook_reads_what_records_there_are(run, root, name, records, given, said):
    text = run(name, **roots(name, root[records]), **given)
    assert [one for one in said if one not in text] == []


@pytest.mark.parametrize(("name", "given", "message"), [
    *((name, {"dataset": "fashion_scenes"}, "no run of 'fashion_scenes'.*make reproduce DATA")
      for name in ("06_compare", "07_attentions", "14_ledger")),
    ("14_ledger", {"cell_method": "CC"}, "No 'CC' in this cell; valid: teacher, student"),
    *((name, None, "no record.*make reproduce")
      for name in ("06_compare", "07_attentions", "08_analyses", "13_figures", "14_ledger")),
])  # fmt: skip
def test_what_is_missing_is_said(run, root, tmp_path, name, given, message):
    folder = tmp_path if given is None else root["one_seed"]
    with pytest.raises(KdlibError, match=message):
        run(name, **roots(name, folder), **(given or {}))


def test_figures_are_drawn_as_far_as_records_go_and_the_same_again(run, root, tmp_path):
    folders = {"figures_root": str(tmp_path), **roots("13_figures", root["one_seed"])}
    text = run("13_figures", **folders)
    assert "nothing to show in noise_gauge" in text and "no record explains: none" in text
    drawn = len(list(Path(tmp_path).iterdir()))
    (tmp_path / "stray.png").touch()
    again = run("13_figures", **folders)
    assert f"{drawn + 1} files are as they were; 0 are not" in again
    assert "no record explains: stray.png" in again
