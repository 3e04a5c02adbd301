"""Adam beside SGD: what a run asks for is what it gets, and a checkpoint holds all of it."""

import pytest
import torch
from torch import nn, optim

from kdlib.errors import KdlibError
from kdlib.optimise import create_optimiser, optimiser_state, restore_optimiser
from kdlib.runs import RunConfig


def test_the_names_are_those_that_a_run_may_ask_for():
    with pytest.raises(KdlibError, match="adam, sgd"):
        RunConfig(optimiser="adamw")


def test_adam_has_the_values_of_the_run():
    config = RunConfig(optimiser="adam", momentum=0.8, weight_decay=1e-4, learning_rate=1e-3)
    made = create_optimiser(config, nn.Linear(2, 2))
    assert isinstance(made, optim.Adam)
    group = made.param_groups[0]
    assert (group["betas"], group["weight_decay"], group["lr"]) == ((0.8, 0.999), 1e-4, 1e-3)


def test_what_is_frozen_is_not_optimised():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    made = create_optimiser(RunConfig(), layer)
    assert [p is layer.weight for p in made.param_groups[0]["params"]] == [True]


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_an_optimiser_goes_on_as_if_it_had_never_stopped(name):
    def steps(layer, made, count):
        for _ in range(count):
            made.zero_grad()
            layer(torch.ones(1, 3)).square().sum().backward()
            made.step()

    config = RunConfig(optimiser=name, learning_rate=0.01)
    torch.manual_seed(0)
    one, two = nn.Linear(3, 3), nn.Linear(3, 3)
    first = create_optimiser(config, one)
    steps(one, first, 2)
    two.load_state_dict(one.state_dict())
    second = create_optimiser(config, two)
    restore_optimiser(second, {k: v.clone() for k, v in optimiser_state(first).items()})
    steps(one, first, 3)
    steps(two, second, 3)
    assert torch.equal(one.weight, two.weight)
