"""Analyses: each measure against a small computation, and those of a folder of trained runs."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.fft import dctn
from torch import nn
from training import tiny

from kdlib.data.image_data import ImageData
from kdlib.errors import KdlibError
from kdlib.models.output import Output
from kdlib.train import fit
from study.analyses import ANALYSIS_FILE, ANSWERS_FILE, MAPS_FILE
from study.analyses.files import load_answers, load_maps, read_analysis, save_maps
from study.analyses.measure import (
    BINS,
    CORRUPTIONS,
    NOISE,
    analyse,
    attention_maps_of,
    calibration,
    mean_spectra,
    noisy,
    occluded,
    radial_energy,
    robustness,
    shown_positions,
    square_masks,
)
from study.analyses.read import read_weights
from study.records import publish


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
    data, versions = pictures(), CORRUPTIONS[name][1]
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


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A teacher, a student that it taught, and another that is on the dev split."""
    folder = tmp_path_factory.mktemp("runs")
    taught = tiny(method="dct")
    runs = [taught.teacher_config(), taught, tiny(method="student", split="dev")]
    for run in runs:
        fit([run], folder, progress=False)
    return folder


def test_runs_are_analysed_once_and_published(root, tmp_path):
    written = analyse(root, progress=False)
    names = {path.parent.name for path in written}
    assert len(names) == 2 and not any("-dev-" in name for name in names)
    assert analyse(root, progress=False) == []
    one = next(path for path in written if "-dct-" in path.parent.name)
    record = json.loads((one.parent / "record.json").read_text())
    found = read_analysis(one)["calibration"]
    pairs = zip(found["count"], found["accuracy"], strict=True)
    right = sum(number * share for number, share in pairs if number) / sum(found["count"])
    assert right == pytest.approx(record["results"]["top1"], abs=1e-4)
    publish(root, tmp_path)
    copies = tmp_path / one.parent.name
    for name in (ANALYSIS_FILE, MAPS_FILE, ANSWERS_FILE):
        assert (copies / name).read_bytes() == (one.parent / name).read_bytes()
    assert not (copies / "weights.safetensors").exists()


def test_a_damaged_analysis_is_made_again(root):
    path = next(root.glob("scenes-*-dct-*")) / ANALYSIS_FILE
    analyse(root, ["dct"], progress=False)
    path.write_text("{")
    assert analyse(root, ["dct"], progress=False) == [path]
    first = path.read_text().split('"provenance"')[0]
    path.unlink()
    analyse(root, ["dct"], progress=False)
    assert path.read_text().split('"provenance"')[0] == first


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"methods": ["dtc"]}, "Did you mean 'dct'"),
        ({"methods": ["at"]}, "no run of at on a test set"),
        ({"dataset": "cifar100"}, "on the test set of cifar100"),
    ],
)
def test_what_cannot_be_analysed_is_told(root, given, message):
    with pytest.raises(KdlibError, match=message):
        analyse(root, progress=False, **given)


def test_records_without_weights_cannot_be_analysed(root, tmp_path):
    publish(root, tmp_path)
    with pytest.raises(KdlibError, match=r"weights\.safetensors.*trained in"):
        analyse(tmp_path, progress=False)


def test_seeds_keep_maps_only_where_asked(root):
    directory = next(root.glob("scenes-*-dct-*"))
    assert (directory / MAPS_FILE).exists()
    other = replace(tiny(method="dct"), init_seed=1)
    fit([other], root, progress=False)
    (path,) = analyse(root, ["dct"], progress=False)
    assert not (path.parent / MAPS_FILE).exists()
    assert analyse(root, ["dct"], maps_seed=1, progress=False) == [path]
    assert (path.parent / MAPS_FILE).exists()


def test_answers_are_those_that_the_record_counts_and_the_teacher_keeps_pictures(root):
    analyse(root, progress=False)
    for path in root.glob("scenes-*-s0-*/" + ANSWERS_FILE):
        found = load_answers(path.parent)
        record = json.loads((path.parent / "record.json").read_text())
        right = (found.answers == found.labels).float().mean().item()
        assert right == pytest.approx(record["results"]["top1"], abs=1e-6)
        assert len(found.images) == (len(found.labels) if "-student-s0" in path.parent.name else 0)


def searched(**accuracies: list[float]) -> pd.DataFrame:
    """A grid: the accuracy of each method at its default weight, twice that, ..."""
    rows = [
        {"method": method, "factor": factor, "top1": top1}
        for method, tried in accuracies.items()
        for factor, top1 in enumerate(tried, 1)
    ]
    return pd.DataFrame(rows)


def test_the_best_weight_and_what_the_worst_costs_are_told():
    text = read_weights(searched(student=[0.5], at=[0.4, 0.6], dct=[0.7, 0.55]))
    assert "AT: best at 2 times its default (60.0%)" in text and "20.0" in text
    assert "1 of them are above the student alone" in text and "2 of them" in text


@pytest.mark.parametrize(("dct", "told"), [([0.7, 0.6], False), ([0.7], True)])
def test_grids_of_unequal_size_are_told(dct, told):
    text = read_weights(searched(at=[0.4, 0.6], dct=dct))
    assert ("differ in size, 1 to 2 weights a method" in text) == told
