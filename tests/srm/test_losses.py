"""SRM's formulas against others written again, in numpy, from the paper's text; who learns."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from srm.networks import BATCH, batch, distiller, frozen, network, pair_of, scenes_pair
from torch.nn import functional

from kdlib.distill import TeacherOutput, create_distiller
from kdlib.errors import KdlibError
from kdlib.models.output import Output, Shapes
from kdlib.runs import RunConfig
from kdlib.srm.losses import (
    InitialisationLoss,
    ReconstructionLoss,
    SparseBlock,
    image_loss,
    keep_largest,
    local_labels,
    pixel_loss,
)
from kdlib.srm.options import SrmOptions

CHANNELS, ATOMS, KEPT = 4, 7, 2
SHAPES = Shapes(((4, 4, 4), (6, 2, 2)), 6)


def by_hand(block, features):
    """Loops over pixels: sigmoid(C^T x + b), all below the kept-th largest set to 0."""
    atoms, intercept = block.atoms.detach().double().numpy(), block.intercept.item()
    images, _, height, width = features.shape
    codes = np.zeros((images, height, width, atoms.shape[1]))
    for n, i, j in np.ndindex(images, height, width):
        similarity = 1 / (
            1 + np.exp(-(atoms.T @ features[n, :, i, j].double().numpy() + intercept))
        )
        threshold = np.sort(similarity)[-block.kept]
        codes[n, i, j] = np.where(similarity >= threshold, similarity, 0)
    return codes


def outputs(student=SHAPES, teacher=SHAPES):
    stream, nothing = torch.Generator().manual_seed(1), torch.zeros(BATCH, 5)
    stages = [
        tuple(torch.rand(BATCH, *shape, generator=stream) for shape in one.stages)
        for one in (student, teacher)
    ]
    return Output(nothing, stages[0], nothing), TeacherOutput(nothing, stages[1], nothing)


@pytest.fixture
def block():
    torch.manual_seed(0)
    return SparseBlock(CHANNELS, ATOMS, KEPT)


def test_codes_labels_and_errors_are_those_of_the_largest_similarities(block):
    features = torch.randn(BATCH, CHANNELS, 3, 5)
    codes, expected = block(features), by_hand(block, features)
    assert_allclose(codes.detach(), expected, rtol=1e-5)
    assert ((codes > 0).sum(-1) == KEPT).all()
    assert_allclose(local_labels(codes), expected.argmax(-1))
    restored = (expected @ block.atoms.detach().numpy().T).transpose(0, 3, 1, 2)
    errors = np.square(restored - features.numpy()).mean((1, 2, 3))
    assert_allclose(block.errors(features).detach(), errors, rtol=1e-5)
    loss, (_, teacher) = ReconstructionLoss(pair_of(SHAPES), sparsity=0.3), outputs()
    summed = sum(b.errors(f) for b, f in zip(loss.blocks, teacher.stages, strict=True))
    assert_allclose(loss(None, teacher, None).detach(), summed.detach(), rtol=1e-6)


def test_ties_at_the_threshold_survive():
    codes = torch.tensor([[0.5, 0.9, 0.5, 0.5, 0.1]])
    assert keep_largest(codes, 2).tolist() == [pytest.approx([0.5, 0.9, 0.5, 0.5, 0.0])]


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
    certain = functional.one_hot(torch.zeros(1, 2, 2, dtype=torch.long), ATOMS).float()
    floor = np.log(np.e + ATOMS - 1) - 1  # where codes are logits, as the docstring tells
    assert_allclose(pixel_loss(certain, torch.zeros(1, 2, 2, dtype=torch.long)), floor, rtol=1e-5)


LARGER = Shapes(((4, 8, 8), (6, 4, 4)), 6)
DEEPER = Shapes(((2, 8, 8), *SHAPES.stages), 6)


@pytest.mark.parametrize("shapes", [
    (SHAPES, SHAPES), (LARGER, SHAPES), (SHAPES, LARGER), (SHAPES, DEEPER),
], ids=["equal", "larger student", "larger teacher", "deeper teacher"])  # fmt: skip
@pytest.mark.parametrize("release", [True, False])
@pytest.mark.parametrize("targets", ["global-local", "global", "local"])
def test_the_initialisation_is_both_losses_summed_over_stages(shapes, release, targets):
    torch.manual_seed(0)
    given = {"mu": 2, "sparsity": 0.25, "release": release, "targets": targets}
    loss, (student, teacher) = InitialisationLoss(pair_of(*shapes), **given), outputs(*shapes)
    expected = dict.fromkeys(targets.split("-"), 0.0)
    blocks = zip(loss.students, list(loss.teachers)[-2:], strict=True)
    stages = zip(student.stages, teacher.stages[-2:], strict=True)
    for (mine, theirs), pair in zip(blocks, stages, strict=True):
        # The larger map is pooled, and labels are made of the pooled teacher's features.
        pooled = torch.nn.AdaptiveAvgPool2d(min(stage.shape[-1] for stage in pair))
        logits = mine.logits(pooled(pair[0])).detach()
        codes = torch.from_numpy(by_hand(theirs, pooled(pair[1]))).float()
        taken = logits.sigmoid() if release else logits
        parts = {
            "global": image_loss(logits.sigmoid(), codes.mean((1, 2))),
            "local": pixel_loss(taken, codes.argmax(-1)),
        }
        expected = {name: total + parts[name] for name, total in expected.items()}
    found = loss.terms(student, teacher)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert_allclose(found[name].detach(), value, rtol=1e-5)
    total = loss(student, teacher, None).detach()
    assert_allclose(total, sum(expected.values()), rtol=1e-5)


@pytest.mark.parametrize(
    ("channels", "mu", "sparsity", "atoms", "kept"),
    [(128, 2, 0.02, 256, 5), (256, 2, 0.02, 512, 10), (1024, 2, 0.02, 2048, 40),
     (63, 1.5, 0.01, 94, 1), (1, 0.5, 0.5, 1, 1)],
)  # fmt: skip
def test_atoms_and_those_kept_are_counted_as_published(channels, mu, sparsity, atoms, kept):
    options = SrmOptions(mu=mu, sparsity=sparsity)
    assert options.atoms(channels) == atoms and options.kept(atoms) == kept


# Method and term -> the groups of parameters that it reaches; all others get no gradient at all.
REACHED = {
    ("srm_dictionary", "srm_dictionary"): {"dictionaries"},
    ("srm_init", "global"): {"features", "student's blocks"},
    ("srm_init", "local"): {"features", "student's blocks"},
    ("srm", "ce"): {"features", "classifier"},
    ("srm+kd", "ce"): {"features", "classifier"},
    ("srm+kd", "kd"): {"features", "classifier"},
}


def groups(student, teacher, loss):
    found = {
        "features": [*student.stem.parameters(), *student.stages.parameters()],
        "classifier": student.classifier.parameters(),
        "teacher": teacher.parameters(),
    }
    names = {
        "blocks": "dictionaries",
        "students": "student's blocks",
        "teachers": "teacher's blocks",
    }
    found |= {
        g: getattr(loss, name).parameters() for name, g in names.items() if hasattr(loss, name)
    }
    return {name: list(parameters) for name, parameters in found.items()}


@pytest.mark.parametrize(("method", "term"), REACHED)
def test_a_term_reaches_exactly_these_parameters(method, term):
    student, teacher = network("scenes_small", 0), frozen()
    made = distiller(method, scenes_pair(student, teacher), sparsity=0.2)
    answer, taught = student(batch().images), teacher(batch().images)
    terms = made(taught if method == "srm_dictionary" else answer, taught, batch())
    assert set(terms) == {name for one, name in REACHED if one == method} or method == "srm_init"
    if method == "srm_init":
        assert set(terms) == {"srm_init"}
        terms = made.method_loss.terms(answer, taught)
    terms[term].mean().backward()
    found = groups(student, teacher, made.method_loss)
    learns = {name: [p.grad is not None for p in parameters] for name, parameters in found.items()}
    assert {name for name, some in learns.items() if any(some)} == REACHED[method, term]
    for name in REACHED[method, term]:
        assert all(learns[name]) and any(p.grad.abs().max() > 0 for p in found[name])


FEATURES = {
    "zeros": torch.zeros(2, 3, 4, 4),
    "constant": torch.full((2, 3, 4, 4), 5.0),
    "huge": 3e4 * torch.rand(2, 3, 4, 4),
    "negative": -3e4 * torch.rand(2, 3, 4, 4),
    "one pixel": torch.rand(2, 3, 1, 1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FEATURES)
def test_what_is_degenerate_stays_finite(name, dtype):
    for atoms, kept in ((6, 2), (6, 1), (6, 6), (1, 1)):
        torch.manual_seed(0)
        teacher, student = SparseBlock(3, atoms, kept), SparseBlock(3, atoms)
        features = FEATURES[name].clone().to(dtype).requires_grad_()
        codes, logits = teacher(features.detach()).detach(), student.logits(features)
        images = image_loss(logits.sigmoid(), codes.mean((1, 2)))
        losses = (teacher.errors(features), images, pixel_loss(logits, codes.argmax(-1)))
        assert all(loss.dtype == torch.float32 and loss.isfinite().all() for loss in losses)
        torch.stack(losses).sum().backward()
        for tensor in (features, *teacher.parameters(), *student.parameters()):
            assert tensor.grad.isfinite().all()


def test_atoms_that_are_equal_or_dead_and_a_certain_student_do_no_harm():
    block = SparseBlock(3, 6, 2)
    with torch.no_grad():
        block.atoms[:, 1] = block.atoms[:, 0]
        block.atoms[:, 5] = -100.0
    features = torch.rand(2, 3, 4, 4)
    assert not block(features)[..., 5].any()
    block.errors(features).sum().backward()
    assert block.atoms.grad.isfinite().all() and not block.atoms.grad[:, 5].any()
    certain = torch.tensor([[[[1.0, 0.0]]]], requires_grad=True)
    loss = image_loss(certain, torch.tensor([[0.0, 1.0]]))
    loss.sum().backward()
    assert loss.item() < 20 and certain.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close_to_full(dtype):
    student, teacher = network("scenes_small", 0), frozen()
    full = student(batch().images), teacher(batch().images)
    half = [type(one)(*_as(dtype, one)) for one in full]
    for method in ("srm_dictionary", "srm_init"):
        made = [distiller(method, scenes_pair(student, teacher)) for _ in "ab"]
        one, other = (d(*o, batch())[method] for d, o in zip(made, (full, half), strict=True))
        assert other.dtype == torch.float32
        assert other.item() == pytest.approx(one.item(), rel=0.05)


def _as(dtype, made):
    stages = tuple(stage.detach().to(dtype) for stage in made.stages)
    return made.logits.detach().to(dtype), stages, made.embedding.detach().to(dtype)


@pytest.mark.parametrize("method", ["srm_dictionary", "srm_init", "srm"])
@pytest.mark.parametrize(("changes", "says"), [
    ({"augmentation": ["flip", "mixup"]}, "leave 'mixup' out of augmentation"),
    ({"augmentation": ["sla"]}, "leave 'sla' out of augmentation"),
    ({"task": "segmentation"}, "is for classification and crops, not for task 'segmentation'"),
])  # fmt: skip
def test_no_stage_mixes_images_or_gives_pixels_classes(method, changes, says):
    with pytest.raises(KdlibError, match=f"'{method}'.*{says}"):
        create_distiller(RunConfig(method=method, **changes))
