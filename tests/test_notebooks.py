"""Notebooks keep the rules of the house; those that read records do so whatever there is to read.

That their outputs are still what they compute, nbval checks (`make test`).
"""

import ast
import re
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import pytest
from synthetic import TOP1, write_analyses, write_grid

from kdlib.errors import KdlibError
from study.notebooks import NOTEBOOKS

mpl.use("Agg")

MAIN = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
SOLUTIONS = sorted((NOTEBOOKS / "solutions").glob("*.ipynb"))
FEWEST_CELLS, MOST_CELLS, MOST_LINES = 15, 40, 30
MOST_BYTES = 1 << 20
LINK = re.compile(r"\]\(([^)\s]+)\)")
ABSOLUTE = re.compile(
    r"(?<![\w.:/])/(?:home|root|work|tmp|Users|private|mnt|opt|usr|var)/\w|\b[A-Z]:\\\w"
)

SETTING = {"epochs": 5, "teacher_epochs": 7, "learning_rate": 0.2, "precision": "auto"}


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def prose(path):
    return "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def of_each(paths):
    return pytest.mark.parametrize("path", paths, ids=[path.stem for path in paths])


def test_numbers_follow_one_another():
    assert [int(path.stem[:2]) for path in MAIN] == list(range(len(MAIN)))


@of_each(MAIN + SOLUTIONS)
def test_the_first_cell_has_a_title_and_says_how_long_it_takes(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert "*Time:*" in first.source


@of_each(MAIN)
def test_the_first_cell_says_what_is_learned_and_what_comes_before_and_after(path):
    first, place = read(path).cells[0].source, MAIN.index(path)
    assert "**You will learn**" in first
    neighbours = MAIN[max(0, place - 1) : place] + MAIN[place + 1 : place + 2]
    assert all(neighbour.name in LINK.findall(first) for neighbour in neighbours)


@of_each(MAIN + SOLUTIONS)
def test_the_second_code_cell_holds_the_parameters_each_with_a_comment(path):
    tagged = ["parameters" in cell.metadata.get("tags", []) for cell in code_cells(path)]
    assert tagged[1] and sum(tagged) == 1
    source = code_cells(path)[1].source
    lines = source.splitlines()
    for statement in ast.parse(source).body:
        assert isinstance(statement, ast.Assign)
        assert "#" in lines[statement.end_lineno - 1], lines[statement.lineno - 1]


@of_each(MAIN)
def test_a_notebook_is_neither_a_stub_nor_a_book(path):
    assert FEWEST_CELLS <= len(read(path).cells) <= MOST_CELLS


@of_each(MAIN + SOLUTIONS)
def test_no_cell_is_long_but_the_list_of_parameters(path):
    cells = [c for c in code_cells(path) if "parameters" not in c.metadata.get("tags", [])]
    assert max(len(cell.source.splitlines()) for cell in cells) <= MOST_LINES


@of_each(MAIN + SOLUTIONS)
def test_outputs_are_stored_and_none_is_an_error(path):
    cells = code_cells(path)
    assert all(cell.execution_count for cell in cells if cell.source.strip())
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs and all(output.output_type != "error" for output in outputs)


@of_each(MAIN + SOLUTIONS)
def test_it_is_quick_to_read_on_the_web(path):
    assert path.stat().st_size < MOST_BYTES


@of_each(MAIN)
def test_it_ends_with_exercises_that_have_solutions(path):
    solutions = f"solutions/{path.stem}_solutions.ipynb"
    assert "## Exercises" in prose(path) and solutions in LINK.findall(read(path).cells[-1].source)
    assert (NOTEBOOKS / solutions).exists()


@of_each(SOLUTIONS)
def test_solutions_belong_to_a_notebook_and_lead_back_to_it(path):
    notebook = f"{path.stem.removesuffix('_solutions')}.ipynb"
    assert NOTEBOOKS / notebook in MAIN and f"../{notebook}" in LINK.findall(prose(path))


@of_each(MAIN + SOLUTIONS)
def test_links_lead_somewhere(path):
    targets = {link.split("#")[0] for link in LINK.findall(prose(path)) if "://" not in link}
    assert [target for target in targets if not (path.parent / target).exists()] == []


def texts(path):
    """Sources, and what the outputs say in words."""
    for cell in read(path).cells:
        yield cell.source
        for output in cell.get("outputs", []):
            yield output.get("text", "")
            data = output.get("data", {})
            yield from (str(data[kind]) for kind in data if kind.startswith("text/"))


@of_each(MAIN + SOLUTIONS)
def test_no_path_of_anybody_s_disk_is_in_it(path):
    assert [text for text in texts(path) if ABSOLUTE.search(text)] == []


# The notebooks that only read records, on records that are not all there.


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
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    write_grid(root, TOP1, **SETTING)
    return write_grid(root, ("student", "at", "dct"), attentions=(1, 3), **SETTING)


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory):
    root = tmp_path_factory.mktemp("one_seed")
    return write_grid(root, ("student", "at", "dct"), seeds=[0], **SETTING)


@pytest.fixture(scope="module")
def no_teacher(tmp_path_factory):
    return write_grid(tmp_path_factory.mktemp("no_teacher"), ("student",), [0, 1], **SETTING)


