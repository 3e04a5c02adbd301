"""Runs whose teacher is made of the student, of images and of pixels: nothing of it is deployed."""

from dataclasses import replace

import pytest
from data_files import write_voc
from training import history_of, result_of, tiny

from kdlib.data import load_data
from kdlib.errors import KdlibError
from kdlib.evaluate import evaluate_students, predict, trained_network
from kdlib.files import load_tensors
from kdlib.frskd.losses import refined_network
from kdlib.models import create_model
from kdlib.models.output import count_parameters, flops
from kdlib.runs import RunConfig, run_directory
from kdlib.team import ALONE
from kdlib.train import fit, prepare
from kdlib.trainee import Trainee
from study.jobs import plan
from study.profiles import expand, plain_epochs, training_flops
from study.records import load_records, load_tables, validate_record

SIDE, KINDS = 32, 69  # 68 kinds of objects, and the background
NETWORK = "scenes_segmenter_tiny"
USUAL = {"task": "segmentation", "student": NETWORK, "teacher": NETWORK, "method": "frskd_pixels"}


def masks(**changes) -> RunConfig:
    """A tiny run of segmentation."""
    return tiny(**{**USUAL, "epochs": 2, **changes})


@pytest.mark.parametrize(("config", "classes", "keys", "watched"), [
    (tiny(method="frskd", epochs=2), 16, ["top1", "top5", "mca"], "accuracy"),
    (masks(), KINDS, ["miou", "pixel_accuracy"], "miou"),
], ids=["classification", "segmentation"])  # fmt: skip
def test_a_self_teacher_is_measured_and_kept_and_not_deployed(
    config, classes, keys, watched, tmp_path
):
    task, best, of_pixels = config.task, keys[0], config.task == "segmentation"
    configs = [replace(config, method="student").canonical(), config]
    plain, taught = fit(configs, tmp_path, progress=False)
    (alone,) = fit([config], tmp_path / "alone", progress=False)
    assert result_of(alone) == result_of(taught)  # in lock-step or not
    for one, record in zip(configs, (plain, taught), strict=True):
        validate_record(record, run_directory(one, tmp_path) / "record.json")
        results = record["results"]
        assert 0 <= results[best] <= results[f"best_monitored_{best}"] + 1e-6 <= 1 + 1e-6
        assert len(results["per_class"]) == classes
        assert ("top1" in results) != of_pixels
    found, relevance = taught["self_teacher"], taught["relevance"]
    assert plain["self_teacher"] is None and taught["ssim"] is None
    assert set(found) == {*keys, "relevance", "parameters", "flops"}
    assert all(0 <= found[key] <= 1 for key in keys)
    assert (relevance is None) == (found["relevance"] is None) == of_pixels
    assert found["relevance"] is None or len(found["relevance"]["energy_share"]) == 3
    assert found["parameters"] > 0 and found["flops"] > 0
    assert taught["cost"]["parameters"] == plain["cost"]["parameters"]
    header = history_of(run_directory(config, tmp_path))[0]
    assert header == f"epoch,learning_rate,ce,self_ce,{config.method},{watched}"
    # Tables never mix tasks.
    assert list(load_tables(tmp_path)) == [task]
    table = load_records(tmp_path, task=task).set_index("method")
    assert table.loc["student", best] == plain["results"][best]
    assert table.loc[config.method, f"self_teacher_{best}"] == found[best]
    assert table["top1"].isna().all() == of_pixels
    with pytest.raises(KdlibError, match="no record of detection"):
        load_records(tmp_path, task="detection")
    # The deployed network is plain, and its self-teacher can be looked at.
    tensors, _ = load_tensors(run_directory(config, tmp_path) / "weights.safetensors")
    empty = create_model(config.student, classes).state_dict()
    kinds = [{n: (t.shape, t.dtype) for n, t in some.items()} for some in (tensors, empty)]
    assert kinds[0] == kinds[1]
    data = load_data("scenes", "test", size=32, image_size=SIDE, task=task)
    (quality,) = evaluate_students([refined_network(config, tmp_path, classes)], None, data)
    assert quality["results"][best] == pytest.approx(found[best])
    with pytest.raises(KdlibError, match="'student' has no self-teacher"):
        refined_network(configs[0], tmp_path, classes)


