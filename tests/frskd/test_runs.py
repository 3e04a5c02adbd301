"""Runs whose teacher is made of the student, of images and of pixels: nothing of it is deployed."""

from dataclasses import replace

import pytest
import torch
from photographs import write_voc
from training import history_of, result_of, tiny

from kdlib.data import load_data
from kdlib.data.batches import Batch
from kdlib.data.image_data import IGNORED, ImageData
from kdlib.errors import KdlibError
from kdlib.evaluate import evaluate_students, predict, trained_network
from kdlib.files import load_tensors
from kdlib.frskd.losses import refined_network
from kdlib.models import create_model
from kdlib.models import output as cost
from kdlib.models.output import flops
from kdlib.runs import RunConfig, run_directory
from kdlib.train import fit
from kdlib.trainee import Group, Trainee
from study.jobs import plan
from study.profiles import expand, plain_epochs, training_flops
from study.records import load_records, load_tables, validate_record

SIDE = 32
CLASSES = {"classification": 16, "segmentation": 69}  # of Scenes: with the background 68 kinds
KEYS = {"classification": ("top1", "top5", "mca"), "segmentation": ("miou", "pixel_accuracy")}


def masks(**changes) -> RunConfig:
    """A tiny run of segmentation."""
    network = "scenes_segmenter_tiny"
    usual = {"task": "segmentation", "student": network, "teacher": network}
    return tiny(**{**usual, "method": "frskd_pixels", "epochs": 2, **changes})


RUNS = {"classification": tiny(method="frskd", epochs=2), "segmentation": masks()}


@pytest.fixture(scope="module", autouse=True)
def untimed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "latency", lambda *_: 1.0)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module", params=RUNS)
def finished(request, root):
    """A plain student and a self-taught one, in lock-step, and their records."""
    taught = RUNS[request.param]
    configs = [replace(taught, method="student").canonical(), taught]
    return configs, fit(configs, root, progress=False)


def test_a_record_tells_the_self_teachers_quality_and_cost(finished, root):
    configs, (plain, taught) = finished
    task, best = configs[1].task, KEYS[configs[1].task][0]
    for config, record in zip(configs, (plain, taught), strict=True):
        validate_record(record, run_directory(config, root) / "record.json")
        results = record["results"]
        assert 0 <= results[best] <= results[f"best_monitored_{best}"] + 1e-6 <= 1 + 1e-6
        assert len(results["per_class"]) == CLASSES[task]
        assert ("top1" in results) == (task == "classification")
    found, relevance = taught["self_teacher"], taught["relevance"]
    assert plain["self_teacher"] is None and taught["ssim"] is None
    assert set(found) == {*KEYS[task], "relevance", "parameters", "flops"}
    assert all(0 <= found[key] <= 1 for key in KEYS[task])
    assert (relevance is None) == (found["relevance"] is None) == (task == "segmentation")
    assert found["relevance"] is None or len(found["relevance"]["energy_share"]) == 3
    assert found["parameters"] > 0 and found["flops"] > 0
    assert taught["cost"]["parameters"] == plain["cost"]["parameters"]
    name, watched = configs[1].method, "accuracy" if task == "classification" else "miou"
    header = history_of(run_directory(configs[1], root))[0]
    assert header == f"epoch,learning_rate,ce,self_ce,{name},{watched}"


def test_tables_never_mix_tasks_and_show_the_self_teacher(finished, root):
    configs, (plain, taught) = finished
    task, best = configs[1].task, KEYS[configs[1].task][0]
    assert task in load_tables(root)
    table = load_records(root, task=task).set_index("method")
    assert table.loc["student", best] == plain["results"][best]
    assert table.loc[configs[1].method, f"self_teacher_{best}"] == taught["self_teacher"][best]
    assert table["top1"].isna().all() == (task == "segmentation")
    with pytest.raises(KdlibError, match="no record of detection"):
        load_records(root, task="detection")


def test_the_deployed_network_is_plain_and_its_self_teacher_can_be_looked_at(finished, root):
    configs, (_, taught) = finished
    config, classes = configs[1], CLASSES[configs[1].task]
    tensors, _ = load_tensors(run_directory(config, root) / "weights.safetensors")
    plain = create_model(config.student, classes).state_dict()
    kinds = [{n: (t.shape, t.dtype) for n, t in some.items()} for some in (tensors, plain)]
    assert kinds[0] == kinds[1]
    data = load_data("scenes", "test", size=32, image_size=SIDE, task=config.task)
    network = refined_network(config, root, classes)
    (quality,) = evaluate_students([network], None, data)
    best = KEYS[config.task][0]
    assert quality["results"][best] == pytest.approx(taught["self_teacher"][best])
    with pytest.raises(KdlibError, match="'student' has no self-teacher"):
        refined_network(configs[0], root, classes)


def test_lock_step_gives_the_numbers_of_a_run_by_itself(finished, tmp_path):
    configs, together = finished
    (alone,) = fit(configs[1:], tmp_path, progress=False)
    assert result_of(alone) == result_of(together[1])


