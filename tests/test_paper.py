"""The published protocol, end to end: MIT67's format, ImageNet's weights, one epoch."""

from pathlib import Path

import pytest
import torch
from data_files import write_mit67
from pretrained import write_imagenet_weights
from torch import hub

from kdlib.files import load_tensors
from kdlib.models import output as cost
from kdlib.runs import run_directory
from kdlib.train import fit
from study.profiles import expand, teachers
from study.records import find_records, load_records, summary_table


@pytest.fixture
def photographs(tmp_path, monkeypatch) -> Path:
    """A data root with a tiny MIT67; ImageNet's weights are where torchvision looks for them."""
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(write_imagenet_weights(tmp_path / "torch", "resnet50")))
    monkeypatch.setattr(cost, "latency", lambda *_: 1.0)  # of 64 images at a time
    return write_mit67(tmp_path / "data", 2)


def test_a_teacher_from_imagenet_s_weights_teaches_students_from_scratch(photographs, tmp_path):
    runs = expand("paper", "mit67", ["student", "kd"], [0], epochs=1)
    runs = [run for run in runs if run.student == "resnet18"]
    (teacher,) = teachers(runs)
    root, train = tmp_path / "runs", {"data_root": photographs, "progress": False}
    fit([teacher], root, **train)
    for run in runs:
        fit([run], root, **train)
    records = {record["config"]["student"]: record for record in find_records(root).values()}
    assert set(records) == {"resnet18", "resnet50"}
    assert records["resnet50"]["config"]["start"] == "IMAGENET1K_V1"
    assert records["resnet18"]["config"]["start"] is None
    assert len(records["resnet18"]["results"]["per_class"]) == 2
    labels = summary_table(load_records(root))["label"]
    assert sorted(labels) == ["kd", "student", "teacher"]
    (path,), name = (Path(hub.get_dir()) / "checkpoints").iterdir(), "layer4.2.conv2.weight"
    weights, _ = load_tensors(run_directory(teacher, root) / "weights.safetensors")
    layers = torch.load(path, weights_only=True)[name], weights[f"network.{name}"]
    likeness = torch.cosine_similarity(*(layer.flatten() for layer in layers), dim=0)
    assert likeness > 0.9  # of weights that are random twice it would be 0
