"""The ledger as a page: ``LEDGER.md``, made from the records or checked against them."""

from collections.abc import Sequence
from pathlib import Path

from kdlib.errors import KdlibError
from kdlib.files import write_text
from kdlib.ledger import Ledger, make_ledger, sections
from kdlib.ledger.blocks import number_blocks
from kdlib.ledger.readings import read_cells, read_counts
from kdlib.markdown import first_difference
from kdlib.run_table import load_records

PAGE = "LEDGER.md"
HEAD = """# The paper and ours

Every number of [published/published.csv](published/published.csv) and every figure of the paper
(arXiv 2205.01997), beside ours or the one command that would produce ours. The page is made from
the committed records by `python -m kdlib ledger records --to LEDGER.md`. No number on it is typed,
and a test fails when it differs from the records. [Notebook 14](notebooks/14_ledger.ipynb) explains
it.

The paper's data sets cannot be shipped, so *Scenes* stands in for ADE20K, SUN397 and MIT67. Its
accuracies say nothing of theirs; what can be compared is the **direction**: what a method adds to
the student alone, or, of X + KD, what X adds to KD. A published gain claims that the method exceeds
its baseline, a published loss the reverse, and [the rule](kdlib/comparisons.py) says whether that
claim holds, paired over seeds and corrected over all methods of which the same is asked. *Of the
gap* is how much of the way from student to teacher a method goes. Of DCT both are run: what the
release computes, which is judged (with its gate, if that was run), and the paper's name taken at
its word, in the line below. For the photographs of FRSKD's paper Scenes stands in too, with its
classes for top-1 and its masks for mIoU; for the detectors of KD_cls and KD_loc, small ones of the
same kind on its boxes, where each metric is a family of its own, and what is small, medium or large
is a third of the objects.

Commands run as they are from the project's root: `python` is that of `.venv/bin`, the variable
`KDLIB_DATA` names the folder of the real data sets, and those of `make` run all pairs and seeds of
the published protocol. What stands under *ours* was run by `make reproduce` with the profile that
is named there. Accuracies are in percent, differences in points; of several seeds the mean ± the
standard deviation, and n.
"""
TITLES = {
    "dct": "The paper, cell by cell",
    "benchmark": "The benchmark of CIFAR-100",
    "frskd": "A neighbour: FRSKD",
    "srm": "A neighbour: SRM",
    "classifier-to-detector": "A neighbour: from classifiers to detectors",
}


def ledger_page(ledger: Ledger) -> str:
    """The whole page, as markdown."""
    parts = [HEAD, "## At a glance\n", read_counts(ledger) + "\n"]
    parts += [sections.counts_markdown(ledger), sections.meanings()]
    if ledger.scenes is not None:
        cells = sections.cells_table(ledger.scenes)
        parts += ["## The nine scene cells and Scenes\n", read_cells(cells) + "\n"]
        parts += [sections.cells_markdown(cells)]
        parts += ["## The order of the methods\n", sections.order_markdown(ledger.scenes)]
    parts += ["## The weight of the loss\n", sections.sweep_markdown(ledger.sweep)]
    parts += ["## The paper's figures\n", sections.figures_markdown(ledger.figures)]
    parts += ["## Known differences and traps\n", sections.traps_markdown(ledger.traps)]
    papers: dict[str, list[str]] = {}
    for paper, text in number_blocks(ledger.numbers):
        papers.setdefault(paper, []).append(text)
    for paper, texts in papers.items():
        parts += [f"## {TITLES.get(paper, paper)}\n", *texts]
    return "\n".join(parts)


def _page_of(roots: Sequence[Path]) -> str:
    return ledger_page(make_ledger(load_records(*roots, task=None)))


def write_page(path: Path, roots: Sequence[Path]) -> None:
    """Make the page from the records under ``roots``.

    Raises:
        KdlibError: no records, or a damaged one.
    """
    write_text(Path(path), _page_of(roots))


def check_page(path: Path, roots: Sequence[Path]) -> None:
    """Refuse a page that is not what the records give.

    Raises:
        KdlibError: there is no page, or it differs; names the first line that does.
    """
    path = Path(path)
    found = path.read_text(encoding="utf-8") if path.exists() else ""
    parting = first_difference(found, _page_of(roots))
    if parting:
        raise KdlibError(
            f"{path} differs from the records in its {parting}\n"
            f"Make it anew: python -m kdlib ledger {' '.join(map(str, roots))} --to {path}"
        )
