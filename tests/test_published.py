"""The published numbers: readable, each with its source, none twice."""

from pathlib import Path

import pandas as pd

PUBLISHED = Path(__file__).parents[1] / "published" / "published.csv"
COLUMNS = ["paper", "source", "dataset", "teacher", "student", "method", "metric", "value", "note"]
IDENTITY = [name for name in COLUMNS if name not in ("value", "note")]


def test_every_number_says_whose_it_is_and_where_it_stands():
    table = pd.read_csv(PUBLISHED)
    assert list(table.columns) == COLUMNS
    needed = ["paper", "source", "dataset", "student", "method", "metric", "value"]
    assert not table[needed].isna().any().any()
    assert table["value"].between(0, 100).all()


def test_no_number_is_given_twice():
    table = pd.read_csv(PUBLISHED)
    twice = table[table.duplicated(IDENTITY, keep=False)]
    assert twice.empty, twice.to_string()


def test_all_four_papers_and_the_literature_are_there():
    papers = set(pd.read_csv(PUBLISHED)["paper"])
    assert papers == {"dct", "srm", "frskd", "classifier-to-detector", "benchmark"}
