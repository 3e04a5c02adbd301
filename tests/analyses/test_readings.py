"""What is said of the search for weights."""

import pandas as pd
import pytest

from study.analyses.read import read_weights


def searched(**accuracies: list[float]) -> pd.DataFrame:
    """A grid: the accuracy of each method at its default weight, twice that, ..."""
    rows = [
        {"method": method, "factor": factor, "top1": top1}
        for method, tried in accuracies.items()
        for factor, top1 in enumerate(tried, 1)
    ]
    return pd.DataFrame(rows)


def test_the_best_weight_and_what_the_worst_costs_are_told():
    text = read_weights(searched(student=[0.5], at=[0.4, 0.6], dct=[0.7, 0.55]))
    assert "AT: best at 2 times its default (60.0%)" in text and "20.0" in text
    assert "1 of them are above the student alone" in text and "2 of them" in text


@pytest.mark.parametrize(("dct", "told"), [([0.7, 0.6], False), ([0.7], True)])
def test_grids_of_unequal_size_are_told(dct, told):
    text = read_weights(searched(at=[0.4, 0.6], dct=dct))
    assert ("differ in size, 1 to 2 weights a method" in text) == told
