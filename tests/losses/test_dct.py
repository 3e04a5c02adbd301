from dataclasses import replace

import pytest
import torch
from losses.reference import released_distance

from kdlib.errors import KdlibError
from kdlib.losses.attention import AttentionLoss, attention_map
from kdlib.losses.dct import (
    DISTANCES,
    NORMALISERS,
    PRESETS,
    TRANSFORMS,
    SpectralLoss,
    SpectralOptions,
    dct_2d,
    preset,
    spectral_distance,
)
from kdlib.models.output import Output

SIZES = (7, 14, 28, 56)
EVERY_OPTION = [
    SpectralOptions(transform, normalise, when, drop_dc, distance)
    for transform in TRANSFORMS
    for normalise in NORMALISERS
    for when in ("before", "after")
    for drop_dc in (True, False)
    for distance in DISTANCES
]


def output(*stages):
    return Output(torch.zeros(len(stages[0]), 2), stages, torch.zeros(len(stages[0]), 2))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "variant"), [("release_a", "A"), ("release_b", "B")])
def test_releases_equal_the_numpy_reference(draw, size, name, variant):
    student, teacher = draw(3, 4, size, size), draw(3, 6, size, size)
    expected = [
        released_distance(s.double().numpy(), t.double().numpy(), variant)
        for s, t in zip(student, teacher, strict=True)
    ]
    result = preset(name)(output(student), output(teacher), torch.zeros(3))
    torch.testing.assert_close(result.double(), torch.tensor(expected), rtol=1e-3, atol=0)
    exact = spectral_distance(
        *(attention_map(f.double()) for f in (student, teacher)), PRESETS[name]
    )
    torch.testing.assert_close(exact, torch.tensor(expected), rtol=1e-9, atol=0)


@pytest.mark.parametrize("size", SIZES)
def test_parseval_twin_has_the_same_loss_and_gradient(draw, size):
    student, teacher = draw(2, 4, size, size, dtype=torch.float64)
    losses, gradients = [], []
    for name in ("dct", "parseval_twin"):
        student = student.detach().requires_grad_()
        losses.append(spectral_distance(student, teacher, PRESETS[name]))
        gradients.append(torch.autograd.grad(losses[-1].sum(), student)[0])
    assert (losses[0] / losses[1] - 1).abs().max() < 1e-12
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-13)


def test_presets_differ_from_dct_where_they_should(draw):
    student, teacher = draw(8, 14, 14), draw(8, 14, 14)
    losses = {name: spectral_distance(student, teacher, o) for name, o in PRESETS.items()}
    torch.testing.assert_close(losses["dct"], losses["parseval_twin"])
    for name in set(PRESETS) - {"dct", "parseval_twin"}:
        assert not torch.allclose(losses["dct"], losses[name], rtol=1e-3), name


def test_dct_by_hand(draw):
    student, teacher = draw(3, 8, 8), draw(3, 8, 8)
    spectra = [dct_2d(maps).flatten(1)[:, 1:] for maps in (student, teacher)]
    expected = torch.dist(*(s[0] / s[0].norm() for s in spectra))
    torch.testing.assert_close(spectral_distance(student, teacher)[0], expected)


@pytest.mark.parametrize("options", EVERY_OPTION[::11] + list(PRESETS.values()), ids=repr)
def test_gradcheck(draw, options):
    student = draw(2, 5, 5, dtype=torch.float64).requires_grad_()
    teacher = draw(2, 5, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: spectral_distance(s, teacher, options), student)


def degenerate_maps():
    generator = torch.Generator().manual_seed(1)
    maps = torch.rand(6, 8, 8, generator=generator)
    maps[1] = 0
    maps[2] = 3.7
    maps[3] = 0.1 + 1e-7 * maps[3]
    maps[4] = 0
    maps[4, 2, 5] = 1
    maps[5] *= 1e-12
    return maps


@pytest.mark.parametrize("options", EVERY_OPTION + list(PRESETS.values()), ids=repr)
def test_finite_for_equal_constant_zero_and_one_hot_maps(options):
    maps = degenerate_maps()
    count = len(maps)
    student = maps.repeat_interleave(count, 0).requires_grad_()
    loss = spectral_distance(student, maps.repeat(count, 1, 1), options)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    equal = slice(None, None, count + 1)
    assert not loss[equal].any()
    assert not gradient[equal].any()


@pytest.mark.parametrize("name", [*PRESETS, "at", "at_equal_scale"])
def test_degenerate_features_are_finite_through_the_network(name, draw):
    levels = "equal_scale" if name == "at_equal_scale" else "equal_weight"
    loss = preset(name) if name in PRESETS else AttentionLoss(levels)
    maps = degenerate_maps().sqrt()[:, None].repeat(1, 3, 1, 1)
    for teacher in (maps, maps.roll(1, 0), maps.roll(2, 0)):
        student = maps.clone().requires_grad_()
        value = loss(output(student), output(teacher), torch.zeros(6))
        value.sum().backward()
        assert value.shape == (6,)
        assert value.isfinite().all() and student.grad.isfinite().all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["dct", "parseval_twin", "release_a", "release_b"])