def test_no_teacher_is_trained_or_read(tmp_path):
    config = RunConfig(method="frskd", teacher_epochs=9, kd_weight=3.0, temperature=2.0, weight=0.5)
    assert (config.canonical().teacher, config.canonical().weight) == ("none", 0.5)
    assert config.run_id == RunConfig(method="frskd", weight=0.5).run_id
    assert replace(config, method="frskd+kd").canonical().teacher == "scenes_large"
    jobs = plan(expand("quick", methods=["frskd", "student"], seeds=[0]), tmp_path, 7)
    assert [job.notebook for job in jobs] == ["05_distill"] and jobs[0].needs == ()


@pytest.mark.parametrize(("config", "header"), [
    (tiny(method="frskd+kd", epochs=1), "epoch,learning_rate,ce,self_ce,frskd,kd,accuracy"),
    (masks(method="at+kd", epochs=1), "epoch,learning_rate,ce,at,kd,miou"),
])  # fmt: skip
def test_a_teacher_may_help(config, header, tmp_path):
    fit([config.teacher_config()], tmp_path, progress=False)
    (record,) = fit([config], tmp_path, progress=False)
    assert history_of(run_directory(config, tmp_path))[0] == header
    assert len(record["ssim"]) == 3
    assert (record["self_teacher"] is None) == (config.task == "segmentation")


def test_what_tells_rotations_is_deployed_as_a_plain_classifier(tmp_path):
    config = tiny(method="student", augmentation=["sla"], epochs=1)
    (record,) = fit([config], tmp_path, progress=False)
    network = trained_network(config, tmp_path, 16)
    data = load_data("scenes", "test", size=config.test_size, image_size=config.image_size)
    top1 = (predict(network, data).argmax(1) == data.labels).float().mean().item()
    assert top1 == pytest.approx(record["results"]["top1"])
    assert record["results"]["last_monitored_top1"] == pytest.approx(top1)
    assert record["cost"]["parameters"] == sum(p.numel() for p in network.parameters())


def test_mixed_images_have_the_teacher_of_whole_ones():
    mixed = RunConfig(method="kd", augmentation=("flip", "mixup"))
    assert mixed.teacher_config() == RunConfig(method="kd").teacher_config()
    assert mixed.run_id != RunConfig(method="kd").run_id


def test_a_step_costs_three_forwards_and_the_self_teacher_its_own():
    plain, taught = RunConfig(method="student"), RunConfig(method="frskd", epochs=10)
    forward = flops(create_model("scenes_medium", 100), 64)
    # Backward is twice the forward, but for the gradient of the images, which nobody needs.
    assert 2.5 * forward < training_flops(plain) < 3 * forward
    joint = replace(taught, method="frskd_options", method_options={"alpha": 0.0, "beta": 0.0})
    assert training_flops(plain) < training_flops(joint) == training_flops(taught)
    with_teacher = training_flops(RunConfig(method="kd")) - training_flops(plain)
    assert with_teacher == flops(create_model("scenes_large", 100), 64)
    ratio = training_flops(taught) / training_flops(RunConfig())
    assert plain_epochs(taught) == round(10 * ratio) > 10
    assert plain_epochs(replace(taught, method="student")) == 10


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


def trainee(config: RunConfig, root) -> Trainee:
    labels, names = torch.zeros(8, dtype=torch.int64), tuple(map(str, range(69)))
    images = torch.zeros(8, 3, SIDE, SIDE, dtype=torch.uint8)
    data = ImageData(images, labels, names, (0.0,) * 3, (1.0,) * 3, fingerprint="")
    return Trainee(config, Group(data, torch.device("cpu")), root)


def batch_of(labels: torch.Tensor) -> Batch:
    images = torch.rand(len(labels), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return Batch(images, labels, torch.arange(len(labels)))


def test_masks_without_a_pixel_that_counts_are_learnt_nothing_from(tmp_path):
    one = trainee(masks(weight_decay=0.0), tmp_path)
    void = batch_of(torch.full((4, SIDE, SIDE), IGNORED))
    terms = one.step(void, None, 0.1, 1.0)
    assert terms["ce"] == 0 and terms["self_ce"] == 0
    assert all(torch.isfinite(p).all() for p in one.parts.parameters())
    background = batch_of(torch.zeros(4, SIDE, SIDE, dtype=torch.int64))
    assert all(torch.isfinite(term) for term in one.step(background, None, 0.1, 1.0).values())


def test_gradients_are_clipped_to_their_norm(tmp_path):
    labels = torch.arange(SIDE * SIDE).view(1, SIDE, SIDE).expand(4, -1, -1) % 69
    for clip, moved in ((1e-3, 1e-4), (None, None)):
        one = trainee(masks(method="student", gradient_clip=clip, weight_decay=0.0), tmp_path)
        before = [p.detach().clone() for p in one.student.parameters()]
        one.step(batch_of(labels), None, 0.1, 0.0)
        pairs = zip(one.student.parameters(), before, strict=True)
        found = torch.stack([(new - old).square().sum() for new, old in pairs]).sum().sqrt().item()
        assert found == pytest.approx(moved, rel=1e-2) if moved else found > 1e-3
