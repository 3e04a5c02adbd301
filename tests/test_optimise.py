"""What a run asks for is how it learns: optimisers, learning rates as published, precision."""

import pytest
import torch
from torch import nn, optim

from kdlib import trainee as optimise
from kdlib.runs import RunConfig
from kdlib.trainee import (
    create_optimiser,
    learning_rate,
    optimiser_state,
    resolve_precision,
    restore_optimiser,
)


def test_an_optimiser_has_the_values_of_the_run_and_leaves_alone_what_is_frozen():
    shared = {"momentum": 0.8, "weight_decay": 1e-4, "learning_rate": 1e-3}
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    for name, kind, own in (
        ("adam", optim.Adam, {"betas": (0.8, 0.999)}),
        ("sgd", optim.SGD, {"momentum": 0.8}),
    ):
        made = create_optimiser(RunConfig(optimiser=name, **shared), layer)
        (group,) = made.param_groups
        assert isinstance(made, kind)
        assert group.items() >= {"weight_decay": 1e-4, "lr": 1e-3, **own}.items()
        assert [parameter is layer.weight for parameter in group["params"]] == [True]


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_an_optimiser_goes_on_as_if_it_had_never_stopped(name):
    def steps(layer, made, count):
        for _ in range(count):
            made.zero_grad()
            layer(torch.ones(1, 3)).square().sum().backward()
            made.step()

    config = RunConfig(optimiser=name, learning_rate=0.01)
    one, two = nn.Linear(3, 3), nn.Linear(3, 3)
    first = create_optimiser(config, one)
    steps(one, first, 2)
    two.load_state_dict(one.state_dict())
    second = create_optimiser(config, two)
    restore_optimiser(second, {k: v.clone() for k, v in optimiser_state(first).items()})
    steps(one, first, 3)
    steps(two, second, 3)
    assert torch.equal(one.weight, two.weight)


def rates(steps_per_epoch: int = 1, **fields) -> list[float]:
    config = RunConfig(**fields)
    steps = range(config.epochs * steps_per_epoch)
    return [learning_rate(config, done, config.epochs, steps_per_epoch) for done in steps]


def test_steps_are_those_of_the_papers_protocols():
    cifar = {"epochs": 240, "learning_rate": 0.05, "milestones": (150, 180, 210)}
    found = rates(schedule="step", **cifar)
    wanted = [0.05] * 150 + [0.005] * 30 + [5e-4] * 30 + [5e-5] * 30
    assert found == pytest.approx(wanted)
    found = rates(schedule="step", epochs=70, learning_rate=0.1, milestones=(25, 50))
    assert found == pytest.approx([0.1] * 25 + [0.01] * 25 + [0.001] * 20)


def test_one_cycle_rises_for_a_fifth_and_ends_near_zero_and_constant_is_constant():
    found = rates(100, epochs=10, learning_rate=0.2)
    assert found.index(max(found)) in (199, 200)
    assert max(found) == pytest.approx(0.2, rel=0.01) and found[-1] < 1e-5
    assert set(rates(3, schedule="constant")) == {0.1}


@pytest.mark.parametrize(("gain", "chosen"), [(2.0, "bfloat16"), (1.05, "float32")])
def test_precision_is_measured_once_on_a_machine(gain, chosen, tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path))
    gains, cpu = iter([gain]), torch.device("cpu")
    monkeypatch.setattr(optimise, "bfloat16_gain", lambda device: next(gains))
    assert [resolve_precision("auto", cpu) for _ in range(3)] == [chosen] * 3
    assert resolve_precision("float32", cpu) == "float32"
