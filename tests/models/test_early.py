"""The first stages of a classifier: the same features, the same weights, no more work."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kdlib.detection.models import EarlyStages
from kdlib.models import create_model

STOPPING = ("scenes_small", "resnet20", "resnet18", "mobilenet_v2")


@pytest.fixture(scope="module", params=[*STOPPING, "wrn_16_2"])
def classifier(request):
    torch.manual_seed(0)
    return request.param, create_model(request.param, 5).eval().requires_grad_(False)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_stages_are_those_of_the_whole_network(classifier, count):
    _, network = classifier
    images = torch.rand(2, 3, 64, 64)
    found = EarlyStages(network, count).eval()(images)
    whole = network(images).stages[:count]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, whole, strict=True))


def test_a_network_that_can_stop_does(classifier):
    name, network = classifier
    images, costs = torch.rand(1, 3, 64, 64), []
    for part in (EarlyStages(network, 1).eval(), network):
        with FlopCounterMode(display=False) as counter:
            part(images)
        costs.append(counter.get_total_flops())
    assert (costs[0] < 0.8 * costs[1]) == (name in STOPPING)


def test_weights_are_shared_and_gradients_reach_the_images(classifier):
    _, network = classifier
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    early = EarlyStages(network, 1).eval()
    own = {id(parameter) for parameter in network.parameters()}
    assert {id(parameter) for parameter in early.parameters()} <= own
    early(images)[0].sum().backward()
    assert images.grad.abs().sum() > 0
