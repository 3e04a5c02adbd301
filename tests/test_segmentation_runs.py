"""Runs whose answers are masks: their records, their self-teacher, their losses; resumable."""

import numpy as np
import pytest
import torch
from photographs import write_voc
from scipy.special import log_softmax
from training import history_of, result_of, tiny

from kdlib.checkpoints import load_tensors
from kdlib.data import load_data
from kdlib.data.batches import Batch
from kdlib.data.image_data import IGNORED
from kdlib.distill import TeacherOutput
from kdlib.errors import KdlibError
from kdlib.evaluate import evaluate_students
from kdlib.models import create_model
from kdlib.models.output import Output
from kdlib.runs import RunConfig, run_directory
from kdlib.train import fit
from kdlib.trainee import Lesson, Trainee, refined_network
from study.records import load_records, recorded_tasks, validate_record

CLASSES = 69  # of Scenes: the background and 68 kinds of objects
METHOD = "frskd_pixels"
SIDE = 32


def masks(**changes) -> RunConfig:
    """A tiny run of segmentation."""
    network = "scenes_segmenter_tiny"
    usual = {"task": "segmentation", "student": network, "teacher": network, "method": METHOD}
    return tiny(**{**usual, "epochs": 2, **changes})


def trainee(config: RunConfig, root) -> Trainee:
    lesson = Lesson(None, torch.zeros(8, dtype=torch.int64))
    return Trainee(config, CLASSES, root, torch.device("cpu"), "float32", lesson)