def test_only_a_method_that_names_one_has_a_teacher_and_mixed_images_have_that_of_whole(tmp_path):
    config = RunConfig(method="frskd", teacher_epochs=9, kd_weight=3.0, temperature=2.0, weight=0.5)
    assert (config.canonical().teacher, config.canonical().weight) == ("none", 0.5)
    assert config.run_id == RunConfig(method="frskd", weight=0.5).run_id
    assert replace(config, method="frskd+kd").canonical().teacher == "scenes_large"
    jobs = plan(expand("quick", methods=["frskd", "student"], seeds=[0]), tmp_path, 7)
    assert [job.notebook for job in jobs] == ["05_distill"] and jobs[0].needs == ()
    mixed, whole = (RunConfig(method="kd", augmentation=some) for some in (("mixup",), ()))
    assert mixed.teacher_config() == whole.teacher_config() and mixed.run_id != whole.run_id


@pytest.mark.parametrize(("config", "header"), [
    (tiny(method="frskd+kd", epochs=1), "epoch,learning_rate,ce,self_ce,frskd,kd,accuracy"),
    (masks(method="at+kd", epochs=1), "epoch,learning_rate,ce,at,kd,miou"),
])  # fmt: skip
def test_a_teacher_may_help(config, header, tmp_path):
    for run in (config.teacher_config(), config):
        (record,) = fit([run], tmp_path, progress=False)
    assert history_of(run_directory(config, tmp_path))[0] == header
    assert len(record["ssim"]) == 3
    assert (record["self_teacher"] is None) == (config.task == "segmentation")


def test_what_tells_rotations_is_deployed_as_a_plain_classifier(tmp_path):
    config = tiny(method="student", augmentation=["sla"], epochs=1)
    (record,) = fit([config], tmp_path, progress=False)
    network = trained_network(config, tmp_path, 16)
    data = load_data("scenes", "test", size=config.test_size, image_size=config.image_size)
    top1 = (predict(network, data).argmax(1) == data.labels).float().mean().item()
    results = record["results"]
    assert results["top1"] == pytest.approx(top1) == results["last_monitored_top1"]
    assert record["cost"]["parameters"] == count_parameters(network)


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


@pytest.mark.parametrize(("changes", "says"), [
    ({"method": "crd"}, "'crd' is for classification and crops, not.*student, kd, at"),
    ({"method": "dct+gate"}, r"'dct\+gate' is for .*each without \+gate"),
    ({"student": "resnet8"}, "'resnet8' is not for task 'segmentation'"),
    ({"dataset": "cifar100"}, "'cifar100' has no truth for task 'segmentation'"),
    ({"augmentation": ["flip", "cutmix"]}, "'cutmix' changes the label of an image"),
])  # fmt: skip
def test_what_means_nothing_for_pixels_is_refused(changes, says, tmp_path):
    with pytest.raises(KdlibError, match=says):
        fit([masks(teacher="none", **changes)], tmp_path, progress=False)


def test_gradients_are_clipped_to_their_norm(tmp_path):
    for clip, moved in ((1e-3, 1e-4), (None, None)):
        config = masks(weight_decay=0.0, method="student", gradient_clip=clip)
        group = prepare([config], tmp_path, None, "cpu", ALONE)
        one, batch = Trainee(config, group, tmp_path), next(group.batches.epoch(0, 0))
        before = [parameter.detach().clone() for parameter in one.student.parameters()]
        one.step(batch, None, 0.1, 1.0)
        pairs = zip(before, one.student.parameters(), strict=True)
        found = sum((new - old).square().sum() for old, new in pairs).sqrt().item()
        assert found == pytest.approx(moved, rel=1e-2) if moved else found > 1e-3
