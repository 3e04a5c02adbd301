"""Compiled and folded steps compute what the plain ones do."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from training import tiny

from benchmarks.steps import Bench, folded
from kdlib import FrozenTeacher, KdlibError, create_model, fit, load_data


@pytest.fixture(scope="module")
def data():
    return load_data("scenes", "train", size=40, image_size=32)


@pytest.fixture(autouse=True)
def _fresh_compiler(monkeypatch):
    # Traces and guards as any backend does, and leaves the code generation out.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch.compiler.reset()
    counters.clear()


def bench(data, method, **how):
    run, where = tiny(method=method, batch_size=8), {"device": torch.device("cpu")}
    return Bench(run, [method], data, precision="float32", **where, **how)


def norms(network):
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def weights_after(one, method, steps=3):
    for step in range(steps):
        batch = one.batch()
        teacher = one.teacher(batch.images)
        one.states[method].step(batch, teacher, 0.01 * (step + 1), 0.1 * (step + 1))
    return one.weights(method)


@pytest.mark.parametrize("method", ["dct+kd", "reviewkd"])
def test_a_compiled_student_ends_with_the_same_weights(data, method):
    plain, other = bench(data, method), bench(data, method, compiled=True)
    mine, theirs = weights_after(plain, method), weights_after(other, method)
    assert all(torch.allclose(value, theirs[name], atol=1e-6) for name, value in mine.items())
    assert not counters["graph_break"] and counters["frames"]["ok"] >= 1


def test_a_compiled_run_says_so_and_is_not_gone_on_with_uncompiled(tmp_path):
    class Stopped(Exception):
        pass

    def stop(*_):
        raise Stopped

    config = tiny(method="student", epochs=2)
    with pytest.raises(Stopped):
        fit(config, tmp_path, progress=False, compile=True, on_epoch=stop)
    with pytest.raises(KdlibError, match="is of compiled True; this needs compiled None"):
        fit(config, tmp_path, progress=False)
    record = fit(config, tmp_path, progress=False, compile=True)
    assert record["provenance"]["compiled"] is True


@pytest.mark.parametrize("name", ["scenes_small", "wrn_16_2", "resnet18"])
def test_a_folded_teacher_says_the_same(name):
    torch.manual_seed(0)
    network = create_model(name, 10)
    for layer in norms(network):
        layer.running_mean.uniform_(-1.0, 2.0)
        layer.running_var.uniform_(0.5, 2.0)
    teacher = FrozenTeacher(network)
    before, other = deepcopy(teacher.state_dict()), folded(teacher)
    images = torch.randn(2, 3, 32, 32)
    mine, theirs = teacher(images), other(images)
    for one, same in zip((mine.logits, *mine.stages), (theirs.logits, *theirs.stages), strict=True):
        assert (one - same).abs().max() <= 1e-5 * one.abs().max()
    assert len(norms(other)) < len(norms(teacher))
    assert all(torch.equal(value, teacher.state_dict()[key]) for key, value in before.items())
