"""Networks: sizes of the literature, what they return; yours, which can be trained; errors."""

import copy
import re
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from golden import papers
from torch import nn
from torch.nn import functional
from torchvision import models as tv
from training import tiny

from kdlib import KdlibError, fit, models, trained_network
from kdlib.models import FIRST_NAMES, MODELS, check_task, create_model, model_names, register_model
from kdlib.models.output import Output, count_parameters, flops, output_shapes
from kdlib.srm.probe import classifier_of, install

# Millions of parameters for 100 classes, channels of the stages, and the size of the first of them
# for images of 32; of all networks that golden/ does not compare.
SMALL, WIDE, RESNET = (16, 32, 64), (256, 512, 1024, 2048), (64, 128, 256, 512)
NETWORKS = {
    "resnet8": (0.08, SMALL, 32), "resnet14": (0.18, SMALL, 32), "resnet32": (0.47, SMALL, 32),
    "resnet44": (0.67, SMALL, 32), "resnet18_cifar": (11.22, RESNET, 32),
    "scenes_small": (0.01, (4, 8, 16), 8), "scenes_medium": (0.08, SMALL, 8),
    "scenes_large": (0.71, (48, 96, 192), 8), "scenes_mobile": (0.09, (16, 32, 128), 8),
    "resnet18": (11.23, RESNET, 8), "resnet34": (21.34, RESNET, 8), "resnet50": (23.71, WIDE, 8),
    "resnet152": (58.35, WIDE, 8), "mobilenet_v2": (2.35, (24, 32, 96, 1280), 8),
}  # fmt: skip
GOLDEN = (Path(__file__).parents[1] / "golden").glob("network_*.npz")
COMPARED = {path.stem.removeprefix("network_").split("-")[0] for path in GOLDEN}
PARTS = (  # of which all others are made
    "resnet8", "resnet8x4", "wrn_16_2", "resnet18_cifar", "resnet50_cifar", "vgg8", "vgg13",
    "mobilenet_v2_cifar", "shuffle_v1", "shuffle_v2", "scenes_small", "scenes_mobile", "resnet18",
    "mobilenet_v2",
)  # fmt: skip


