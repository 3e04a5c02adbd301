"""Compiled and folded steps compute what the plain ones do."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from training import tiny

from benchmarks.steps import Bench, CompiledLearner, CompiledTeacher, folded
from kdlib import FrozenTeacher, KdlibError, create_model, load_data


@pytest.fixture(scope="module")
def data():
    return load_data("scenes", "train", size=40, image_size=32)


@pytest.fixture(autouse=True)
def _fresh_compiler(monkeypatch):
    # Traces and guards as any backend does, and leaves the code generation out.
    monkeypatch.setattr("benchmarks.steps.BACKEND", "eager")
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


# The teacher and the learner are compiled; what changes each step compiles nothing anew, but the
# weight of a method with a warm-up does once. A smaller last batch runs as it is.
@pytest.mark.parametrize(("method", "frames"), [("dct+kd", 2), ("reviewkd", 3)])
def test_a_compiled_student_ends_with_the_same_weights(data, method, frames):
    plain, other = bench(data, method), bench(data, method, compiled=True)
    assert isinstance(other.teacher, CompiledTeacher)
    assert isinstance(other.states[method].learner, CompiledLearner)
    mine, theirs = weights_after(plain, method), weights_after(other, method)
    assert all(torch.allclose(value, theirs[name], atol=1e-6) for name, value in mine.items())
    batch = plain.batch()
    parts = {name: getattr(batch, name)[:5] for name in ("images", "labels", "indices")}
    losses = [one.step(batch._replace(**parts), method)[method] for one in (plain, other)]
    assert torch.allclose(*losses, rtol=1e-4)
    weights_after(other, method)
    assert not counters["graph_break"] and counters["frames"]["ok"] == frames


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


def test_a_bench_folds_its_teacher_and_what_cannot_be_traced_is_told(data):
    assert not norms(bench(data, "dct", fold=True).teacher)

    class Branching(nn.Module):
        def forward(self, images):
            return images if images.sum() > 0 else -images

    with pytest.raises(KdlibError, match="cannot be folded"):
        folded(FrozenTeacher(Branching()))
