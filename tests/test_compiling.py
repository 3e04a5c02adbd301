"""Compiled and folded steps compute what the plain ones do."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from training import tiny

from benchmarks.steps import Bench, CompiledLearner, CompiledTeacher, folded
from kdlib.data import load_data
from kdlib.distill import FrozenTeacher
from kdlib.errors import KdlibError
from kdlib.models import create_model

CPU = torch.device("cpu")
EAGER = "eager"  # traces and guards as any backend does, and leaves the code generation out


@pytest.fixture(scope="module")
def data():
    return load_data("scenes", "train", size=40, image_size=32)


@pytest.fixture(autouse=True)
def _fresh_compiler(monkeypatch):
    monkeypatch.setattr("benchmarks.steps.BACKEND", EAGER)
    torch.compiler.reset()
    counters.clear()


def bench(data, method, **how):
    return Bench(
        tiny(method=method, batch_size=8), [method], data, device=CPU, precision="float32", **how
    )


def compiled(one):
    one.teacher = CompiledTeacher(one.teacher)
    for trainee in one.trainees.values():
        trainee.learner = CompiledLearner(trainee.parts)
    return one


def weights_after(one, method, steps=3):
    for step in range(steps):
        batch = one.batch()
        teacher = one.teacher(batch.images)
        one.trainees[method].step(batch, teacher, 0.01 * (step + 1), 0.1 * (step + 1))
    return one.weights(method)


# The teacher and the learner are compiled; what changes each step compiles nothing anew, but the
# weight of a method with a warm-up does once.
@pytest.mark.parametrize(("method", "frames"), [("dct+kd", 2), ("reviewkd", 3)])
def test_a_compiled_student_ends_with_the_same_weights(data, method, frames):
    plain, other = bench(data, method), compiled(bench(data, method))
    mine, theirs = weights_after(plain, method), weights_after(other, method)
    assert all(torch.allclose(value, theirs[name], atol=1e-6) for name, value in mine.items())
    weights_after(other, method)
    assert not counters["graph_break"] and counters["frames"]["ok"] == frames


def test_a_smaller_last_batch_is_not_compiled(data):
    one, plain = compiled(bench(data, "dct")), bench(data, "dct")
    batch = one.batch()
    one.step(batch, "dct"), plain.step(batch, "dct")
    small = batch._replace(images=batch.images[:5], labels=batch.labels[:5])
    small = small._replace(indices=batch.indices[:5])
    assert torch.allclose(one.step(small, "dct")["dct"], plain.step(small, "dct")["dct"], rtol=1e-5)
    assert counters["frames"]["ok"] == 2


def random_norms(network):
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low in ((layer.running_mean, -1.0), (layer.running_var, 0.5)):
                tensor.uniform_(low, 2.0)
    return network


@pytest.mark.parametrize("name", ["scenes_small", "wrn_16_2", "resnet18"])
def test_a_folded_teacher_says_the_same(name):
    torch.manual_seed(0)
    teacher = FrozenTeacher(random_norms(create_model(name, 10)))
    before = copy.deepcopy(teacher.state_dict())
    other, images = folded(teacher), torch.randn(2, 3, 32, 32)
    mine, theirs = teacher(images), other(images)
    for one, same in zip((mine.logits, *mine.stages), (theirs.logits, *theirs.stages), strict=True):
        assert (one - same).abs().max() <= 1e-5 * one.abs().max()
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in t.modules()) for t in (teacher, other)]
    assert norms[1] < norms[0]
    assert all(torch.equal(value, teacher.state_dict()[key]) for key, value in before.items())


def test_what_cannot_be_traced_is_told():
    class Branching(nn.Module):
        def forward(self, images):
            return images if images.sum() > 0 else -images

    with pytest.raises(KdlibError, match="cannot be folded"):
        folded(FrozenTeacher(Branching()))


def test_a_bench_folds_and_compiles_what_it_is_asked_to(data):
    one = bench(data, "dct", fold=True, compiled=True)
    assert isinstance(one.teacher, CompiledTeacher)
    assert isinstance(one.trainees["dct"].learner, CompiledLearner)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in one.teacher.modules())
