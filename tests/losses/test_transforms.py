import numpy as np
import pytest
import torch
from scipy.fft import dctn

from kdlib.errors import KdlibError
from kdlib.losses.dct import checked_band, dct_2d, dct_matrix, frequency_mask, real_fft_2d


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


def test_a_basis_first_made_in_inference_mode_still_trains():
    with torch.inference_mode():
        dct_2d(torch.ones(1, 11, 11))
        frequency_mask((11, 11), "dct", None, True, torch.float32, torch.device("cpu"))
    maps = torch.rand(1, 11, 11, requires_grad=True)
    mask = frequency_mask((11, 11), "dct", None, True, torch.float32, torch.device("cpu"))
    (dct_2d(maps) * mask).square().sum().backward()


def test_real_fft_is_that_of_the_even_part(draw):
    maps = draw(2, 6, 9, dtype=torch.float64)
    np.testing.assert_allclose(real_fft_2d(maps), np.fft.fft2(maps, norm="ortho").real, atol=1e-14)


def kept(shape, transform, band, drop_dc=False):
    mask = frequency_mask(shape, transform, band, drop_dc, torch.float32, torch.device("cpu"))
    return torch.ones(shape) if mask is None else mask


def test_bands_of_a_dct():
    assert (
        kept((4, 6), "dct", ("low", 2))[:2, :2].sum() == 4 == kept((4, 6), "dct", ("low", 2)).sum()
    )
    half = kept((4, 6), "dct", ("low", 0.5))
    assert half[:2, :3].sum() == 6 == half.sum()
    assert torch.equal(half + kept((4, 6), "dct", ("high", 0.5)), torch.ones(4, 6))
    assert torch.equal(kept((5, 5), "dct", ("range", 0, 5), drop_dc=True).flatten()[:2],
                       torch.tensor([0.0, 1.0]))  # fmt: skip
    ring = kept((4, 4), "dct", ("range", 1, 2))
    assert ring.sum() == 3 and ring[0, 0] == 0


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


def test_an_empty_band_is_refused():
    with pytest.raises(KdlibError, match="widen"):
        kept((4, 4), "dct", ("range", 2, 2))
