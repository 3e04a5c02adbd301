"""Every formula of SRM against one that was written again, in numpy, from the paper's text."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from kdlib.distill import TeacherOutput
from kdlib.losses.pair import Pair
from kdlib.models.output import Output, Shapes
from kdlib.srm.losses import (
    InitialisationLoss,
    ReconstructionLoss,
    SparseBlock,
    SrmOptions,
    image_loss,
    keep_largest,
    local_labels,
    pixel_loss,
)

BATCH, CHANNELS, ATOMS, KEPT = 3, 4, 7, 2
SHAPES = Shapes(((4, 4, 4), (6, 2, 2)), 6)


def codes_by_hand(features, atoms, intercept, kept):
    """Loops over pixels: sigmoid(C^T x + b), all below the kept-th largest set to 0."""
    images, _, height, width = features.shape
    codes = np.zeros((images, height, width, atoms.shape[1]))
    for n, i, j in np.ndindex(images, height, width):
        similarity = 1 / (1 + np.exp(-(atoms.T @ features[n, :, i, j] + intercept)))
        threshold = np.sort(similarity)[-kept] if kept else -np.inf
        codes[n, i, j] = np.where(similarity >= threshold, similarity, 0)
    return codes


def by_hand(block, features):
    atoms, intercept = block.atoms.detach().numpy(), block.intercept.item()
    return codes_by_hand(features.double().numpy(), atoms.astype(float), intercept, block.kept)


def features_of(shapes=SHAPES, seed=0):
    stream = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(BATCH, *shape, generator=stream) for shape in shapes.stages)


def outputs(student=SHAPES, teacher=SHAPES):
    nothing = torch.zeros(BATCH, 5)
    mine = Output(nothing, features_of(student, 1), nothing)
    return mine, TeacherOutput(nothing, features_of(teacher, 2), nothing)


def pair(student=SHAPES, teacher=SHAPES):
    return Pair(student, teacher, torch.arange(BATCH), BATCH, 0, BATCH)


@pytest.fixture
def block():
    torch.manual_seed(0)
    return SparseBlock(CHANNELS, ATOMS, KEPT)


def test_codes_are_the_largest_similarities(block):
    features = torch.randn(BATCH, CHANNELS, 3, 5)
    codes = block(features)
    assert codes.shape == (BATCH, 3, 5, ATOMS)
    assert_allclose(codes.detach(), by_hand(block, features), rtol=1e-5)
    assert ((codes > 0).sum(-1) == KEPT).all()


def test_ties_at_the_threshold_survive():
    codes = torch.tensor([[0.5, 0.9, 0.5, 0.5, 0.1]])
    assert keep_largest(codes, 2).tolist() == [pytest.approx([0.5, 0.9, 0.5, 0.5, 0.0])]


def test_the_error_is_that_of_the_dictionary_times_its_codes(block):
    features = torch.randn(BATCH, CHANNELS, 3, 5)
    restored = by_hand(block, features) @ block.atoms.detach().numpy().T
    expected = np.square(restored.transpose(0, 3, 1, 2) - features.numpy()).mean((1, 2, 3))
    assert_allclose(block.errors(features).detach(), expected, rtol=1e-5)


def test_dictionaries_are_judged_by_the_sum_over_stages():
    torch.manual_seed(0)
    loss, (_, teacher) = ReconstructionLoss(pair(), sparsity=0.3), outputs()
    expected = sum(b.errors(f) for b, f in zip(loss.blocks, teacher.stages, strict=True))
    assert_allclose(loss(None, teacher, None).detach(), expected.detach(), rtol=1e-6)


def test_local_labels_name_the_dominating_atom(block):
    features = torch.randn(BATCH, CHANNELS, 3, 5)
    assert_allclose(local_labels(block(features)), by_hand(block, features).argmax(-1))


def test_the_image_loss_is_the_binary_cross_entropy_of_mean_codes():
    mine, labels = torch.rand(BATCH, 3, 3, ATOMS), torch.rand(BATCH, ATOMS)
    p, t = mine.double().numpy().mean((1, 2)), labels.double().numpy()
    expected = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(1)
    assert_allclose(image_loss(mine, labels), expected, rtol=1e-5)


def test_the_pixel_loss_is_the_cross_entropy_over_atoms():
    logits, labels = torch.randn(BATCH, 2, 3, ATOMS), torch.randint(0, ATOMS, (BATCH, 2, 3))
    z = logits.double().numpy()
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_p, labels.numpy()[..., None], -1)[..., 0]
    assert_allclose(pixel_loss(logits, labels), -chosen.mean((1, 2)), rtol=1e-5)


def test_codes_as_logits_leave_the_floor_that_the_docstring_tells():
    certain = torch.nn.functional.one_hot(torch.zeros(1, 2, 2, dtype=torch.long), ATOMS).float()
    floor = np.log(np.e + ATOMS - 1) - 1
    assert pixel_loss(certain, torch.zeros(1, 2, 2, dtype=torch.long)).item() == pytest.approx(
        floor
    )


@pytest.mark.parametrize("release", [True, False])
def test_the_initialisation_is_both_losses_summed_over_stages(release):
    torch.manual_seed(0)
    given = {"mu": 2, "sparsity": 0.25, "release": release}
    loss, (student, teacher) = InitialisationLoss(pair(), **given), outputs()
    expected = {"global": 0.0, "local": 0.0}
    for mine, theirs, f_s, f_t in zip(
        loss.students, loss.teachers, student.stages, teacher.stages, strict=True
    ):
        codes = torch.from_numpy(by_hand(theirs, f_t)).float()
        logits = mine.logits(f_s).detach()
        taken = logits.sigmoid() if release else logits
        expected["global"] += image_loss(logits.sigmoid(), codes.mean((1, 2)))
        expected["local"] += pixel_loss(taken, codes.argmax(-1))
    found = loss.terms(student, teacher)
    for name, value in expected.items():
        assert_allclose(found[name].detach(), value, rtol=1e-5)
    total = loss(student, teacher, None).detach()
    assert_allclose(total, expected["global"] + expected["local"], rtol=1e-5)


@pytest.mark.parametrize("targets", ["global", "local", "global-local"])
def test_targets_say_which_labels_there_are(targets):
    terms = InitialisationLoss(pair(), targets=targets).terms(*outputs())
    assert sorted(terms) == targets.split("-")


@pytest.mark.parametrize(("mine", "theirs"), [(8, 4), (4, 8), (6, 4)])
def test_the_larger_map_is_pooled_and_labels_come_from_the_pooled_teacher(mine, theirs):
    torch.manual_seed(0)
    shapes = Shapes(((3, mine, mine),), 3), Shapes(((5, theirs, theirs),), 5)
    loss, (student, teacher) = InitialisationLoss(pair(*shapes)), outputs(*shapes)
    common = torch.nn.AdaptiveAvgPool2d(min(mine, theirs))
    f_s, f_t = common(student.stages[0]), common(teacher.stages[0])
    codes = loss.teachers[0](f_t)
    expected = pixel_loss(loss.students[0](f_s), codes.argmax(-1))
    assert_allclose(loss.terms(student, teacher)["local"].detach(), expected.detach(), rtol=1e-5)


def test_a_deeper_teacher_gives_labels_of_its_deepest_stages():
    deeper = Shapes(((2, 8, 8), *SHAPES.stages), 6)
    loss = InitialisationLoss(pair(SHAPES, deeper), mu=2)
    assert [block.atoms.shape for block in loss.students] == [(4, 8), (6, 12)]
    assert loss(*outputs(SHAPES, deeper), None).shape == (BATCH,)


@pytest.mark.parametrize(
    ("channels", "mu", "sparsity", "atoms", "kept"),
    [(128, 2, 0.02, 256, 5), (256, 2, 0.02, 512, 10), (1024, 2, 0.02, 2048, 40),
     (63, 1.5, 0.01, 94, 1), (1, 0.5, 0.5, 1, 1)],
)  # fmt: skip
def test_atoms_and_those_kept_are_counted_as_published(channels, mu, sparsity, atoms, kept):
    options = SrmOptions(mu=mu, sparsity=sparsity)
    assert options.atoms(channels) == atoms and options.kept(atoms) == kept
