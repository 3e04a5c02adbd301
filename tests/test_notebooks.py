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
import torch
from lesson import check
from synthetic import write_grid

from kdlib.errors import KdlibError
from study.notebooks import NOTEBOOKS

plt.switch_backend("Agg")

MAIN = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
SOLUTIONS = sorted((NOTEBOOKS / "solutions").glob("*.ipynb"))
BATCH = sorted((NOTEBOOKS / "batch").glob("*.ipynb"))
FEWEST_CELLS, MOST_CELLS, MOST_LINES, MOST_BYTES = 15, 60, 30, 1 << 20
# Those that keep the rules of the course too; all are to.
REWRITTEN = [path for path in MAIN if "from notebooks import lesson" in path.read_text("utf-8")]
LINK = re.compile(r"\]\(([^)\s]+)\)")
ABSOLUTE = re.compile(
    r"(?<![\w.:/])/(?:home|root|work|tmp|Users|private|mnt|opt|usr|var)/\w|\b[A-Z]:\\\w"
)


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


def tagged(path, tag):
    return [cell for cell in code_cells(path) if tag in cell.metadata.get("tags", [])]


@of(*REWRITTEN)
def test_a_rewritten_notebook_keeps_the_rules_of_the_course(path):
    solutions = NOTEBOOKS / "solutions" / f"{path.stem}_solutions.ipynb"
    for cells in map(code_cells, (path, solutions)):
        assert max(len(cell.source.splitlines()) for cell in cells) <= 25
        imports, parameters = (ast.parse(cell.source).body for cell in cells[:2])
        assert 3 <= sum(len(line.names) for line in imports) <= 8 and len(parameters) <= 8
        for output in (output for cell in cells for output in cell.outputs):
            assert output.get("data", {}).get("text/html", "").count("<tr") <= 10  # 8 and a head
            if "image/png" in output.get("data", {}):
                assert len(output.metadata["image/png"].get("alt", "")) >= 20
    stubs, checks = tagged(path, "implement"), tagged(path, "implement-check")
    for stub, check_of_it in zip(stubs, checks, strict=True):
        (name,) = re.findall(r"^def (\w+)", stub.source, re.M)
        assert re.match(rf"lesson\.check\(\s*{name},", check_of_it.source)
        assert any(f"def {name}(" in cell.source for cell in tagged(solutions, "solution"))
    cells = code_cells(path)
    for place in (cells.index(dial) for dial in tagged(path, "widget")):
        before = cells[place - 1].outputs
        assert any("image/png" in output.get("data", {}) for output in before)


@pytest.mark.parametrize(("double", "says"), [
    (lambda x: 2 * x, "correct"), (lambda x: None, "not written yet. Hint: twice"),
    (lambda x: x**2, "wrong in case 2: got [9.], expected [6]. Hint: twice"),
    (lambda x: x / 0, "case 1 raises ZeroDivisionError: division by zero. Hint: twice"),
    (lambda x: torch.full((9,), x), r"wrong in case 1: got [2 2 2 2 2 2] (shape [9], first 6"),
])  # fmt: skip
def test_a_check_says_what_a_readers_function_does_and_never_raises(capsys, double, says):
    check(double, (2, 4), ((torch.tensor([3.0]),), [6]), hint="twice")
    assert capsys.readouterr().out.startswith(f"<lambda>: {says}")


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a notebook's cells here, for speed; gives what it showed as text."""

    def run(name, **parameters):
        path = NOTEBOOKS / f"{name}.ipynb"
        monkeypatch.chdir(path.parent)
        monkeypatch.delitem(sys.modules, "kdlib.train", raising=False)  # another test's
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
    """A folder of a few records."""
    folder = tmp_path_factory.mktemp("records")
    write_grid(folder, ("student", "at", "dct"), [0], epochs=5, teacher_epochs=7)
    return folder


@pytest.mark.parametrize(("name", "given", "message"), [
    ("14_ledger", {"cell_method": "CC"}, "No 'CC' in this cell; valid: teacher, student"),
    *((name, None, "no record.*make reproduce")
      for name in ("08_analyses", "13_figures", "14_ledger")),
])  # fmt: skip
def test_what_is_missing_is_said(run, root, tmp_path, name, given, message):
    with pytest.raises(KdlibError, match=message):
        run(name, records_root=str(tmp_path if given is None else root), **(given or {}))


def test_figures_are_drawn_as_far_as_records_go_and_the_same_again(run, root, tmp_path):
    folders = {"figures_root": str(tmp_path), "records_root": str(root)}
    text = run("13_figures", **folders)
    assert "nothing to show in verdicts" in text and "no record explains: none" in text
    drawn = len(list(Path(tmp_path).iterdir()))
    (tmp_path / "stray.png").touch()
    again = run("13_figures", **folders)
    assert f"{drawn + 1} files are as they were; 0 are not" in again
    assert "no record explains: stray.png" in again