def test_flat_maps_have_no_spectrum_whatever_their_level(name, size, draw):
    flat = (1000 * draw(64)[:, None, None]).expand(-1, size, size).clone().requires_grad_()
    loss = spectral_distance(flat, torch.zeros(64, size, size), PRESETS[name])
    (gradient,) = torch.autograd.grad(loss.sum(), flat)
    assert not loss.any() and not gradient.any()


@pytest.mark.parametrize("name", PRESETS)
def test_float32_under_autocast(draw, name):
    student, teacher = draw(3, 14, 14), draw(3, 14, 14)
    expected = spectral_distance(student, teacher, PRESETS[name])
    with torch.autocast("cpu", torch.bfloat16):
        result = spectral_distance(student, teacher, PRESETS[name])
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("normalise", ["l2", "max_ac", "minmax"])
def test_scale_and_offset_of_a_map_do_not_matter_once_both_are_removed(draw, transform, normalise):
    options = SpectralOptions(transform, normalise)
    student, teacher = draw(3, 8, 8, dtype=torch.float64), draw(3, 8, 8, dtype=torch.float64)
    expected = spectral_distance(student, teacher, options)
    torch.testing.assert_close(spectral_distance(5 * student + 2, teacher, options), expected)


def smooth(size):
    at = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    return (torch.cos(3 * at)[:, None] * torch.exp(at) + torch.sin(4 * at)).expand(2, -1, -1)


@pytest.mark.parametrize("name", PRESETS)
def test_maps_of_unequal_size_compare_as_the_same_picture(name):
    for pair in ((smooth(28), smooth(14)), (smooth(7), smooth(56))):
        same = spectral_distance(*pair, PRESETS[name])
        other = spectral_distance(pair[0], pair[1].flip(2), PRESETS[name])
        assert same.shape == (2,) and same.isfinite().all()
        assert (same < 0.25 * other).all() or name in ("dct_abs", "ours", "dct_high", "release_a")


@pytest.mark.parametrize("normalise", ["none", "l2"])
def test_unequal_sizes_share_their_low_frequencies(normalise):
    options = SpectralOptions(normalise=normalise)
    gap = spectral_distance(smooth(64), smooth(16), options)
    assert (gap < 0.05 * spectral_distance(0 * smooth(64), smooth(16), options)).all()


def test_unequal_heights_and_widths(draw):
    for options in (PRESETS["dct"], PRESETS["release_a"]):
        assert spectral_distance(draw(2, 8, 4), draw(2, 4, 8), options).isfinite().all()


def test_module_sums_stages_of_unequal_channels_and_sizes_per_image(draw):
    students = [draw(4, c, n, n).requires_grad_() for c, n in ((2, 16), (3, 8))]
    teachers = [draw(4, c, n, n).requires_grad_() for c, n in ((5, 8), (7, 8))]
    targets = torch.zeros(4, dtype=torch.long)
    loss = SpectralLoss()(output(*students), output(*teachers), targets)
    pairs = zip(students, teachers, strict=True)
    terms = [spectral_distance(attention_map(s), attention_map(t)) for s, t in pairs]
    torch.testing.assert_close(loss, terms[0] + terms[1])
    # A gate multiplies images: those it closes must give exactly no gradient.
    (loss * torch.tensor([1, 0, 1, 0])).mean().backward()
    assert students[0].grad[0].any() and not students[0].grad[1].any()
    assert all(t.grad is None for t in teachers)


def test_options_are_named_and_checked():
    assert preset("dct", distance="l1").options == PRESETS["dct_l1"]
    assert SpectralLoss(band=["low", 0.5]).options == PRESETS["dct_low"]
    assert SpectralLoss(transform="none").options == PRESETS["parseval_twin"]
    assert preset("dct", level_weights="equal_scale").balance.level_weights == "equal_scale"
    assert hash(replace(PRESETS["dct"], band=("high", 3)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transform": "dtc"}, "dct_abs"),
        ({"normalise": "l1"}, "max_ac"),
        ({"normalise_when": "never"}, "before"),
        ({"distance": "cosine"}, "squared"),
        ({"drop_dc": "yes"}, "true or false"),
        ({"band": "low"}, "high"),
        ({"transform": "none", "band": ("low", 2)}, "needs a transform"),
        ({"bands": ("low", 2)}, "normalise_when"),
        ({"start": None}, "transform"),
        ({"level_weights": "equal"}, "equal_scale"),
    ],
)
def test_mistakes_list_what_is_valid(changes, message):
    with pytest.raises(KdlibError, match=message):
        SpectralLoss(**changes)


def test_unknown_preset_is_refused():
    with pytest.raises(KdlibError, match="Did you mean 'dct'.*release_a"):
        preset("dcd")
