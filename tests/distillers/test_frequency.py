"""FAM-KD's filter against numpy's Fourier transform."""

import numpy as np
import pytest
import torch
from distillers.networks import pair

from kdlib.losses.review import FrequencyAttention, frequency_review, high_pass


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (1, 1), (4, 6)])
def test_the_output_is_the_filtered_spectrum_beside_the_convolution(size):
    torch.manual_seed(0)
    made, features = FrequencyAttention(3, 5, size), torch.rand(2, 3, *size)
    matrices = made.filter.detach().numpy()
    matrices = (matrices[..., 0] + 1j * matrices[..., 1]) * high_pass(size).numpy()[..., None, None]
    spectrum = np.fft.rfft2(features.numpy(), norm="ortho")
    filtered = np.fft.irfft2(np.einsum("bchw,hwcd->bdhw", spectrum, matrices), s=size, norm="ortho")
    local = made.local(features).detach().numpy()
    assert made(features).detach().numpy() == pytest.approx(filtered + local, abs=1e-4)


def test_half_of_the_frequencies_say_all_that_all_could():
    """A filter of all frequencies, of whose output the real part is kept, is one of half."""
    stream = np.random.default_rng(0)
    features = stream.random((8, 8))
    whole = stream.normal(size=(8, 8)) + 1j * stream.normal(size=(8, 8))
    expected = np.fft.ifft2(np.fft.fft2(features) * whole).real
    mirrored = np.roll(whole[::-1, ::-1], (1, 1), (0, 1))
    half = ((whole + mirrored.conj()) / 2)[:, :5]
    assert np.fft.irfft2(np.fft.rfft2(features) * half, s=(8, 8)) == pytest.approx(expected)


def test_low_frequencies_are_left_to_the_convolution():
    kept = high_pass((32, 32))
    rows, columns = np.fft.fftfreq(32) * 2, np.fft.rfftfreq(32) * 2
    low = (np.abs(rows)[:, None] < 0.1) & (columns[None] < 0.1)
    assert torch.equal(kept == 0, torch.tensor(low)) and low.sum() == 6
    made = FrequencyAttention(2, 2, (8, 8))
    with torch.no_grad():
        made.local.weight.zero_()
        made.local.bias.zero_()
    assert made(torch.ones(1, 2, 8, 8)).abs().max() < 1e-5


def test_the_review_turns_features_by_filters():
    made = frequency_review(pair())
    assert all(isinstance(layer, FrequencyAttention) for layer in made.to_teacher)
