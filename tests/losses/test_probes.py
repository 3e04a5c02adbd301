"""Each row of the findings on the released loss, recomputed."""

import pytest
import torch
from probes import (
    distinct_coefficients,
    even_part,
    invisible_share,
    mean_loss_by_size,
    rank_correlation,
    released_loss,
    reverse_circularly,
    smooth_maps,
)

from kdlib.losses.attention import at_loss_per_image
from kdlib.losses.dct import PRESETS, real_fft_2d, spectral_distance

SIZES = (56, 28, 14, 7)


def loss(name):
    return lambda student, teacher: spectral_distance(student, teacher, PRESETS[name])


@pytest.mark.parametrize("size", SIZES)
def test_real_fft_is_the_fft_of_the_even_part(size):
    maps = smooth_maps(4, size, seed=0)
    even = torch.fft.fft2(even_part(maps), norm="ortho")
    assert (real_fft_2d(maps) - even).abs().max() < 1e-12 * even.abs().max()


def test_about_half_of_a_smooth_map_is_invisible():
    share = invisible_share(smooth_maps(100, 28, seed=0)).mean()
    assert 0.4 < share < 0.6


def test_distinct_coefficients():
    assert distinct_coefficients("fft_real", 8) == 34
    assert distinct_coefficients("dct", 8) == 64


@pytest.mark.parametrize("name", ["release_a", "release_b"])
def test_circular_reversal_is_not_seen_by_the_release(name):
    maps = smooth_maps(4, 14, seed=0)
    reverse = reverse_circularly(maps)
    assert (loss(name)(maps, reverse) < 1e-12).all()
    assert (loss("dct")(maps, reverse) > 0.1).all()


def test_absolute_dct_is_blind_to_mirror_flips():
    maps = smooth_maps(4, 14, seed=0)
    for axis in (1, 2):
        assert (loss("dct_abs")(maps, maps.flip(axis)) < 1e-12).all()
        assert (loss("dct")(maps, maps.flip(axis)) > 0.1).all()


def test_parseval_ratio_is_one():
    first, second = smooth_maps(8, 28, seed=0).chunk(2)
    ratio = loss("dct")(first, second) / loss("parseval_twin")(first, second)
    assert (ratio - 1).abs().max() < 1e-12


def test_level_balance():
    balance = {
        name: mean_loss_by_size(loss(name), SIZES, count=100, seed=0)
        for name in ("release_a", "release_b", "newl2", "dct")
    }
    balance["at"] = mean_loss_by_size(at_loss_per_image, SIZES, count=100, seed=0)
    spread = {name: means[56] / means[7] for name, means in balance.items()}
    assert spread["dct"] == pytest.approx(1, abs=0.05)
    assert spread["release_a"] == pytest.approx(1, abs=0.2)
    assert spread["release_b"] > 2 and spread["newl2"] > 4
    assert spread["at"] < 1 / 50
    assert list(balance["release_a"].values()) == pytest.approx([2.95, 2.82, 2.8, 2.66], rel=0.1)


@pytest.mark.parametrize("absolute", [True, False])
def test_the_released_loss_is_not_finite_and_ours_is(absolute):
    name = "release_a" if absolute else "release_b"
    first, second = smooth_maps(4, 14, seed=0).chunk(2)
    released = released_loss(first, second, absolute)
    torch.testing.assert_close(loss(name)(first, second), released)

    same = first.clone().requires_grad_()
    released_loss(same, first, absolute).sum().backward()
    assert same.grad.isnan().any()

    for flat in (torch.zeros_like(first), torch.full_like(first, 0.3)):
        released = released_loss(flat, first, absolute)
        assert released.isnan().all() and (0 * released).isnan().all()
        assert loss(name)(flat, first).isfinite().all()


@pytest.mark.parametrize("name", ["release_a", "release_b"])
def test_the_released_loss_ranks_pairs_unlike_a_true_dct(name):
    correlation = rank_correlation(loss(name), loss("dct"), size=28, count=200, seed=0)
    assert correlation < 0.5


def test_smooth_maps_are_the_same_pictures_at_every_size():
    fine, coarse = (smooth_maps(3, size, seed=5) for size in (56, 28))
    pooled = torch.nn.functional.avg_pool2d(fine, 2)
    assert torch.equal(fine, smooth_maps(3, 56, seed=5))
    assert (pooled - coarse).abs().mean() < 0.02
