"""Analyses: each measure against a small computation, and those of a folder of trained runs."""

import json
from dataclasses import replace
from shutil import copy

import numpy as np
import pandas as pd
import pytest
import torch
from analysis_readings import read_weights
from scipy.fft import dctn
from torch import nn
from training import tiny

from kdlib import KdlibError, Output, fit
from kdlib.data.image_data import ImageData
from study.analyses import ANALYSIS_FILE, ANSWERS_FILE, MAPS_FILE, measure, objects
from study.analyses.files import load_answers, load_maps, read_analysis, save_maps
from study.analyses.measure import BINS, CORRUPTIONS, NOISE, analyse
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
    bins = [place == number for number in range(BINS)]
    gaps = [abs((confidence[one] - right[one]).sum()) / 500 for one in bins]
    found = measure.calibration(logits, labels)
    assert found["ece"] == pytest.approx(sum(gaps), abs=1e-6)
    assert found["count"] == [int(one.sum()) for one in bins]
    pairs = zip(found["count"], found["accuracy"], strict=True)
    assert sum(n * share for n, share in pairs if n) == pytest.approx(right.sum())
    sure = measure.calibration(torch.eye(3) * 1000, torch.arange(3))
    assert sure["ece"] == pytest.approx(0, abs=1e-6)
    assert sure["count"][-1] == 3 and sure["accuracy"][:-1] == [None] * (BINS - 1)


def test_maps_are_judged_by_whether_relevant_objects_are_above_the_others():
    masks = torch.eye(4, dtype=torch.bool).view(4, 1, 2, 2)  # one pixel each
    maps = torch.tensor([[[3.0, 1.0], [2.0, 2.0]]])
    for one, other, auc in ((0, 1, 1.0), (1, 0, 0.0), (2, 3, 0.5), (1, 1, 0.5)):
        assert objects.selectivity(maps, masks[one], masks[other]).tolist() == [auc]
    both = masks[0] | masks[1]
    assert objects.pointing_given_object(maps, masks[0], both).tolist() == [1.0]
    assert objects.pointing_given_object(maps, masks[3], masks[3]).isnan().all()


def test_energy_is_that_of_scipys_dct_by_distance_from_the_mean():
    maps = np.random.default_rng(0).random((2, 4, 4))
    energy = np.square(dctn(maps, axes=(1, 2), norm="ortho"))
    energy[:, 0, 0] = 0
    bands = np.round(np.hypot(*np.indices((4, 4)))).astype(int)
    expected = [[one[bands == k].sum() / one.sum() for k in range(1, 5)] for one in energy]
    assert measure.radial_energy(torch.tensor(maps)).numpy() == pytest.approx(np.array(expected))
    assert measure.radial_energy(torch.full((1, 8, 8), 0.3)).sum() == 0  # a flat map has none
    spectra = measure.mean_spectra(Brightness(), pictures())
    assert [len(stage) for stage in spectra] == [21, 10]
    assert [sum(stage) for stage in spectra] == pytest.approx([1, 1])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_befalls_an_image_depends_on_its_position_alone(name):
    data, versions = pictures(), CORRUPTIONS[name][1]
    together = list(versions(data, torch.arange(6)))
    alone = list(versions(data.part(4, 5), torch.tensor([4])))
    assert all(torch.equal(a[4:5], b) for a, b in zip(together, alone, strict=True))
    assert not torch.equal(together[0], data.images)


def test_noise_has_its_deviation_and_what_is_hidden_the_mean_colour():
    data = replace(pictures(), images=torch.full((2, 3, 64, 64), 128, dtype=torch.uint8))
    for sigma, images in zip(NOISE, measure.noisy(data, torch.arange(2)), strict=True):
        assert (images.double() - 128).std() / 255 == pytest.approx(sigma, rel=0.03)
    data = pictures()
    *_, images = measure.occluded(data, torch.arange(6))
    colours = images.permute(0, 2, 3, 1)[(images != data.images).any(1)]
    assert colours.unique(dim=0).tolist() == [[128, 64, 191]]
    corners = torch.tensor([[0.0, 0.0], [0.999, 0.999], [1.0, 0.0]])
    masks = measure.square_masks(corners, 0.25, 8, 8)
    assert masks.sum((1, 2)).tolist() == [16, 16, 16]
    assert masks[0, :4, :4].all() and masks[1, 4:, 4:].all() and masks[2, 4:, :4].all()


