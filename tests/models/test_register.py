"""Networks from elsewhere: whatever gives stages is one of ours, and can be trained."""

import copy
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from training import tiny

from kdlib import models
from kdlib.errors import KdlibError
from kdlib.evaluate import trained_network
from kdlib.models import check_task, create_model, register_model
from kdlib.models.output import Output
from kdlib.runs import run_directory
from kdlib.train import fit


class Backbone(nn.ModuleList):
    """Returns what timm's networks do with ``features_only``: a list of maps, fine to coarse."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(*channels, 3, 2, padding=1) for channels in ((3, 4), (4, 6)))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        first = functional.relu(self[0](images))
        return [first, functional.relu(self[1](first))]


class Classifier(nn.Module):
    """Returns logits, and knows nothing of stages."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features, self.fc = Backbone(), nn.Linear(6, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return read(self, images).logits


def read(network: Classifier, images: torch.Tensor) -> Output:
    stages = tuple(network.features(images))
    embedding = stages[-1].mean((2, 3))
    return Output(network.fc(embedding), stages, embedding)


OURS = {
    "own_output": (partial(create_model, "scenes_small"), None),
    "own_list": (lambda classes: Backbone(), None),
    "own_layers": (Classifier, ("features.0", "features.1")),
    "own_function": (Classifier, read),
}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(models, "MODELS", dict(models.MODELS))
    for name, (build, stages) in OURS.items():
        register_model(name, build, stages=stages, image_size=16)


@pytest.mark.parametrize("name", OURS)
def test_what_gives_stages_returns_an_output(name):
    network, images = create_model(name, 5), torch.rand(3, 3, 16, 16)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    output = network(images)
    assert isinstance(output, Output) and output.logits.shape == (3, 5)
    assert [stage.ndim for stage in output.stages] == [4] * len(output.stages)
    torch.testing.assert_close(output.embedding, output.stages[-1].mean((2, 3)))
    (output.logits.logsumexp(1).sum() + output.stages[0].sum()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert not copied(images).logits.any()  # what a copy reads are its own layers
    if name == "own_layers":
        function = create_model("own_function", 5)
        function.load_state_dict(network.state_dict())
        pairs = zip(output.stages, function(images).stages, strict=True)
        assert all(torch.equal(functional.relu(mine), theirs) for mine, theirs in pairs)


def test_registered_networks_are_trained_in_this_process(tmp_path):
    students = [
        tiny(student=name, teacher="own_output", epochs=1, method="dct+kd") for name in OURS
    ]
    fit([students[0].teacher_config()], tmp_path, progress=False)
    records = fit(students, tmp_path, progress=False)
    for config, record in zip(students, records, strict=True):
        assert record["config"]["student"] == config.student and record["ssim"]
        assert (run_directory(config, tmp_path) / "weights.safetensors").exists()
    network = trained_network(students[1], tmp_path, 16)
    assert network(torch.rand(1, 3, 32, 32)).logits.shape == (1, 16)


def test_a_network_for_pixels_is_for_segmentation_alone():
    register_model("pixels", partial(create_model, "scenes_segmenter_tiny"), task="segmentation")
    check_task("pixels", "segmentation")
    assert create_model("pixels", 7)(torch.rand(1, 3, 32, 32)).logits.shape == (1, 7, 32, 32)
    with pytest.raises(KdlibError, match="'pixels' is not for task 'classification'.*own_list"):
        check_task("pixels", "classification")


@pytest.mark.parametrize(("changes", "says"), [
    ({"name": "resnet8"}, "'resnet8' is a network of kdlib's own"),
    ({"name": "scenes_tiny"}, "'scenes_tiny' is a network of kdlib's own"),
    ({"task": "segmentatoin"}, "Did you mean 'segmentation'"),
    ({"stages": ("feature.1",)}, "layer of Classifier.*Did you mean 'features.1'"),
    ({}, "returns a Tensor.*names of its layers"),
    ({"build": lambda classes: create_model("scenes_small", 3)}, "3 logits for 5 classes"),
])  # fmt: skip
def test_what_is_none_of_ours_is_refused(changes, says):
    with pytest.raises(KdlibError, match=says):  # noqa: PT012
        register_model(**{"name": "mine", "build": Classifier, **changes})
        create_model("mine", 5)


def test_timm_s_networks_are_ours_as_the_page_says():
    pytest.importorskip("timm")
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    made: dict[str, object] = {}
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], made)
    assert [s.shape[1] for s in made["output"].stages] == [64, 128, 256, 512]
    images = torch.rand(2, 3, 64, 64)
    listed, one = (create_model(name, 5)(images) for name in ("resnet34_maps", "resnet10_timm"))
    assert [stage.shape[1] for stage in listed.stages] == [64, 64, 128, 256, 512]
    assert listed.logits.shape == one.logits.shape == (2, 5)
