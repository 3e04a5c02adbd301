"""Learning rates as published, and precision as measured once."""

import pytest
import torch

from kdlib import optimise as precision
from kdlib.optimise import learning_rate, resolve_precision
from kdlib.runs import RunConfig


def rates(config: RunConfig, steps_per_epoch: int) -> list[float]:
    epochs, steps = config.epochs, range(config.epochs * steps_per_epoch)
    return [learning_rate(config, done, epochs, steps_per_epoch) for done in steps]


def test_steps_are_those_of_the_papers_cifar_protocol():
    config = RunConfig(epochs=240, learning_rate=0.05, schedule="step", milestones=(150, 180, 210))
    found = rates(config, 1)
    assert found[149] == pytest.approx(0.05) and found[150] == pytest.approx(0.005)
    assert found[180] == pytest.approx(5e-4) and found[239] == pytest.approx(5e-5)


def test_steps_are_those_of_the_papers_scene_protocol():
    config = RunConfig(epochs=70, learning_rate=0.1, schedule="step", milestones=(25, 50))
    assert [round(rate, 6) for rate in sorted(set(rates(config, 1)))] == [0.001, 0.01, 0.1]


def test_one_cycle_rises_for_a_fifth_and_ends_near_zero():
    found = rates(RunConfig(epochs=10, learning_rate=0.2), 100)
    assert found.index(max(found)) in (199, 200)
    assert max(found) == pytest.approx(0.2, rel=0.01)
    assert found[-1] < 1e-5


def test_constant_is_constant():
    assert set(rates(RunConfig(schedule="constant"), 3)) == {0.1}


def test_precision_is_measured_once_on_a_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path))
    gains = iter([2.0, 0.5])
    monkeypatch.setattr(precision, "bfloat16_gain", lambda device: next(gains))
    cpu = torch.device("cpu")
    assert [resolve_precision("auto", cpu) for _ in range(3)] == ["bfloat16"] * 3
    assert resolve_precision("float32", cpu) == "float32"


def test_a_device_that_gains_nothing_stays_in_float32(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(precision, "bfloat16_gain", lambda device: 1.05)
    assert resolve_precision("auto", torch.device("cpu")) == "float32"
