"""The DCT loss: transforms, bands, options, maps without content; notebook 04 has its findings."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from kdlib.errors import KdlibError
from kdlib.losses import dct
from kdlib.losses.dct import PRESETS, TRANSFORMS, DCTLoss, SpectralOptions, spectral_distance

CHOICES = (TRANSFORMS, dct.VALID["normalise"], ("before", "after"), (True, False), dct.DISTANCES)
BANDS = ["low", ("low",), ("mid", 2), ("range", 1), ("high", -1), ("low", "2"), 3]  # all invalid
EVERY_OPTION = [SpectralOptions(*chosen) for chosen in product(*CHOICES)] + list(PRESETS.values())


def loss(name):
    return lambda student, teacher: spectral_distance(student, teacher, PRESETS[name])


@pytest.mark.parametrize("shape", [(7, 7), (28, 28), (1, 1), (8, 5)])
def test_transforms_equal_scipy_s_and_numpy_s(draw, shape):
    maps = draw(3, *shape, dtype=torch.float64)
    expected = dctn(maps.numpy(), type=2, norm="ortho", axes=(1, 2))
    np.testing.assert_allclose(dct.dct_2d(maps), expected, atol=1e-12)
    np.testing.assert_allclose(dct.dct_2d(maps.float()), expected, atol=2e-5)
    real = np.fft.fft2(maps, norm="ortho").real
    np.testing.assert_allclose(dct.real_fft_2d(maps), real, atol=1e-14)
    basis = dct.dct_matrix(shape[0], torch.float64)
    torch.testing.assert_close(basis @ basis.T, torch.eye(shape[0], dtype=torch.float64))
    assert dct.dct_matrix(shape[0], torch.float64) is basis


@pytest.mark.parametrize(("mode", "size"), [(torch.inference_mode(), 11), (torch.func.grad, 13)])
def test_a_basis_first_made_elsewhere_still_trains(mode, size):
    features, loss = torch.rand(1, 2, size, size), DCTLoss("dct_low")
    mode(loss.forward)(features, features.flip(2))
    loss(features.requires_grad_(), features.flip(2)).backward()
    assert features.grad.any()


def test_bands_of_a_dct_and_of_an_fft_where_a_frequency_has_a_mirror():
    def kept(shape, transform, band, drop_dc=False):
        mask = dct.frequency_mask(shape, transform, band, drop_dc, torch.device("cpu"))
        return torch.ones(shape) if mask is None else mask.float()

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
    mirrored = kept((6, 6), "fft_real", ("low", 2))
    assert mirrored[0].tolist() == [1, 1, 0, 0, 0, 1] and torch.equal(mirrored, mirrored.T)
    assert kept((6, 6), "fft_abs", ("low", 4)).all()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_differ_from_dct_where_they_should_and_ignore_autocast(draw, name):
    pair = draw(8, 14, 14), draw(8, 14, 14)
    exact = [loss(one)(*map(torch.Tensor.double, pair)) for one in ("dct", name)]
    for tolerance in ({"rtol": 1e-12, "atol": 0}, {"rtol": 1e-3}):
        assert torch.allclose(*exact, **tolerance) == (name in ("dct", "parseval_twin"))
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(name)(*pair)
    assert found.dtype == torch.float32 and torch.equal(found, loss(name)(*pair))


@pytest.mark.parametrize("options", EVERY_OPTION[::-11] + list(PRESETS.values()), ids=repr)
def test_the_gradient_is_the_numeric_one(draw, options):
    student = draw(2, 5, 5, dtype=torch.float64).requires_grad_()
    teacher = draw(2, 5, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: spectral_distance(s, teacher, options), student)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_finite_for_equal_constant_zero_and_one_hot_maps(transform):
    some, zero = torch.rand(8, 8, generator=torch.Generator().manual_seed(1)), torch.zeros(8, 8)
    one_hot = zero.index_put((torch.tensor(2), torch.tensor(5)), torch.tensor(1.0))
    maps = torch.stack([some, zero, zero + 3.7, 0.1 + 1e-7 * some, one_hot, 1e-12 * some])
    equal = slice(None, None, len(maps) + 1)
    student = maps.repeat_interleave(len(maps), 0).requires_grad_()
    for options in (one for one in EVERY_OPTION if one.transform == transform):
        loss = spectral_distance(student, maps.repeat(len(maps), 1, 1), options)
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        assert loss.isfinite().all() and gradient.isfinite().all(), options
        assert not loss[equal].any() and not gradient[equal].any(), options


@pytest.mark.parametrize("name", ["dct", "parseval_twin", "release_a", "release_b"])
def test_flat_maps_have_no_spectrum_whatever_their_level(name, draw):
    for size in (7, 28):
        flat = (1000 * draw(64)[:, None, None]).expand(-1, size, size).clone().requires_grad_()
        found = loss(name)(flat, torch.zeros(64, size, size))
        assert not found.any() and not torch.autograd.grad(found.sum(), flat)[0].any()


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("normalise", ["l2", "max_ac", "minmax"])
def test_scale_and_offset_of_a_map_do_not_matter_once_both_are_removed(draw, transform, normalise):
    options = SpectralOptions(transform, normalise)
    student, teacher = draw(3, 8, 8, dtype=torch.float64), draw(3, 8, 8, dtype=torch.float64)
    expected = spectral_distance(student, teacher, options)
    torch.testing.assert_close(spectral_distance(5 * student + 2, teacher, options), expected)


@pytest.mark.parametrize("name", PRESETS)
def test_maps_of_unequal_size_compare_as_the_same_picture(name, draw):
    def smooth(size):
        at = (torch.arange(size, dtype=torch.float64) + 0.5) / size
        return (torch.cos(3 * at)[:, None] * torch.exp(at) + torch.sin(4 * at)).expand(2, -1, -1)

    for first, second in ((smooth(28), smooth(14)), (smooth(7), smooth(56))):
        same, other = loss(name)(first, second), loss(name)(first, second.flip(2))
        assert same.shape == (2,) and same.isfinite().all()
        assert (same < 0.25 * other).all() or name in ("dct_abs", "ours", "dct_high", "release_a")
    assert loss(name)(draw(2, 8, 4), draw(2, 4, 8)).isfinite().all()
    for options in (SpectralOptions(normalise=normalise) for normalise in ("none", "l2")):
        gap, whole = (spectral_distance(k * smooth(64), smooth(16), options) for k in (1, 0))
        assert (gap < 0.05 * whole).all()


def test_options_are_named():
    assert DCTLoss("dct", distance="l1").options == PRESETS["dct_l1"]
    assert DCTLoss(band=["low", 0.5]).options == PRESETS["dct_low"]
    assert dct.options_from("dct", transform="none") == PRESETS["parseval_twin"]
    assert DCTLoss(level_weights="equal_scale").balance.level_weights == "equal_scale"
    assert hash(replace(PRESETS["dct"], band=("high", 3)))


@pytest.mark.parametrize(("changes", "message"), [
    ({"preset": "dcd"}, "Did you mean 'dct'.*release_a"),
    ({"transform": "dtc"}, "dct_abs"),
    ({"normalise_when": "never"}, "before"),
    ({"drop_dc": "yes"}, "drop_dc 'yes'.*False, True"),
    *[({"band": band}, "Valid: null.*high") for band in BANDS],
    ({"transform": "none", "band": ("low", 2)}, "needs a transform"),
    ({"bands": ("low", 2)}, "normalise_when"),
    ({"level_weights": "equal"}, "equal_scale"),
    ({"reduction": "sum"}, "mean, none"),
])  # fmt: skip
def test_mistakes_list_what_is_valid(changes, message):
    with pytest.raises(KdlibError, match=message):
        DCTLoss(**changes)
