"""Runs whose teacher is made of the student: no teacher run, nothing of it left, resumable."""

from dataclasses import replace

import pytest
from training import history_of, killed_at_random, result_of, tiny

from kdlib.checkpoints import load_tensors
from kdlib.data import load_data
from kdlib.errors import KdlibError
from kdlib.evaluate import predict
from kdlib.models import create_model
from kdlib.models.cost import flops
from kdlib.runs import RunConfig, run_directory
from kdlib.train import fit
from kdlib.trainee import refined_network, trained_network
from study.jobs import plan
from study.profiles import expand, plain_epochs, training_flops
from study.records import load_records, validate_record

PIXELS = {"method": "frskd_pixels", "task": "segmentation", "student": "scenes_segmenter_tiny"}
HEADER = "epoch,learning_rate,ce,self_ce,frskd,accuracy"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A plain student and a self-taught one, in lock-step; their folder and their records."""
    root = tmp_path_factory.mktemp("runs")
    configs = [tiny(method=method) for method in ("student", "frskd")]
    return root, configs, fit(configs, root, progress=False)


def test_no_teacher_is_trained_or_read(finished):
    root, configs, _ = finished
    assert {path.parent.name for path in root.glob("*/record.json")} == {c.run_id for c in configs}
    config = RunConfig(method="frskd", teacher_epochs=9, kd_weight=3.0, temperature=2.0, weight=0.5)
    assert (config.canonical().teacher, config.canonical().weight) == ("none", 0.5)
    assert config.run_id == RunConfig(method="frskd", weight=0.5).run_id
    assert replace(config, method="frskd+kd").canonical().teacher == "scenes_large"
    jobs = plan(expand("quick", methods=["frskd", "student"], seeds=[0]), root, 7)
    assert [job.notebook for job in jobs] == ["05_distill"] and jobs[0].needs == ()


def test_its_record_tells_the_self_teachers_accuracy_and_cost(finished):
    root, configs, (plain, taught) = finished
    validate_record(taught, run_directory(configs[1], root) / "record.json")
    assert plain["self_teacher"] is None
    found = taught["self_teacher"]
    assert 0 <= found["top1"] <= found["top5"] <= 1
    assert found["parameters"] > 0 and found["flops"] > 0
    assert len(found["relevance"]["energy_share"]) == 3
    assert taught["cost"]["parameters"] == plain["cost"]["parameters"]
    assert history_of(run_directory(configs[1], root))[0] == HEADER
    table = load_records(root).set_index("method")
    assert table.loc["frskd", "self_teacher_top1"] == found["top1"]


def test_nothing_of_the_self_teacher_is_in_the_deployed_student(finished):
    root, configs, _ = finished
    tensors, _ = load_tensors(run_directory(configs[1], root) / "weights.safetensors")
    plain = create_model(configs[1].student, 16).state_dict()
    assert {n: t.shape for n, t in tensors.items()} == {n: t.shape for n, t in plain.items()}
    assert {n: t.dtype for n, t in tensors.items()} == {n: t.dtype for n, t in plain.items()}


def test_the_self_teacher_can_be_looked_at_again(finished):
    root, configs, (_, taught) = finished
    network = refined_network(configs[1], root, 16)
    config = configs[1]
    data = load_data("scenes", "test", size=config.test_size, image_size=config.image_size)
    top1 = (predict(network, data).argmax(1) == data.labels).float().mean().item()
    assert top1 == pytest.approx(taught["self_teacher"]["top1"])
    with pytest.raises(KdlibError, match="'student' has no self-teacher"):
        refined_network(configs[0], root, 16)


def test_lock_step_gives_the_numbers_of_a_run_by_itself(finished, tmp_path):
    _, configs, together = finished
    alone = fit(configs[1:], tmp_path, progress=False)
    assert result_of(alone[0]) == result_of(together[1])


def test_a_teacher_may_help(tmp_path):
    config = tiny(method="frskd+kd", epochs=1)
    fit([config.teacher_config()], tmp_path, progress=False)
    (record,) = fit([config], tmp_path, progress=False)
    header = history_of(run_directory(config, tmp_path))[0]
    assert header == "epoch,learning_rate,ce,self_ce,frskd,kd,accuracy"
    assert record["ssim"] is not None and record["self_teacher"] is not None


@pytest.mark.parametrize(
    ("method", "augmentation"),
    [("frskd", ["flip"]), ("frskd", ["flip", "mixup", "sla"]), ("student", ["cutmix"])],
)
def test_a_run_that_is_stopped_after_every_epoch_ends_with_the_same_record(
    method, augmentation, tmp_path, monkeypatch
):
    config = tiny(method=method, augmentation=augmentation, epochs=2)
    whole = fit([config], tmp_path / "whole", progress=False)[0]
    from kdlib.trainee import Trainee

    end_epoch = Trainee.end_epoch

    def stop_after(trainee, row):
        end_epoch(trainee, row)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainee, "end_epoch", stop_after)
    for _ in range(config.epochs):
        with pytest.raises(KeyboardInterrupt):
            fit([config], tmp_path / "stopped", progress=False)
    monkeypatch.undo()
    resumed = fit([config], tmp_path / "stopped", progress=False)[0]
    assert result_of(resumed) == result_of(whole)
    ours, theirs = (run_directory(config, tmp_path / name) for name in ("stopped", "whole"))
    assert history_of(ours) == history_of(theirs)


@pytest.mark.parametrize("changes", [{"method": "frskd"}, PIXELS], ids=["images", "pixels"])
def test_killed_at_random_moments_a_self_taught_run_ends_with_the_same_record(changes, tmp_path):
    config, roots = tiny(**changes, epochs=12), [tmp_path / name for name in ("whole", "killed")]

    def learn(root):
        return fit([config], root, progress=False)[0]

    whole = learn(roots[0])
    assert killed_at_random(learn, roots[1], whole["cost"]["train_seconds"])
    assert result_of(learn(roots[1])) == result_of(whole)
    ours, theirs = (run_directory(config, root) for root in roots)
    assert history_of(ours) == history_of(theirs)
    weights = [(folder / "weights.safetensors").read_bytes() for folder in (ours, theirs)]
    assert weights[0] == weights[1]


def test_what_tells_rotations_is_deployed_as_a_plain_classifier(tmp_path):
    config = tiny(method="student", augmentation=["sla"], epochs=1)
    (record,) = fit([config], tmp_path, progress=False)
    network = trained_network(config, tmp_path, 16)
    data = load_data("scenes", "test", size=config.test_size, image_size=config.image_size)
    top1 = (predict(network, data).argmax(1) == data.labels).float().mean().item()
    assert top1 == pytest.approx(record["results"]["top1"])
    assert record["results"]["last_monitored_top1"] == pytest.approx(top1)
    assert record["cost"]["parameters"] == sum(p.numel() for p in network.parameters())


def test_a_step_costs_three_forwards_and_the_self_teacher_its_own():
    plain, taught = RunConfig(method="student"), RunConfig(method="frskd")
    forward = flops(create_model("scenes_medium", 100), 64)
    # Backward is twice the forward, but for the gradient of the images, which nobody needs.
    assert 2.5 * forward < training_flops(plain) < 3 * forward
    joint = replace(taught, method="frskd_options", method_options={"alpha": 0.0, "beta": 0.0})
    assert training_flops(plain) < training_flops(joint) == training_flops(taught)
    with_teacher = training_flops(RunConfig(method="kd")) - training_flops(plain)
    assert with_teacher == flops(create_model("scenes_large", 100), 64)


def test_epochs_of_equal_cost_grow_with_the_cost():
    taught = RunConfig(method="frskd", epochs=10)
    ratio = training_flops(taught) / training_flops(RunConfig())
    assert plain_epochs(taught) == round(10 * ratio) > 10
    assert plain_epochs(replace(taught, method="student")) == 10


def test_mixed_images_have_the_teacher_of_whole_ones():
    mixed = RunConfig(method="kd", augmentation=("flip", "mixup"))
    assert mixed.teacher_config() == RunConfig(method="kd").teacher_config()
    assert mixed.run_id != RunConfig(method="kd").run_id
