"""The DCT loss: its transforms and bands, each option and preset, and maps without content."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from losses.reference import released_distance
from scipy.fft import dctn

from kdlib.errors import KdlibError
from kdlib.losses.attention import ATLoss, attention_map
from kdlib.losses.dct import (
    DISTANCES,
    NORMALISERS,
    PRESETS,
    TRANSFORMS,
    DCTLoss,
    SpectralOptions,
    checked_band,
    dct_2d,
    dct_matrix,
    frequency_mask,
    options_from,
    real_fft_2d,
    spectral_distance,
)

SIZES = (7, 14, 28, 56)
CHOICES = (TRANSFORMS, NORMALISERS, ("before", "after"), (True, False), DISTANCES)
EVERY_OPTION = [SpectralOptions(*chosen) for chosen in product(*CHOICES)]


@pytest.mark.parametrize("shape", [(7, 7), (14, 14), (28, 28), (56, 56), (1, 1), (8, 5)])
def test_dct_equals_scipy(draw, shape):
    maps = draw(3, *shape, dtype=torch.float64)
    expected = dctn(maps.numpy(), type=2, norm="ortho", axes=(1, 2))
    np.testing.assert_allclose(dct_2d(maps), expected, atol=1e-12)
    np.testing.assert_allclose(dct_2d(maps.float()), expected, atol=2e-5)


def test_basis_is_orthonormal_and_cached():
    basis = dct_matrix(14, torch.float64)
    torch.testing.assert_close(basis @ basis.T, torch.eye(14, dtype=torch.float64))
    assert dct_matrix(14, torch.float64) is basis


@pytest.mark.parametrize("first", ["inference mode", "another gradient"])
def test_a_basis_first_made_elsewhere_still_trains(first):
    size, loss = {"inference mode": 11, "another gradient": 13}[first], DCTLoss("dct_low")
    features = torch.rand(1, 2, size, size)
    if first == "inference mode":
        with torch.inference_mode():
            loss(features, features.flip(2))
    else:
        torch.func.grad(loss)(features, features.flip(2))
    loss(features.requires_grad_(), features.flip(2)).backward()
    assert features.grad.any()


def test_real_fft_is_that_of_the_even_part(draw):
    maps = draw(2, 6, 9, dtype=torch.float64)
    np.testing.assert_allclose(real_fft_2d(maps), np.fft.fft2(maps, norm="ortho").real, atol=1e-14)


def kept(shape, transform, band, drop_dc=False):
    mask = frequency_mask(shape, transform, band, drop_dc, torch.device("cpu"))
    return torch.ones(shape) if mask is None else mask


def test_bands_of_a_dct():
    low = kept((4, 6), "dct", ("low", 2))
    assert low[:2, :2].sum() == 4 == low.sum()
    half = kept((4, 6), "dct", ("low", 0.5))
    assert half[:2, :3].sum() == 6 == half.sum()
    assert torch.equal(half + kept((4, 6), "dct", ("high", 0.5)), torch.ones(4, 6))
    whole = kept((5, 5), "dct", ("range", 0, 5), drop_dc=True)
    assert whole.flatten()[:2].tolist() == [0, 1] and whole.sum() == 24
    ring = kept((4, 4), "dct", ("range", 1, 2))
    assert ring.sum() == 3 and ring[0, 0] == 0
    with pytest.raises(KdlibError, match="widen"):
        kept((4, 4), "dct", ("range", 2, 2))


def test_bands_of_an_fft_keep_a_frequency_and_its_mirror():
    low = kept((6, 6), "fft_real", ("low", 2))
    assert torch.equal(low[0], torch.tensor([1.0, 1, 0, 0, 0, 1]))
    assert torch.equal(low, low.T)
    assert kept((6, 6), "fft_abs", ("low", 4)).all()


@pytest.mark.parametrize(
    "bad", ["low", ("low",), ("mid", 2), ("range", 1), ("high", -1), ("low", "2"), 3]
)
def test_invalid_bands_are_refused(bad):
    with pytest.raises(KdlibError, match="Valid:"):
        checked_band(bad)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "variant"), [("release_a", "A"), ("release_b", "B")])
def test_releases_equal_the_numpy_reference(draw, size, name, variant):
    student, teacher = draw(3, 4, size, size), draw(3, 6, size, size)
    expected = [
        released_distance(s.double().numpy(), t.double().numpy(), variant)
        for s, t in zip(student, teacher, strict=True)
    ]
    result = DCTLoss(name, "none")(student, teacher)
    torch.testing.assert_close(result.double(), torch.tensor(expected), rtol=1e-3, atol=0)
    exact = spectral_distance(
        *(attention_map(f.double()) for f in (student, teacher)), PRESETS[name]
    )
    torch.testing.assert_close(exact, torch.tensor(expected), rtol=1e-9, atol=0)


@pytest.mark.parametrize("size", SIZES)
def test_the_parseval_twin_has_the_same_loss_and_gradient(draw, size):
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


@pytest.mark.parametrize("options", EVERY_OPTION[::11] + list(PRESETS.values()), ids=repr)
def test_the_gradient_is_the_numeric_one(draw, options):
    student = draw(2, 5, 5, dtype=torch.float64).requires_grad_()
    teacher = draw(2, 5, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: spectral_distance(s, teacher, options), student)


def degenerate_maps():
    maps = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(1))
    maps[1] = 0
    maps[2] = 3.7
    maps[3] = 0.1 + 1e-7 * maps[3]
    maps[4] = 0
    maps[4, 2, 5] = 1
    maps[5] *= 1e-12
    return maps


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_finite_for_equal_constant_zero_and_one_hot_maps(transform):
    maps = degenerate_maps()
    equal = slice(None, None, len(maps) + 1)
    student = maps.repeat_interleave(len(maps), 0).requires_grad_()
    for options in [*EVERY_OPTION, *PRESETS.values()]:
        if options.transform == transform:
            loss = spectral_distance(student, maps.repeat(len(maps), 1, 1), options)
            (gradient,) = torch.autograd.grad(loss.sum(), student)
            assert loss.isfinite().all() and gradient.isfinite().all(), options
            assert not loss[equal].any() and not gradient[equal].any(), options


@pytest.mark.parametrize("name", [*PRESETS, "at", "at_equal_scale"])
def test_degenerate_features_are_finite_through_the_network(name):
    levels = "equal_scale" if name == "at_equal_scale" else "equal_weight"
    loss = DCTLoss(name, "none") if name in PRESETS else ATLoss("none", level_weights=levels)
    maps = degenerate_maps().sqrt()[:, None].repeat(1, 3, 1, 1)
    for teacher in (maps, maps.roll(1, 0), maps.roll(2, 0)):
        student = maps.clone().requires_grad_()
        value = loss([student], [teacher])
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
def test_maps_of_unequal_size_compare_as_the_same_picture(name, draw):
    for pair in ((smooth(28), smooth(14)), (smooth(7), smooth(56))):
        same = spectral_distance(*pair, PRESETS[name])
        other = spectral_distance(pair[0], pair[1].flip(2), PRESETS[name])
        assert same.shape == (2,) and same.isfinite().all()
        assert (same < 0.25 * other).all() or name in ("dct_abs", "ours", "dct_high", "release_a")
    assert spectral_distance(draw(2, 8, 4), draw(2, 4, 8), PRESETS[name]).isfinite().all()


@pytest.mark.parametrize("normalise", ["none", "l2"])
def test_unequal_sizes_share_their_low_frequencies(normalise):
    options = SpectralOptions(normalise=normalise)
    gap = spectral_distance(smooth(64), smooth(16), options)
    assert (gap < 0.05 * spectral_distance(0 * smooth(64), smooth(16), options)).all()


def test_options_are_named_and_checked():
    assert DCTLoss("dct", distance="l1").options == PRESETS["dct_l1"]
    assert DCTLoss(band=["low", 0.5]).options == PRESETS["dct_low"]
    assert options_from("dct", transform="none") == PRESETS["parseval_twin"]
    assert DCTLoss(level_weights="equal_scale").balance.level_weights == "equal_scale"
    assert hash(replace(PRESETS["dct"], band=("high", 3)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "dcd"}, "Did you mean 'dct'.*release_a"),
        ({"transform": "dtc"}, "dct_abs"),
        ({"normalise": "l1"}, "max_ac"),
        ({"normalise_when": "never"}, "before"),
        ({"distance": "cosine"}, "squared"),
        ({"drop_dc": "yes"}, "drop_dc .yes.*False, True"),
        ({"band": "low"}, "high"),
        ({"transform": "none", "band": ("low", 2)}, "needs a transform"),
        ({"bands": ("low", 2)}, "normalise_when"),
        ({"start": None}, "transform"),
        ({"level_weights": "equal"}, "equal_scale"),
        ({"reduction": "sum"}, "mean, none"),
    ],
)
def test_mistakes_list_what_is_valid(changes, message):
    with pytest.raises(KdlibError, match=message):
        DCTLoss(**changes)
