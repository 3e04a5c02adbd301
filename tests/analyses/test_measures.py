"""Each measure against a small computation in numpy; the images' harm is always the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from torch import nn

from kdlib.data.image_data import ImageData
from kdlib.models.output import Output
from study.analyses.measure import (
    BINS,
    CORRUPTIONS,
    NOISE,
    attention_maps_of,
    calibration,
    load_maps,
    mean_spectra,
    noisy,
    occluded,
    radial_energy,
    robustness,
    save_maps,
    shown_positions,
    square_masks,
)


def pictures(count=6, side=16):
    images = torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator())
    labels = torch.arange(count) % 2
    mean = (0.5, 0.25, 0.75)
    return ImageData(images.to(torch.uint8), labels, ("a", "b"), mean, (0.2,) * 3, "made up")


class Brightness(nn.Module):
    """Says class b of an image whose mean is above that of the data set."""

    def forward(self, images):
        mean = images.mean((1, 2, 3))
        return Output(torch.stack([-mean, mean], 1), (images, images[:, :, ::2, ::2]), images)


def test_ece_is_the_mean_distance_of_confidence_and_accuracy_in_bins():
    logits = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * 2
    labels = torch.randint(0, 4, (500,), generator=torch.Generator().manual_seed(1))
    exponents = np.exp(logits.double().numpy())
    p = exponents / exponents.sum(1, keepdims=True)
    confidence, right = p.max(1), p.argmax(1) == labels.numpy()
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    inside = [place == number for number in range(BINS)]
    gaps = [
        abs(confidence[one].mean() - right[one].mean()) * one.mean() for one in inside if any(one)
    ]
    found = calibration(logits, labels)
    assert found["ece"] == pytest.approx(sum(gaps), abs=1e-6)
    assert found["count"] == [int(one.sum()) for one in inside]
    pairs = zip(found["count"], found["accuracy"], strict=True)
    assert sum(n * share for n, share in pairs if n) == pytest.approx(right.sum())


def test_a_network_that_is_sure_and_right_is_calibrated():
    found = calibration(torch.eye(3) * 1000, torch.arange(3))
    assert found["ece"] == pytest.approx(0, abs=1e-6)
    assert found["count"][-1] == 3 and found["accuracy"][:-1] == [None] * (BINS - 1)


def test_energy_is_that_of_scipys_dct_by_distance_from_the_mean():
    maps = np.random.default_rng(0).random((2, 4, 4))
    energy = np.square(dctn(maps, axes=(1, 2), norm="ortho"))
    energy[:, 0, 0] = 0
    bands = np.round(np.hypot(*np.indices((4, 4)))).astype(int)
    expected = [[one[bands == k].sum() / one.sum() for k in range(1, 5)] for one in energy]
    assert radial_energy(torch.tensor(maps)).numpy() == pytest.approx(np.array(expected))


def test_a_flat_map_has_no_energy_to_share_out():
    assert radial_energy(torch.full((1, 8, 8), 0.3)).sum() == 0
    stripes = torch.tensor([1.0, -1.0, -1.0, 1.0]).expand(1, 4, 4)
    assert radial_energy(stripes)[0].tolist() == pytest.approx([0, 1, 0, 0])


def test_spectra_of_all_images_are_the_mean_of_each():
    data = pictures()
    spectra = mean_spectra(Brightness(), data)
    assert [len(stage) for stage in spectra] == [21, 10]
    assert [sum(stage) for stage in spectra] == pytest.approx([1, 1])


def test_noise_has_the_deviation_that_it_should_have():
    data = replace(pictures(), images=torch.full((2, 3, 64, 64), 128, dtype=torch.uint8))
    for sigma, images in zip(NOISE, noisy(data, torch.arange(2)), strict=True):
        assert (images.double() - 128).std() / 255 == pytest.approx(sigma, rel=0.03)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_befalls_an_image_depends_on_its_position_alone(name):
    data, versions = pictures(), CORRUPTIONS[name].versions
    together = list(versions(data, torch.arange(6)))
    alone = list(versions(data.part(4, 5), torch.tensor([4])))
    assert all(torch.equal(a[4:5], b) for a, b in zip(together, alone, strict=True))
    assert not torch.equal(together[0], data.images)


def test_a_square_has_its_share_and_lies_inside():
    corners = torch.tensor([[0.0, 0.0], [0.999, 0.999], [1.0, 0.0]])
    masks = square_masks(corners, 0.25, 8, 8)
    assert masks.sum((1, 2)).tolist() == [16, 16, 16]
    assert masks[0, :4, :4].all() and masks[1, 4:, 4:].all() and masks[2, 4:, :4].all()


def test_what_is_hidden_has_the_mean_colour():
    data = pictures()
    *_, images = occluded(data, torch.arange(6))
    changed = (images != data.images).any(1)
    colour = images.permute(0, 2, 3, 1)[changed].unique(dim=0)
    assert colour.tolist() == [[128, 64, 191]]


def test_accuracy_under_corruption_begins_with_that_of_whole_images():
    data = pictures()
    answers = Brightness()(
        (data.images.float() / 255 - torch.tensor(data.mean)[:, None, None]) / 0.2
    )
    right = (answers.logits.argmax(1) == data.labels).double().mean().item()
    found = robustness(Brightness(), data)
    assert {one["top1"][0] for one in found.values()} == {right}
    assert found["noise"]["level"] == [0, *NOISE]


def test_shown_images_are_the_first_of_classes_that_lie_evenly():
    labels = torch.tensor([3, 0, 2, 0, 1, 2])
    assert shown_positions(labels, 4, count=2) == [1, 2]
    assert shown_positions(labels[:3], 4, count=4) == [1, 2, 0]


def test_maps_come_back_from_their_file(tmp_path):
    found = attention_maps_of(Brightness(), pictures())
    save_maps(tmp_path, found)
    again = load_maps(tmp_path)
    assert all(map(torch.equal, again.stages, found.stages))
    assert (again.positions, again.labels) == ((0, 1), ("a", "b"))
    assert again.predicted == found.predicted
    assert found.stages[1].shape == (2, 8, 8) and int(found.stages[0].max()) == 255
    assert again.images[0].shape == (3, 16, 16)