def images(size: int = 32, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_every_classifier_has_published_facts_and_the_first_names_still_hold():
    classifiers = {name for name, model in MODELS.items() if model.task == "classification"}
    compared = {papers.NETWORKS.get(name, name) for name in COMPARED}
    assert classifiers - compared == set(NETWORKS) and classifiers <= set(model_names())
    for first in FIRST_NAMES.values():
        check_task(first, "crops")


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_and_stages_are_the_published_ones(name):
    (millions, channels, finest), network = NETWORKS[name], create_model(name, 100)
    assert round(count_parameters(network) / 1e6, 2) == millions
    expected = [(c, finest >> index, finest >> index) for index, c in enumerate(channels)]
    assert list(output_shapes(network, 32).stages) == expected


@pytest.mark.parametrize("name", PARTS)
def test_what_a_network_returns_belongs_together(name):
    torch.manual_seed(3)
    other = create_model(name, 5)
    torch.manual_seed(3)
    network = create_model(name, 5)
    pairs = zip(network.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    output = network(images(batch=4))
    assert isinstance(output, Output) and output.logits.shape == (4, 5)
    if "mobile" not in name:  # whose blocks end without activation
        assert all(stage.min() == 0 and stage.max() > 0 for stage in output.stages)
    loss = output.logits.logsumexp(1).sum() + sum(s.square().mean() for s in output.stages)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    install(network, torch.randn(classifier_of(network).weight.shape), torch.randn(5))
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        own, loaded = network.eval()(images()), other.eval()(images())
    assert torch.equal(own.logits, loaded.logits)
    pooled = getattr(network, "tail", nn.Identity())(own.stages[-1]).mean((2, 3))
    torch.testing.assert_close(own.embedding, pooled.detach())
    torch.testing.assert_close(classifier_of(network)(own.embedding), own.logits)
    network.to(memory_format=torch.channels_last)
    batch = images().contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = network(batch).logits
    torch.testing.assert_close(network(batch).logits, own.logits, rtol=1e-3, atol=1e-3)
    assert half.dtype == torch.bfloat16
    assert (half.float() - own.logits).norm() / own.logits.norm() < 0.05


def test_scenes_networks_take_any_size_and_dropout_follows_train_and_eval():
    for name, size in product(("scenes_small", "scenes_mobile"), (1, 7, 33)):
        output = create_model(name, 4)(images(size))
        assert output.logits.shape == (2, 4) and len(output.stages) == 3
    network = create_model("mobilenet_v2", 5)
    for training in (True, False):
        one, other = (network.train(training)(images()).logits for _ in range(2))
        assert torch.equal(one, other) is not training


def test_tapping_leaves_torchvisions_network_as_it_is():
    theirs, tapped = tv.resnet18(num_classes=1000).eval(), create_model("resnet18", 1000).eval()
    tapped.network.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(tapped(images()).logits, theirs(images()), rtol=0, atol=0)


def test_measuring_counts_a_multiply_add_as_two_and_leaves_a_network_as_it_was():
    network = create_model("resnet20", 10)
    before = copy.deepcopy(network.state_dict())
    for training in (True, False):
        # On 32 x 32 images: 40.8 M multiply-adds (He 2016 gives 0.041 G).
        assert flops(network.train(training), 32) == pytest.approx(2 * 40.8e6, rel=0.01)
        assert network.training is training
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


@pytest.mark.parametrize(("name", "options", "says"), [
    ("resnet-20", {}, "Did you mean 'resnet20'.*scenes_large"),
    ("resnet20", {"depth": 8}, "option of model 'resnet20' 'depth'.*Valid: none"),
    ("scenes_segmenter", {"weights": "DEFAULT"}, "'weights'.*Valid: none"),
    ("mobilenet_v2", {"network": "resnet18"}, "Valid: weights"),
    ("resnet8", "segmentation", "'resnet8' is not for task 'segmentation'.*efficientdet"),
    ("scenes_segmenter", "classification", "'scenes_segmenter' is not for task 'classification'"),
    ("scenes_segmentr", "segmentation", "Did you mean 'scenes_segmenter'"),
])  # fmt: skip
def test_what_a_network_cannot_be_built_with_or_for_is_refused(name, options, says):
    with pytest.raises(KdlibError, match=says):
        check_task(name, options) if isinstance(options, str) else create_model(name, 9, **options)


@pytest.mark.parametrize(("name", "source"), [
    ("resnet18", "resnet18"), ("efficientdet_d0", "efficientnet_b0"),
    ("ssdlite320_mobilenet_v3_large", "mobilenet_v3_large"),
    ("fasterrcnn_mobilenet_v3_large_fpn", "mobilenet_v3_large"),
])  # fmt: skip
def test_a_network_begins_with_torchvision_s_weights(name, source, tmp_path, monkeypatch):
    """Random ones lie where its download would be, so that none is made."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (folder := tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    state, known = tv.get_model(source).state_dict(), tv.get_model_weights(source)
    torch.save(state, folder / Path(known["IMAGENET1K_V1"].url).name)
    layers = {one.dim(): one for one in reversed(state.values())}  # of each kind the first
    for classes in (7, 1000):
        made = [*create_model(name, classes, weights="IMAGENET1K_V1").parameters()]
        held = {dim for dim, one in layers.items() if any(map(one.equal, made))}
        assert 4 in held and (2 in held) == (classes == 1000 and name == source)
    with pytest.raises(KdlibError, match=f"weights of {source} 'COCO_V1'.*IMAGENET1K_V1"):
        create_model(name, 7, weights="COCO_V1")
    if name == source:  # a run of that start; one epoch takes it nowhere
        alone = {"teacher": "none", "method": "student", "epochs": 1, "learning_rate": 1e-3}
        run = tiny(student=name, start="DEFAULT", precision="bfloat16", **alone)
        assert fit(run, tmp_path, progress=False)["provenance"]["precision"] == "bfloat16"
        made = trained_network(run, tmp_path, 16).network.conv1.weight
        assert torch.cosine_similarity(made.flatten(), layers[4].flatten(), dim=0) > 0.9


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


class ChannelsLast(Backbone):
    """Returns its maps as timm's Swin does."""

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [maps.permute(0, 2, 3, 1) for maps in super().forward(images)]


OURS = {
    "own_output": (partial(create_model, "scenes_small"), None),
    "own_list": (lambda classes: Backbone(), None),
    "own_layers": (Classifier, ("features.0", "features.1")),
    "own_function": (Classifier, read),
}


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(models, "MODELS", dict(models.MODELS))
    for name, (build, stages) in OURS.items():
        register_model(name, build, stages=stages, image_size=16)


@pytest.mark.parametrize("name", OURS)
def test_what_gives_stages_returns_an_output(name, registered):
    network, batch = create_model(name, 5), torch.rand(3, 3, 16, 16)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    output = network(batch)
    assert isinstance(output, Output) and output.logits.shape == (3, 5)
    assert {stage.ndim for stage in output.stages} == {4}
    torch.testing.assert_close(output.embedding, output.stages[-1].mean((2, 3)))
    (output.logits.logsumexp(1).sum() + output.stages[0].sum()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert not copied(batch).logits.any()  # what a copy reads are its own layers
    if name == "own_layers":
        function = create_model("own_function", 5)
        function.load_state_dict(network.state_dict())
        pairs = zip(output.stages, function(batch).stages, strict=True)
        assert all(torch.equal(functional.relu(mine), theirs) for mine, theirs in pairs)


def test_registered_networks_are_trained_in_this_process(tmp_path, registered):
    students = [tiny(student=name, teacher="own_output", epochs=1) for name in OURS]
    fit([students[0].teacher_config()], tmp_path, progress=False)
    for config, record in zip(students, fit(students, tmp_path, progress=False), strict=True):
        assert record["config"]["student"] == config.student and record["ssim"]
        network = trained_network(config, tmp_path, 16)
        assert network(torch.rand(1, 3, 32, 32)).logits.shape == (1, 16)


def test_a_network_for_pixels_is_for_segmentation_alone(registered):
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
    ({"build": lambda classes: create_model("scenes_small", 3)}, r"logits \(3,\) .*needs \(5,\)"),
    ({"task": "segmentation", "stages": ("features.0",)}, r"\(5,\) .*needs \(5, 64, 64\)"),
    ({"stages": "features.0"}, "stages is features.0; give a list"),
    ({"stages": ()}, r"stages is \(\); give a list"),
    ({"stages": ("fc",)}, r"layer 'fc' is \(1, 5\)"),
    ({"stages": ("features.1", "features.0")}, "grow: .*fine to coarse"),
    ({"stages": lambda network, images: (network(images),)}, r"network is \(1, 5\)"),
    ({"build": lambda classes: lambda images: images}, "build made <function.*Module"),
    ({"build": lambda classes: ChannelsLast()}, r"network look like \(B, H, W, C\)"),
    ({"image_size": 0}, "image_size is 0"),
])  # fmt: skip
def test_what_is_none_of_ours_is_refused(changes, says, registered):
    with pytest.raises(KdlibError, match=says):  # noqa: PT012
        register_model(**{"name": "mine", "build": Classifier, **changes})
        create_model("mine", 5)


def test_timm_s_networks_are_ours_as_the_page_says(registered):
    pytest.importorskip("timm")
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    made: dict[str, object] = {}
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], made)
    assert [s.shape[1] for s in made["output"].stages] == [64, 128, 256, 512]
    listed, one = (create_model(n, 5)(images(64)) for n in ("resnet34_maps", "resnet10_timm"))
    assert [stage.shape[1] for stage in listed.stages] == [64, 64, 128, 256, 512]
    assert listed.logits.shape == one.logits.shape == (2, 5)