def roots(name, folder):
    """Parameters that make a notebook read records from a folder and nowhere else."""
    own = {"06_compare": {"tuning_root": str(folder)}}.get(name, {})
    return {"records_root": str(folder), **own}


def test_comparing_reads_its_verdicts_from_the_records(run, whole):
    text = run("06_compare", **roots("06_compare", whole))
    assert "**DCT beats AT: holds.**" in text and "**The absolute value helps: " in text
    assert "has no run on the dev split of scenes" in text
    assert "The highest mean of 13 methods is that of DCT + KD" in text


def test_comparing_one_seed_decides_nothing(run, one_seed):
    text = run("06_compare", **roots("06_compare", one_seed))
    assert "**DCT beats AT: undecided at n=1.**" in text and "one seed decides nothing" in text
    assert "**DCT + KD beats KD: not tested here.** It needs `dct+kd` and `kd`" in text
    assert "this figure needs dct and parseval_twin, each with two seeds" in text


def test_comparing_nothing_is_no_failure(run, no_teacher):
    text = run("06_compare", **roots("06_compare", no_teacher))
    assert "0 of" in text and "this figure needs two methods" in text


@pytest.mark.parametrize("name", ["06_compare", "07_attentions", "14_ledger"])
def test_a_data_set_that_was_not_run_is_said_to_be_missing(name, run, one_seed):
    with pytest.raises(KdlibError, match="no run of 'fashion_scenes'.*make reproduce DATASET="):
        run(name, **roots(name, one_seed), dataset="fashion_scenes")


def test_the_dial_has_a_trend(run, whole):
    text = run("07_attentions", **roots("07_attentions", whole))
    assert "attentions in these records: 1 2 3" in text
    assert "The gain grows (points for each attention more): holds" in text


def test_a_dial_with_one_setting_says_how_to_get_the_others(run, one_seed, no_teacher):
    text = run("07_attentions", **roots("07_attentions", one_seed))
    assert "make reproduce PROFILE=attentions" in text and "undecided at n=1" in text
    assert "dct and at are missing" in run("07_attentions", **roots("07_attentions", no_teacher))


def test_analyses_are_read_as_far_as_they_go(run, tmp_path):
    setting = {"seeds": [0, 1], **SETTING}
    write_grid(tmp_path, ("student", "at", "dct", "dct_abs"), **setting)
    write_grid(tmp_path, ("student", "at", "dct"), student="scenes_small", **setting)
    for weight in (1.0, 4.0):
        write_grid(tmp_path, ("at", "dct"), split="dev", weight=weight, **setting)
    write_analyses(tmp_path)
    text = run("08_analyses", **roots("08_analyses", tmp_path))
    assert "each network gets right: teacher 1, student 1, AT 1, DCT 1" in text
    assert "nearest to the teacher" in text and "Not told apart from it" in text
    assert "best at 0.25 times its default" in text and "scenes_large → scenes_small: " in text
    assert "On the whole, too sure: " in text or "too modest: none; too sure: " in text
    assert "* noise at 0.1: " in text and " 50%" in text


def test_without_analyses_it_says_how_to_make_them(run, one_seed):
    text = run("08_analyses", **roots("08_analyses", one_seed))
    for name in ("attention_maps", "map_spectra", "calibration", "robustness"):
        assert f"nothing for {name} yet" in text
    assert "make reproduce PROFILE=tune" in text and "PROFILE=full" in text


def test_figures_are_drawn_as_far_as_records_go_and_the_same_again(run, one_seed, tmp_path):
    folders = {"figures_root": str(tmp_path), **roots("13_figures", one_seed)}
    text = run("13_figures", **folders)
    assert "training code is loaded: False; records are as they were: True" in text
    assert "nothing to show in noise_gauge" in text and "no record explains: none" in text
    drawn = len(list(Path(tmp_path).iterdir()))
    (tmp_path / "stray.png").touch()
    again = run("13_figures", **folders)
    assert f"{drawn + 1} files are as they were; 0 are not" in again
    assert "no record explains: stray.png" in again


def test_the_ledger_is_made_from_whatever_records_there_are(run, whole, one_seed, no_teacher):
    text = run("14_ledger", **roots("14_ledger", whole))
    assert "release_a: +7" in text and "direction: stand-in: agrees" in text
    assert "methods that both have" in text
    text = run("14_ledger", **roots("14_ledger", one_seed), cell_method="AT")
    assert re.search(r"at: \+\d\.\d\d points over the student, n = 1", text)
    assert "was made from other records" in text
    assert "at: has no runs here" in run(
        "14_ledger", **roots("14_ledger", no_teacher), cell_method="AT"
    )


def test_a_published_method_that_there_is_not_is_refused(run, one_seed):
    with pytest.raises(KdlibError, match="No 'CC' in this cell; valid: teacher, student"):
        run("14_ledger", **roots("14_ledger", one_seed), cell_method="CC")


def test_without_any_record_it_says_how_to_make_some(run, tmp_path):
    for name in ("06_compare", "07_attentions", "08_analyses", "13_figures", "14_ledger"):
        with pytest.raises(KdlibError, match="no record.*make reproduce"):
            run(name, **roots(name, tmp_path))
