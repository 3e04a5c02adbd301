"""Accuracies, SSIM and relevance against direct computation, and their degenerate cases."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score
from torch import nn

from kdlib import KdlibError, create_model, evaluate
from kdlib.data.image_data import ImageData
from kdlib.evaluate import MOST_CONFUSED, classification_metrics, evaluate_student, ssim_per_image

CLASSES, MEASURES = 7, (evaluate.energy_share, evaluate.pointing_hit)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return create_model("scenes_small", CLASSES)


@pytest.fixture
def data() -> ImageData:
    stream = torch.Generator().manual_seed(0)
    masks = torch.rand(30, 16, 16, generator=stream) < 0.3
    images = torch.randint(0, 256, (30, 3, 16, 16), generator=stream, dtype=torch.uint8)
    labels, colour = torch.randint(0, CLASSES, (30,), generator=stream), (0.5, 0.5, 0.5)
    facts = (tuple("abcdefg"), colour, colour, "0")
    return ImageData(images, labels, *facts, relevance=lambda indices: masks[indices])


def test_accuracies_equal_those_of_scikit_learn():
    logits = torch.randn(200, CLASSES, generator=torch.Generator().manual_seed(1))
    labels, predicted = torch.arange(200) % CLASSES, logits.argmax(1)
    metrics = classification_metrics(logits, labels)
    assert metrics["top1"] == pytest.approx((predicted == labels).double().mean().item())
    assert metrics["top5"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    assert metrics["mca"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert metrics["mca_all"] == pytest.approx(metrics["mca"])
    table = confusion_matrix(labels, predicted)
    assert metrics["confusion"] == table.tolist()
    assert metrics["per_class"] == (table.diagonal() / table.sum(1)).tolist()


def test_classes_that_do_not_occur_very_many_classes_and_labels_that_do_not_fit():
    metrics = classification_metrics(torch.eye(4)[[0, 0, 1]], torch.tensor([0, 0, 1]))
    assert metrics["mca"] == 1 and metrics["mca_all"] == 0.5 and metrics["top5"] == 1
    assert metrics["per_class"] == [1.0, 1.0, None, None]
    metrics = classification_metrics(torch.eye(MOST_CONFUSED + 1), torch.arange(MOST_CONFUSED + 1))
    assert metrics["confusion"] is None and metrics["top1"] == 1
    for labels in ([], [9]):
        with pytest.raises(KdlibError, match="do not fit logits of 7 classes"):
            classification_metrics(torch.zeros(len(labels), CLASSES), torch.tensor(labels).long())


def direct_ssim(x: np.ndarray, y: np.ndarray, width: int) -> float:
    """SSIM with a two-dimensional window, straight from the definition."""
    x, y = ((m - m.min()) / (m.max() - m.min()) for m in (x, y))
    axis = np.arange(width) - width // 2
    line = np.exp(-(axis**2) / (2 * (1.5 * width / 11) ** 2))
    window = np.outer(line, line) / line.sum() ** 2
    mean, other = (correlate(m, window, mode="mirror") for m in (x, y))
    var = correlate((x * x), window, mode="mirror") - mean**2
    var_other = correlate((y * y), window, mode="mirror") - other**2
    cov = correlate((x * y), window, mode="mirror") - mean * other
    top = (2 * mean * other + 1e-4) * (2 * cov + 9e-4)
    return float((top / ((mean**2 + other**2 + 1e-4) * (var + var_other + 9e-4))).mean())


@pytest.mark.parametrize(("side", "width"), [(32, 11), (11, 11), (8, 7), (7, 7), (4, 3), (2, 1)])
def test_ssim_equals_the_definition_at_every_size(side, width):
    x, y = np.random.default_rng(side).random((2, side, side))
    found = ssim_per_image(torch.tensor(x)[None], torch.tensor(y)[None])
    assert found.item() == pytest.approx(direct_ssim(x, y, width), abs=2e-5)


def test_ssim_ignores_offset_and_scale_and_compares_at_the_smaller_size():
    maps = torch.rand(3, 9, 9)
    same, flat = ssim_per_image(maps, 5 + 3 * maps), ssim_per_image(torch.ones(3, 9, 9), maps)
    assert torch.allclose(same, torch.ones(3), atol=1e-4)
    assert flat.isfinite().all() and (flat < 0.5).all()
    enlarged = maps.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.allclose(ssim_per_image(enlarged, maps), torch.ones(3), atol=1e-5)


def test_relevance_equals_that_of_the_enlarged_map_and_1_where_attention_is_perfect():
    stream = np.random.default_rng(0)
    attention, masks = stream.random((5, 4, 4)), stream.random((5, 16, 16)) < 0.4
    attention[4], masks[4] = 0, False
    attention[4, 1, 2], masks[4, 4:8, 8:12] = 3, True
    enlarged = attention.repeat(4, 1).repeat(4, 2)
    expected = (enlarged * masks).sum((1, 2)) / enlarged.sum((1, 2))
    shares, hits = (f(torch.tensor(attention), torch.tensor(masks)) for f in MEASURES)
    assert shares.numpy() == pytest.approx(expected)
    peaks = enlarged == enlarged.max((1, 2), keepdims=True)
    assert hits.numpy() == pytest.approx([masks[i][peaks[i]].mean() for i in range(5)])
    assert shares[4] == hits[4] == 1
    for value in (0.0, 2.0):  # attention that knows nothing scores the relevant area
        flat, masks = torch.full((4, 4, 4), value), torch.rand(4, 16, 16) < 0.2
        for measure in MEASURES:
            assert torch.allclose(measure(flat, masks), masks.float().mean((1, 2)))


def test_a_pass_does_not_depend_on_the_batch_size(data):
    student, teacher = network(0), network(1)
    few, many = (evaluate_student(student, teacher, data, batch_size=size) for size in (7, 250))
    assert few["results"]["confusion"] == many["results"]["confusion"]
    assert few["ssim"] == pytest.approx(many["ssim"], abs=1e-5)
    for of in ("student", "teacher"):
        for measure, stages in few["relevance"][of].items():
            assert stages == pytest.approx(many["relevance"][of][measure], abs=1e-5)
    area = data.relevance(torch.arange(30)).float().mean().item()
    assert few["relevance"]["chance"] == pytest.approx(area)
    measured = evaluate_student(student, None, replace(data, relevance=None))
    assert measured["ssim"] is None and measured["relevance"] is None


def test_evaluation_leaves_the_network_as_it_was(data):
    student = network(0).train()
    before = deepcopy(student.state_dict())
    logits = evaluate.predict(student, data, 8)
    assert logits.shape == (30, CLASSES) and student.training and torch.is_grad_enabled()
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
