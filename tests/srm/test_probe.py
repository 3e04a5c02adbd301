"""The linear probe finds what is linearly there, whatever the features look like."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

from kdlib.errors import KdlibError
from kdlib.srm.probe import DECAY, classifier_of, fit_probe


@pytest.fixture
def clouds():
    stream = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    centres = 2 * torch.randn(3, 5, generator=stream)
    return centres[labels] + 2 * torch.randn(300, 5, generator=stream), labels


def test_it_answers_as_a_logistic_regression_does_again_and_again(clouds):
    features, labels = clouds
    (weight, bias), again = fit_probe(features, labels, 3), fit_probe(features, labels, 3)
    assert torch.equal(weight, again[0]) and torch.equal(bias, again[1])
    scaled = StandardScaler().fit_transform(features.double().numpy())
    other = LogisticRegression(C=1 / (DECAY * len(labels)), tol=1e-8, max_iter=1000).fit(
        scaled, labels
    )
    found = functional.linear(features, weight, bias).softmax(1)
    assert found.numpy() == pytest.approx(other.predict_proba(scaled), abs=2e-3)


def test_dead_features_and_absent_classes_do_no_harm(clouds):
    features, labels = clouds
    dead = torch.cat([features, torch.zeros(300, 1), torch.full((300, 1), 1e4)], dim=1)
    weight, bias = fit_probe(dead, labels, 5)
    assert weight.isfinite().all() and bias.isfinite().all() and not weight[:, 5:].any()
    right = functional.linear(dead, weight, bias).argmax(1) == labels
    assert right.float().mean() > 0.6


def test_a_network_without_a_classifier_is_refused():
    with pytest.raises(KdlibError, match="no linear layer"):
        classifier_of(torch.nn.ReLU())