def batch_of(labels: torch.Tensor) -> Batch:
    images = torch.rand(len(labels), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return Batch(images, labels, torch.arange(len(labels)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A plain student and a self-taught one, in lock-step; their folder and their records."""
    root = tmp_path_factory.mktemp("runs")
    configs = [masks(method=method) for method in ("student", METHOD)]
    return root, configs, fit(configs, root, progress=False)


def test_records_hold_iou_and_no_accuracy_of_images(finished):
    root, configs, records = finished
    for config, record in zip(configs, records, strict=True):
        validate_record(record, run_directory(config, root) / "record.json")
        results = record["results"]
        assert 0 <= results["miou"] <= results["best_monitored_miou"] + 1e-6 <= 1
        assert len(results["per_class"]) == CLASSES and "top1" not in results
        assert record["relevance"] is None and record["ssim"] is None
    plain, taught = records
    assert plain["self_teacher"] is None
    assert 0 <= taught["self_teacher"]["miou"] <= taught["self_teacher"]["pixel_accuracy"] <= 1
    header = history_of(run_directory(configs[1], root))[0]
    assert header == f"epoch,learning_rate,ce,self_ce,{METHOD},miou"


def test_tables_never_mix_tasks(finished):
    root, _, records = finished
    assert recorded_tasks(root) == ["segmentation"]
    with pytest.raises(KdlibError, match="no record in"):
        load_records(root)
    table = load_records(root, task="segmentation").set_index("method")
    assert table.loc["student", "miou"] == records[0]["results"]["miou"]
    assert table.loc[METHOD, "self_teacher_miou"] == records[1]["self_teacher"]["miou"]
    assert table["top1"].isna().all()


def test_the_deployed_network_is_the_plain_one_and_its_self_teacher_can_be_asked(finished):
    root, configs, (_, taught) = finished
    tensors, _ = load_tensors(run_directory(configs[1], root) / "weights.safetensors")
    plain = create_model(configs[1].student, CLASSES).state_dict()
    assert {n: t.shape for n, t in tensors.items()} == {n: t.shape for n, t in plain.items()}
    network = refined_network(configs[1], root, CLASSES)
    data = load_data("scenes", "test", size=32, image_size=SIDE, task="segmentation")
    (quality,) = evaluate_students([network], None, data)
    assert quality["results"]["miou"] == pytest.approx(taught["self_teacher"]["miou"])


def test_a_run_stopped_after_every_epoch_ends_with_the_same_record(finished, tmp_path, monkeypatch):
    from kdlib.trainee import Trainee

    _, configs, (_, whole) = finished
    end_epoch = Trainee.end_epoch

    def stop_after(one, row):
        end_epoch(one, row)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainee, "end_epoch", stop_after)
    for _ in range(configs[1].epochs):
        with pytest.raises(KeyboardInterrupt):
            fit(configs[1:], tmp_path, progress=False)
    monkeypatch.undo()
    assert result_of(fit(configs[1:], tmp_path, progress=False)[0]) == result_of(whole)


def test_a_teacher_may_help(tmp_path):
    config = masks(method="at+kd", epochs=1)
    fit([config.teacher_config()], tmp_path, progress=False)
    (record,) = fit([config], tmp_path, progress=False)
    assert history_of(run_directory(config, tmp_path))[0] == "epoch,learning_rate,ce,at,kd,miou"
    assert len(record["ssim"]) == 3


def test_photographs_with_masks_are_learnt_from(tmp_path):
    own = {"dataset": "voc", "train_size": None, "test_size": None, "batch_size": 3, "epochs": 1}
    config = masks(**own, augmentation=["flip", "random_crop"], gradient_clip=2.0)
    (record,) = fit([config], tmp_path, data_root=write_voc(tmp_path / "data"), progress=False)
    assert len(record["results"]["per_class"]) == 21 and 0 <= record["results"]["miou"] <= 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "crd"}, "'crd' is for classification and crops, not.*student, kd, at"),
        ({"method": "dct+gate"}, r"'dct\+gate' is for .*each without \+gate"),
        ({"student": "resnet8"}, "'resnet8' is not for task 'segmentation'"),
        ({"dataset": "cifar100"}, "'cifar100' has no truth for task 'segmentation'"),
        ({"augmentation": ["flip", "cutmix"]}, "'cutmix' changes the label of an image"),
    ],
)
def test_what_means_nothing_for_pixels_is_refused(changes, says, tmp_path):
    config = masks(teacher="none", **changes)
    with pytest.raises(KdlibError, match=says):
        fit([config], tmp_path, progress=False)


def test_masks_without_a_pixel_that_counts_are_learnt_nothing_from(tmp_path):
    one = trainee(masks(weight_decay=0.0), tmp_path)
    void = batch_of(torch.full((4, SIDE, SIDE), IGNORED))
    terms = one.step(void, None, 0.1, 1.0)
    assert terms["ce"] == 0 and terms["self_ce"] == 0
    assert all(torch.isfinite(p).all() for p in one.parts.parameters())
    background = batch_of(torch.zeros(4, SIDE, SIDE, dtype=torch.int64))
    assert all(torch.isfinite(term) for term in one.step(background, None, 0.1, 1.0).values())


def test_gradients_are_clipped_to_their_norm(tmp_path):
    labels = torch.arange(SIDE * SIDE).view(1, SIDE, SIDE).expand(4, -1, -1) % CLASSES
    for clip, moved in ((1e-3, 1e-4), (None, None)):
        one = trainee(masks(method="student", gradient_clip=clip, weight_decay=0.0), tmp_path)
        before = [p.detach().clone() for p in one.student.parameters()]
        one.step(batch_of(labels), None, 0.1, 0.0)
        pairs = zip(one.student.parameters(), before, strict=True)
        found = torch.stack([(new - old).square().sum() for new, old in pairs]).sum().sqrt().item()
        assert found == pytest.approx(moved, rel=1e-2) if moved else found > 1e-3


def test_the_distillation_term_is_kl_of_pixels_and_at_of_levels(tmp_path):
    loss = trainee(masks(), tmp_path).distiller.method_loss
    random = np.random.default_rng(0)
    shapes = ((2, CLASSES, 8, 8), (2, 8, 4, 4), (2, 8, 2, 2), (2, 8, 1, 1))
    mine, its = ([random.normal(size=shape) for shape in shapes] for _ in "ab")
    labels = random.integers(0, CLASSES, (2, 8, 8))
    labels[0, :3] = IGNORED
    expected = np.zeros(2)
    for image in range(2):
        p, q = (log_softmax(x[0][image], axis=0) for x in (mine, its))
        expected[image] = (np.exp(q) * (q - p)).sum(0)[labels[image] != IGNORED].mean()
        for one, other in zip(mine[1:], its[1:], strict=True):
            maps = [(x[image] ** 2).mean(0) for x in (one, other)]
            units = [m / np.sqrt((m**2).sum()) for m in maps]
            expected[image] += 50 * ((units[0] - units[1]) ** 2).mean()
    student, teacher = (
        made(torch.from_numpy(x[0]), tuple(map(torch.from_numpy, x[1:])), torch.zeros(2, 8))
        for made, x in ((Output, mine), (TeacherOutput, its))
    )
    found = loss(student, teacher, batch_of(torch.from_numpy(labels)))
    assert found.numpy() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("term", "in_student", "in_self_teacher"),
    [("ce", True, False), ("self_ce", True, True), (METHOD, True, False)],
)
def test_each_term_reaches_the_parameters_that_it_should(
    term, in_student, in_self_teacher, tmp_path
):
    one = trainee(masks(), tmp_path)
    labels = torch.arange(SIDE * SIDE).view(1, SIDE, SIDE).expand(4, -1, -1) % CLASSES
    batch = batch_of(labels)
    one.distiller(one.student(batch.images), None, batch)[term].backward()

    def reached(parameters) -> bool:
        return any(p.grad is not None and p.grad.any() for p in parameters)

    assert reached(one.student.parameters()) == in_student
    assert reached(one.distiller.parameters()) == in_self_teacher
    # The head of the student reads its own levels alone: it learns nothing of the self-teacher's.
    assert reached(one.student.head.parameters()) == (term != "self_ce")


def test_the_term_is_ramped_over_two_thirds_of_the_training(tmp_path):
    one = trainee(masks(), tmp_path)
    batch = batch_of(torch.zeros(4, SIDE, SIDE, dtype=torch.int64))
    answer, shares = one.student(batch.images), (0.0, 1 / 3, 2 / 3, 1.0)
    one.distiller.eval()  # batch norm's statistics stay as they are
    terms = [one.distiller(answer, None, batch, share)[METHOD].item() for share in shares]
    expected = [np.exp(-5 * (1 - t) ** 2) for t in (0, 0.5, 1, 1)]
    assert [term / terms[-1] for term in terms] == pytest.approx(expected, rel=1e-4)
