"""Losses with layers or a memory of their own, and the targets that a teacher gives them."""

import pytest
import torch
from losses.networks import INDICES, LABELS, STUDENT, batch, output, pair, taught
from torch.nn import functional

from kdlib import FrozenTeacher, Output, create_model
from kdlib.errors import KdlibError
from kdlib.losses import hints
from kdlib.losses.contrastive import ContrastiveLoss, Negatives


def test_an_embedding_of_fewer_images_is_filled_up_with_zeros():
    embed, features = hints.Embedding(8), torch.rand(4, 3, 5, 5)
    flat = features.flatten(1)
    expected = embed.layers(torch.cat([flat @ flat.T, torch.zeros(4, 4)], dim=1))
    torch.testing.assert_close(embed(features), functional.normalize(expected, dim=1))
    assert hints.Embedding(3).layers[2].out_features == 1


def test_a_regressor_halves_odd_sides_and_leaves_other_factors_alone():
    for student, teacher, found in ((15, 8, 8), (12, 4, 12)):
        made = hints.regressor((3, student, student), (5, teacher, teacher))
        assert made(torch.rand(2, 3, student, student)).shape == (2, 5, found, found)


@pytest.mark.parametrize(
    "name", ["scenes_small", "wrn_16_2", "vgg8", "resnet18", "shuffle_v1", "mobilenet_v2"]
)
def test_a_teacher_tells_what_its_last_relus_were_given_once_it_is_asked(name):
    network, calls = create_model(name, 5), []
    network.register_forward_hook(lambda *_: calls.append(1))
    teacher, images = FrozenTeacher(network), torch.randn(2, 3, 32, 32)
    first = teacher(images)
    assert len(calls) == 1 and not teacher.watched
    for given, stage in zip(first.before, first.stages, strict=True):
        linear = bool((stage < 0).any())  # no ReLU ends it: it is the target as it is
        assert torch.equal(given if linear else given.relu().clamp_max(stage.max()), stage)
        assert (given < 0).any() and not given.requires_grad
    second = teacher(images)
    assert all(map(torch.equal, second.before, first.before)) and len(calls) == 3
    assert all(map(torch.equal, second.stages, first.stages))
    assert all(map(torch.equal, taught().before, taught().stages))  # all that is known


class InPlace(torch.nn.Conv2d):
    """Changes its features in their place, and names what it gives the ReLU."""

    def forward(self, images):
        features = super().forward(images)
        functional.relu(input=features, inplace=True)
        return Output(features.mean((2, 3)), (features,), features.mean((2, 3)))


def test_a_relu_in_its_place_stays_one_where_a_teacher_is_watched():
    teacher, images = FrozenTeacher(InPlace(3, 4, 1)), torch.randn(2, 3, 8, 8)
    first, plain = teacher(images), functional.conv2d(images, *teacher.network.parameters())
    for known in (first, teacher(images)):
        assert torch.equal(known.before[0], plain) and torch.equal(known.stages[0], plain.relu())


def test_negatives_are_of_other_classes_differ_in_each_step_and_repeat_after_an_interruption():
    labels, made = LABELS[INDICES], Negatives(LABELS, 2000, seed=0)
    drawn, second = made(labels), made(labels)
    assert drawn.shape == (len(labels), 2000) and not torch.equal(drawn, second)
    for label, row in zip(labels, drawn, strict=True):
        others = (label != LABELS).nonzero().flatten().tolist()
        assert sorted(set(row.tolist())) == others
        assert torch.bincount(row).max() < 2 * 2000 / len(others)
    resumed = Negatives(LABELS, 2000, seed=0)
    resumed.load_state_dict({"step": torch.tensor(1)})
    assert torch.equal(resumed(labels), second)
    with pytest.raises(KdlibError, match="at least two"):
        Negatives(torch.zeros(5, dtype=torch.int64), 4, seed=0)


def test_memories_move_in_training_alone():
    made = ContrastiveLoss(pair(), negatives=7, dimensions=8).train()
    made(output(STUDENT), taught(), batch())
    memory, constant = made.eval().memory_teacher, made.memory_teacher.log_constant.clone()
    after = memory.bank
    made(output(STUDENT), taught(), batch())
    assert memory.bank is after and memory.log_constant == constant
