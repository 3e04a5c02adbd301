"""SRM: its losses over stages and options; who learns; the probe; codings."""

import numpy as np
import pandas as pd
import pytest
import torch
from atoms import atom_table
from losses.networks import output, pair, taught
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

from kdlib import FrozenTeacher, KdlibError, RunConfig, create_distiller, create_model
from kdlib.data.batches import Batch
from kdlib.models.output import Shapes, output_shapes
from kdlib.srm import losses as srm
from kdlib.srm import probe

SIZE, CLASSES, BATCH, CHANNELS, ATOMS, KEPT = 32, 16, 6, 4, 7, 2
SHAPES = Shapes(((4, 4, 4), (6, 2, 2)), 6)
LARGER = Shapes(((4, 8, 8), (6, 4, 4)), 6)
DEEPER = Shapes(((2, 8, 8), *SHAPES.stages), 6)
IMAGES = torch.randn(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
GIVEN = Batch(IMAGES, torch.arange(BATCH) % CLASSES, torch.arange(BATCH))


def test_ties_survive_half_precision_is_near_and_codes_for_logits_have_a_floor():
    ties = srm.keep_largest(torch.tensor([[0.5, 0.9, 0.5, 0.5, 0.1]]), 2)
    assert ties.tolist() == [pytest.approx([0.5, 0.9, 0.5, 0.5, 0.0])]
    torch.manual_seed(0)
    block, features = srm.SparseBlock(CHANNELS, ATOMS, KEPT), torch.randn(BATCH, CHANNELS, 3, 5)
    errors = block.errors(features).detach()
    for dtype in (torch.float16, torch.bfloat16):
        torch.testing.assert_close(
            block.errors(features.to(dtype)).detach(), errors, rtol=0.05, atol=0
        )
    first = torch.zeros(1, 2, 2, dtype=torch.long)
    certain = functional.one_hot(first, ATOMS).float()
    floor = np.log(np.e + ATOMS - 1) - 1  # where codes are logits, as the docstring says
    assert srm.pixel_loss(certain, first).item() == pytest.approx(floor)


@pytest.mark.parametrize("shapes", [
    (SHAPES, SHAPES), (LARGER, SHAPES), (SHAPES, LARGER), (SHAPES, DEEPER),
], ids=["equal", "larger student", "larger teacher", "deeper teacher"])  # fmt: skip
@pytest.mark.parametrize("release", [True, False])
@pytest.mark.parametrize("targets", ["global-local", "global", "local"])
def test_the_initialisation_is_both_losses_summed_over_stages(shapes, release, targets):
    torch.manual_seed(0)
    given = {"mu": 2, "sparsity": 0.25, "release": release, "targets": targets}
    loss = srm.InitialisationLoss(pair(*shapes), **given)
    student, teacher = output(shapes[0]), taught(shapes[1])
    blocks = zip(loss.students, list(loss.teachers)[-2:], strict=True)
    stages, expected = zip(student.stages, teacher.stages[-2:], strict=True), {}
    for (mine, theirs), maps in zip(blocks, stages, strict=True):
        # The larger map is pooled, and labels are made of the pooled teacher's features.
        pooled = torch.nn.AdaptiveAvgPool2d(min(stage.shape[-1] for stage in maps))
        logits = mine.logits(pooled(maps[0])).detach()
        codes = theirs(pooled(maps[1])).detach()
        parts = {
            "global": srm.image_loss(logits.sigmoid(), codes.mean((1, 2))),
            "local": srm.pixel_loss(logits.sigmoid() if release else logits, codes.argmax(-1)),
        }
        for name in targets.split("-"):
            expected[name] = expected.get(name, 0) + parts[name]
    torch.testing.assert_close(loss.terms(student, teacher), expected)
    torch.testing.assert_close(loss(student, teacher, None), sum(expected.values()))


# Method and term -> the groups of parameters that it reaches; all others get no gradient at all.
REACHED = {
    ("srm_dictionary", "srm_dictionary"): {"blocks"},
    **{("srm_init", name): {"features", "students"} for name in ("global", "local")},
    **{("srm+kd", name): {"features", "classifier"} for name in ("ce", "kd")},
}


@pytest.mark.parametrize(("method", "term"), REACHED)
def test_a_term_reaches_exactly_these_parameters(method, term):
    torch.manual_seed(0)
    student = create_model("scenes_small", CLASSES)
    teacher = FrozenTeacher(create_model("scenes_medium", CLASSES))
    shapes = [output_shapes(network, SIZE) for network in (student, teacher.network)]
    config = RunConfig(method=method, method_options={"sparsity": 0.2})
    made = create_distiller(config, pair(*shapes, classes=CLASSES))
    answer, taught, loss = student(IMAGES), teacher(IMAGES), made.method_loss
    terms = made(taught if method == "srm_dictionary" else answer, taught, GIVEN)
    if method == "srm_init":
        assert set(terms) == {"srm_init"}
        terms = loss.terms(answer, taught)
    assert set(terms) == {name for one, name in REACHED if one == method}
    terms[term].mean().backward()
    features = torch.nn.ModuleList([student.stem, student.stages])
    groups = {"features": features, "classifier": student.classifier, "teacher": teacher}
    for name in ("blocks", "students", "teachers"):  # of the loss
        groups[name] = getattr(loss, name, torch.nn.Identity())
    for name, group in groups.items():
        gradients = [parameter.grad for parameter in group.parameters()]
        if name in REACHED[method, term]:
            assert any(gradient.any() for gradient in gradients), name
        else:
            assert gradients == [None] * len(gradients), name


FEATURES = {
    "zeros": torch.zeros(2, 3, 4, 4), "constant": torch.full((2, 3, 4, 4), 5.0),
    "huge": 3e4 * torch.rand(2, 3, 4, 4), "negative": -3e4 * torch.rand(2, 3, 4, 4),
    "one pixel": torch.rand(2, 3, 1, 1),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FEATURES)
def test_what_is_degenerate_stays_finite(name, dtype):
    for atoms, kept in ((6, 2), (6, 1), (6, 6), (1, 1)):
        torch.manual_seed(0)
        teacher, student = srm.SparseBlock(3, atoms, kept), srm.SparseBlock(3, atoms)
        features = FEATURES[name].clone().to(dtype).requires_grad_()
        codes, logits = teacher(features.detach()).detach(), student.logits(features)
        images = srm.image_loss(logits.sigmoid(), codes.mean((1, 2)))
        pixels = srm.pixel_loss(logits, codes.argmax(-1))
        losses = torch.stack([teacher.errors(features), images, pixels])
        assert losses.dtype == torch.float32 and losses.isfinite().all()
        losses.sum().backward()
        for tensor in (features, *teacher.parameters(), *student.parameters()):
            assert tensor.grad.isfinite().all()


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
    block, features = srm.SparseBlock(3, 5, 2), torch.rand(6, 3, 4, 4)
    torch.nn.init.constant_(block.atoms[:, 4], -50.0)
    tally, nothing = probe.StageTally(block), probe.StageTally(block)
    for part in features.split([2, 4]):
        tally.add(part)
    found, used = tally.summary(), {int(i) for i in block(features).nonzero()[:, -1]}
    assert found["energy"] == pytest.approx(features.square().mean().item())
    assert found["error"] == pytest.approx(block.errors(features).mean().item())
    assert found["explained"] == pytest.approx(1 - found["error"] / found["energy"])
    assert found["dead_atoms"] == 5 - len(used) and 4 not in used
    nothing.add(torch.zeros(2, 3, 4, 4))
    assert nothing.summary()["explained"] == 0


def test_codings_are_compared_at_the_same_sparsity():
    torch.manual_seed(0)
    block, held_out = srm.SparseBlock(4, 6, 2), torch.rand(50, 4)
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
