"""What dictionaries explain, beside k-means; and what their atoms fire on."""

import numpy as np
import pandas as pd
import pytest
import torch
from atoms import atom_table

from kdlib.errors import KdlibError
from kdlib.srm.losses import SparseBlock
from kdlib.srm.probe import StageTally, centroids_of, compare_with_centroids, explained


def test_a_tally_adds_up_energy_error_and_dead_atoms():
    torch.manual_seed(0)
    block = SparseBlock(3, 5, 2)
    with torch.no_grad():
        block.atoms[:, 4] = -50.0
    features = [torch.rand(2, 3, 4, 4), torch.rand(4, 3, 4, 4)]
    tally = StageTally(block)
    for part in features:
        tally.add(part)
    together, found = torch.cat(features), tally.summary()
    assert found["energy"] == pytest.approx(together.square().mean().item())
    assert found["error"] == pytest.approx(block.errors(together).mean().item())
    assert found["explained"] == pytest.approx(1 - found["error"] / found["energy"])
    used = {int(i) for i in block(together).nonzero()[:, -1]}
    assert found["dead_atoms"] == 5 - len(used) and 4 not in used


def test_nothing_is_explained_of_nothing():
    tally = StageTally(SparseBlock(3, 5, 2))
    tally.add(torch.zeros(2, 3, 4, 4))
    assert tally.summary()["explained"] == 0


def test_codings_are_compared_at_the_same_sparsity():
    torch.manual_seed(0)
    block = SparseBlock(4, 6, 2)
    found = compare_with_centroids(block, torch.rand(80, 4), held_out := torch.rand(50, 4))
    table = pd.DataFrame(found).set_index(["dictionary", "code"])
    assert table["kept"].tolist() == [2, 1, 2, 2, 2]
    own = block.errors(held_out[:, :, None, None]).mean() / held_out.square().mean()
    assert table.loc[("SRM", "its own"), "explained"] == pytest.approx(1 - own.item(), abs=1e-5)
    pursuit = table.xs("matching pursuit", level="code")["explained"]
    assert (pursuit > 0).all() and pursuit["SRM"] > table.loc[("SRM", "its own"), "explained"]


def test_as_many_centroids_as_points_explain_all():
    points = torch.rand(7, 3)
    centroids = centroids_of(points, 7)
    ordered = [np.array(sorted(values.tolist())) for values in (centroids, points.double().numpy())]
    np.testing.assert_allclose(*ordered, atol=1e-6)
    assert explained(points.numpy(), points.numpy()) == 1
    with pytest.raises(KdlibError, match="7 pixels cannot have 8"):
        centroids_of(points, 8)


def test_an_atom_is_told_by_the_object_on_which_it_fires():
    labels = torch.tensor([[[5, 0], [0, 2]]])
    masks = torch.zeros(1, 4, 4, dtype=torch.uint8)
    masks[0, :2, :2], masks[0, 2:, 2:] = 4, 2
    table = atom_table(labels, masks, ("background", "a", "b", "c", "d"), atoms=7)
    assert table["atom"].tolist() == [0, 2, 5]
    assert table["fires on"].tolist() == ["background", "b", "d"]
    assert table["share"].tolist() == [1, 1, 1]
    assert table["chance"].tolist() == [0.5, 0.25, 0.25]
    assert table["frequency"].tolist() == [0.5, 0.25, 0.25]
