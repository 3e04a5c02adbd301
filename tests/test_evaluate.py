"""Accuracies, SSIM and relevance against direct computation, and their degenerate cases."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score
from torch import nn

from kdlib.data.image_data import ImageData
from kdlib.errors import KdlibError
from kdlib.evaluate import (
    MOST_CONFUSED,
    classification_metrics,
    energy_share,
    evaluate_students,
    pointing_hit,
    predict,
    ssim_per_image,
)
from kdlib.models import create_model

CLASSES = 7


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return create_model("scenes_small", CLASSES)


@pytest.fixture
def data() -> ImageData:
    stream = torch.Generator().manual_seed(0)
    masks = torch.rand(30, 16, 16, generator=stream) < 0.3
    return ImageData(
        images=torch.randint(0, 256, (30, 3, 16, 16), generator=stream, dtype=torch.uint8),
        labels=torch.randint(0, CLASSES, (30,), generator=stream),
        classes=tuple("abcdefg"),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        fingerprint="0",
        relevance=lambda indices: masks[indices],
    )


def test_accuracies_equal_those_of_scikit_learn():
    logits = torch.randn(200, CLASSES, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(200) % CLASSES
    metrics = classification_metrics(logits, labels)
    predicted = logits.argmax(1)
    assert metrics["top1"] == pytest.approx((predicted == labels).double().mean().item())
    assert metrics["top5"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    assert metrics["mca"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert metrics["mca_all"] == pytest.approx(metrics["mca"])
    table = confusion_matrix(labels, predicted)
    assert metrics["confusion"] == table.tolist()
    assert metrics["per_class"] == (table.diagonal() / table.sum(1)).tolist()


def test_of_very_many_classes_no_table_of_confusions_is_kept():
    metrics = classification_metrics(torch.eye(MOST_CONFUSED + 1), torch.arange(MOST_CONFUSED + 1))
    assert metrics["confusion"] is None and metrics["top1"] == 1


def test_a_class_that_does_not_occur_counts_in_one_convention_only():
    logits = torch.eye(4)[[0, 0, 1]]
    metrics = classification_metrics(logits, torch.tensor([0, 0, 1]))
    assert metrics["mca"] == 1 and metrics["mca_all"] == 0.5
    assert metrics["per_class"] == [1.0, 1.0, None, None]
    assert metrics["top5"] == 1


@pytest.mark.parametrize("labels", [[], [9]])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(KdlibError, match="do not fit logits of 7 classes"):
        classification_metrics(
            torch.zeros(len(labels), CLASSES), torch.tensor(labels, dtype=torch.int64)
        )


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


def test_ssim_ignores_offset_and_scale_and_is_finite_for_constant_maps():
    maps = torch.rand(3, 9, 9)
    same, flat = ssim_per_image(maps, 5 + 3 * maps), ssim_per_image(torch.ones(3, 9, 9), maps)
    assert torch.allclose(same, torch.ones(3), atol=1e-4)
    assert flat.isfinite().all() and (flat < 0.5).all()


def test_ssim_of_unequal_sizes_compares_at_the_smaller():
    maps = torch.rand(2, 8, 8)
    enlarged = maps.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.allclose(ssim_per_image(enlarged, maps), torch.ones(2), atol=1e-5)


def test_relevance_equals_that_of_the_enlarged_map():
    stream = np.random.default_rng(0)
    attention, masks = stream.random((5, 4, 4)), stream.random((5, 16, 16)) < 0.4
    enlarged = attention.repeat(4, 1).repeat(4, 2)
    expected = (enlarged * masks).sum((1, 2)) / enlarged.sum((1, 2))
    maps, relevance = torch.tensor(attention), torch.tensor(masks)
    assert energy_share(maps, relevance).numpy() == pytest.approx(expected)
    peaks = enlarged == enlarged.max((1, 2), keepdims=True)
    hits = [masks[i][peaks[i]].mean() for i in range(5)]
    assert pointing_hit(maps, relevance).numpy() == pytest.approx(hits)


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_attention_that_knows_nothing_scores_the_relevant_area(value):
    masks = torch.rand(4, 16, 16) < 0.2
    area, maps = masks.float().mean((1, 2)), torch.full((4, 4, 4), value)
    assert torch.allclose(energy_share(maps, masks), area)
    assert torch.allclose(pointing_hit(maps, masks), area)


def test_perfect_attention_scores_one():
    masks = torch.zeros(1, 16, 16, dtype=torch.bool)
    masks[0, 4:8, 8:12] = True
    attention = torch.zeros(1, 4, 4)
    attention[0, 1, 2] = 3.0
    assert energy_share(attention, masks).item() == pointing_hit(attention, masks).item() == 1


def test_a_pass_over_the_data_does_not_depend_on_the_batch_size(data):
    student, teacher = network(0), network(1)
    few, many = (evaluate_students([student], teacher, data, size)[0] for size in (7, 30))
    assert few["results"]["confusion"] == many["results"]["confusion"]
    assert few["ssim"] == pytest.approx(many["ssim"], abs=1e-5)
    for network_name in ("student", "teacher"):
        for measure, stages in few["relevance"][network_name].items():
            assert stages == pytest.approx(many["relevance"][network_name][measure], abs=1e-5)
    area = data.relevance(torch.arange(30)).float().mean().item()
    assert few["relevance"]["chance"] == pytest.approx(area)


def test_many_students_are_measured_as_each_alone(data):
    students, teacher = [network(0), network(2)], network(1)
    together = evaluate_students(students, teacher, data)
    assert together == [evaluate_students([one], teacher, data)[0] for one in students]


def test_what_cannot_be_measured_is_none(data):
    without = ImageData(**{**vars(data), "relevance": None})
    measured = evaluate_students([network(0)], None, without)[0]
    assert measured["ssim"] is None and measured["relevance"] is None


def test_evaluation_leaves_the_network_as_it_was(data):
    student = network(0).train()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    logits = predict(student, data, 8)
    assert logits.shape == (30, CLASSES) and student.training
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