def test_accuracy_under_corruption_begins_with_that_of_whole_images():
    data = pictures()
    means = torch.tensor(data.mean)[:, None, None]
    answers = Brightness()((data.images.float() / 255 - means) / 0.2).logits
    found = measure.robustness(Brightness(), data)
    right = (answers.argmax(1) == data.labels).double().mean().item()
    assert {one["top1"][0] for one in found.values()} == {right}
    assert found["noise"]["level"] == [0, *NOISE]


def test_maps_of_the_first_images_of_evenly_lying_classes_come_back_from_their_file(tmp_path):
    labels = torch.tensor([3, 0, 2, 0, 1, 2])
    assert measure.shown_positions(labels, 4, count=2) == [1, 2]
    assert measure.shown_positions(labels[:3], 4, count=4) == [1, 2, 0]
    found = measure.attention_maps_of(Brightness(), pictures())
    save_maps(tmp_path, found)
    again = load_maps(tmp_path)
    assert all(map(torch.equal, again.stages, found.stages)) and again[2:] == found[2:]
    assert (again.positions, again.labels) == ((0, 1), ("a", "b"))
    assert found.stages[1].shape == (2, 8, 8) and int(found.stages[0].max()) == 255
    assert again.images[0].shape == (3, 16, 16)
    (other := tmp_path / "other").mkdir()
    copy(tmp_path / MAPS_FILE, other)
    with pytest.raises(KdlibError, match=f"is of run {tmp_path.name}; this needs run other"):
        load_maps(other)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A teacher, a student that it taught, and another that is on the dev split."""
    folder = tmp_path_factory.mktemp("runs")
    taught = tiny(method="dct")
    for run in (taught.teacher_config(), taught, tiny(method="student", split="dev")):
        fit([run], folder, progress=False)
    return folder


def test_runs_are_analysed_once_and_published_and_again_if_damaged(root, tmp_path):
    for given, message in (
        ({"methods": ["dtc"]}, "Did you mean 'dct'"),
        ({"methods": ["at"]}, "no run of at on a test set"),
        ({"dataset": "cifar100"}, "on the test set of cifar100"),
    ):
        with pytest.raises(KdlibError, match=message):
            analyse(root, **given)
    written = {path.parent.name.split("-")[3]: path for path in analyse(root)}
    assert set(written) == {"dct", "student"} and analyse(root) == []
    path = written["dct"]
    found = read_analysis(path)["objects"]
    of_stages = [len(found.pop(name)) for name in [*found] if "removal" not in name]
    assert of_stages == [3] * 4 and found.keys() == {"removal_relevant", "removal_other"}
    for method, one in written.items():
        top1 = json.loads((one.parent / "record.json").read_text())["results"]["top1"]
        found = read_analysis(one)["calibration"]
        pairs = zip(found["count"], found["accuracy"], strict=True)
        right = sum(number * share for number, share in pairs if number) / sum(found["count"])
        assert right == pytest.approx(top1, abs=1e-4)
        answers = load_answers(one.parent)
        right = (answers.answers == answers.labels).float().mean().item()
        assert right == pytest.approx(top1, abs=1e-6)
        assert len(answers.images) == (len(answers.labels) if method == "student" else 0)
    publish(root, tmp_path / "committed")
    copies = tmp_path / "committed" / path.parent.name
    assert read_analysis(copies / ANALYSIS_FILE) == read_analysis(path)
    for name in (MAPS_FILE, ANSWERS_FILE):
        assert (copies / name).read_bytes() == (path.parent / name).read_bytes()
    assert not (copies / "weights.safetensors").exists()
    with pytest.raises(KdlibError, match=r"weights\.safetensors.*trained in"):
        analyse(tmp_path / "committed")
    first = path.read_text().split('"provenance"')[0]
    path.write_text("{")
    assert analyse(root, methods=["dct"]) == [path]
    assert path.read_text().split('"provenance"')[0] == first
    # Seeds keep maps only where asked.
    fit([replace(tiny(method="dct"), init_seed=1)], root, progress=False)
    path = next(path for path in analyse(root, methods=["dct"]) if "-s1-" in str(path))
    assert not (path.parent / MAPS_FILE).exists()
    assert analyse(root, methods=["dct"], maps_seed=1) == [path]
    assert (path.parent / MAPS_FILE).exists()


def test_unequal_grids_are_told():
    grid = [("at", 1, 0.4), ("at", 2, 0.6), ("dct", 1, 0.7)]
    told = read_weights(pd.DataFrame(grid, columns=["method", "factor", "top1"]))
    assert "differ in size, 1 to 2 weights a method" in told
