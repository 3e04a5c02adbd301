"""The linear probe; what dictionaries explain, beside k-means; and what their atoms fire on."""

import numpy as np
import pandas as pd
import pytest
import torch
from atoms import atom_table
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

from kdlib.errors import KdlibError
from kdlib.srm import probe
from kdlib.srm.losses import SparseBlock


def test_the_probe_is_a_logistic_regression_whatever_the_features_look_like():
    stream, labels = torch.Generator().manual_seed(0), torch.arange(300) % 3
    centres = 2 * torch.randn(3, 5, generator=stream)
    features = centres[labels] + 2 * torch.randn(300, 5, generator=stream)
    (weight, bias), again = (probe.fit_probe(features, labels, 3) for _ in "ab")
    assert torch.equal(weight, again[0]) and torch.equal(bias, again[1])
    scaled = StandardScaler().fit_transform(features.double().numpy())
    other = LogisticRegression(C=1 / (probe.DECAY * 300), tol=1e-8, max_iter=1000)
    expected = other.fit(scaled, labels).predict_proba(scaled)
    found = functional.linear(features, weight, bias).softmax(1)
    assert found.numpy() == pytest.approx(expected, abs=2e-3)
    # Features that never vary and classes that never occur do no harm.
    dead = torch.cat([features, torch.zeros(300, 1), torch.full((300, 1), 1e4)], dim=1)
    weight, bias = probe.fit_probe(dead, labels, 5)
    assert weight.isfinite().all() and bias.isfinite().all() and not weight[:, 5:].any()
    right = functional.linear(dead, weight, bias).argmax(1) == labels
    assert right.float().mean() > 0.6
    with pytest.raises(KdlibError, match="no linear layer"):
        probe.classifier_of(torch.nn.ReLU())


def test_a_tally_adds_up_energy_error_and_dead_atoms():
    torch.manual_seed(0)
    block, features = SparseBlock(3, 5, 2), torch.rand(6, 3, 4, 4)
    with torch.no_grad():
        block.atoms[:, 4] = -50.0
    tally, nothing = probe.StageTally(block), probe.StageTally(block)
    for part in features.split([2, 4]):
        tally.add(part)
    found = tally.summary()
    assert found["energy"] == pytest.approx(features.square().mean().item())
    assert found["error"] == pytest.approx(block.errors(features).mean().item())
    assert found["explained"] == pytest.approx(1 - found["error"] / found["energy"])
    used = {int(i) for i in block(features).nonzero()[:, -1]}
    assert found["dead_atoms"] == 5 - len(used) and 4 not in used
    nothing.add(torch.zeros(2, 3, 4, 4))
    assert nothing.summary()["explained"] == 0


def test_codings_are_compared_at_the_same_sparsity():
    torch.manual_seed(0)
    block, held_out = SparseBlock(4, 6, 2), torch.rand(50, 4)
    found = probe.compare_with_centroids(block, torch.rand(80, 4), held_out)
    table = pd.DataFrame(found).set_index(["dictionary", "code"])
    assert table["kept"].tolist() == [2, 1, 2, 2, 2]
    own = block.errors(held_out[:, :, None, None]).mean() / held_out.square().mean()
    assert table.loc[("SRM", "its own"), "explained"] == pytest.approx(1 - own.item(), abs=1e-5)
    pursuit = table.xs("matching pursuit", level="code")["explained"]
    assert (pursuit > 0).all() and pursuit["SRM"] > table.loc[("SRM", "its own"), "explained"]
    points = torch.rand(7, 3)  # as many centroids as points explain all
    found, expected = probe.centroids_of(points, 7), points.double().numpy()
    np.testing.assert_allclose(np.sort(found, axis=0), np.sort(expected, axis=0), atol=1e-6)
    assert probe.explained(expected, expected) == 1
    with pytest.raises(KdlibError, match="7 pixels cannot have 8"):
        probe.centroids_of(points, 8)


def test_an_atom_is_told_by_the_object_on_which_it_fires():
    masks = torch.zeros(1, 4, 4, dtype=torch.uint8)
    masks[0, :2, :2], masks[0, 2:, 2:] = 4, 2
    labels = torch.tensor([[[5, 0], [0, 2]]])
    table = atom_table(labels, masks, ("background", "a", "b", "c", "d"), atoms=7)
    assert table[["atom", "fires on", "share", "chance", "frequency"]].values.tolist() == [
        [0, "background", 1, 0.5, 0.5], [2, "b", 1, 0.25, 0.25], [5, "d", 1, 0.25, 0.25],
    ]  # fmt: skip
