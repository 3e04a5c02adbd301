"""A method of an object is watched for a while, and is as it was after that."""

import pytest
import torch
from torch import nn

from kdlib.detection.models import watched


class Adder:
    def add(self, first: int, second: int = 1) -> int:
        return first + second


def test_calls_are_noted_by_the_names_of_their_arguments():
    adder = Adder()
    with watched(adder, "add") as calls:
        assert adder.add(1, 2) == 3 and adder.add(second=5, first=4) == 9 and adder.add(7) == 8
    adder.add(1, 1)
    assert [call.given for call in calls] == [
        {"first": 1, "second": 2},
        {"first": 4, "second": 5},
        {"first": 7},
    ]
    assert [call.result for call in calls] == [3, 9, 8]
    assert not vars(adder)


def test_a_module_is_watched_through_its_forward():
    layer = nn.Linear(2, 3)
    before = set(vars(layer))
    with watched(layer, "forward") as calls:
        output = layer(torch.zeros(1, 2))
    assert calls[0].result is output and set(vars(layer)) == before


def test_an_error_ends_the_watching():
    adder = Adder()
    with pytest.raises(TypeError), watched(adder, "add"):
        adder.add(None, 1)
    assert not vars(adder)


def test_a_method_that_hid_the_class_s_is_put_back_and_watchers_nest():
    adder = Adder()
    adder.add = lambda first, second: first * second
    with watched(adder, "add") as outer, watched(adder, "add") as inner:
        assert adder.add(3, 4) == 12
    assert adder.add(5, 5) == 25
    assert outer == inner and len(outer) == 1
