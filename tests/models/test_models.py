"""Networks: sizes of the literature, stages, gradients, options and errors."""

from urllib.error import URLError

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision import models as tv

from kdlib.errors import KdlibError
from kdlib.models import create_model, model_names
from kdlib.models.cifar import ShuffleUnit
from kdlib.models.cost import count_parameters, flops, stage_shapes
from kdlib.models.output import Output
from kdlib.models.torchvision import TappedNetwork, tapped_resnet

torch.set_num_threads(1)

# Millions of parameters for 100 classes: Tian 2020, arXiv 1910.10699 (RepDistiller's models).
LITERATURE = {
    "resnet8": 0.08,
    "resnet14": 0.18,
    "resnet20": 0.28,
    "resnet32": 0.47,
    "resnet44": 0.67,
    "resnet56": 0.86,
    "resnet110": 1.74,
    "resnet8x4": 1.23,
    "resnet32x4": 7.43,
    "wrn_16_2": 0.70,
    "wrn_40_1": 0.57,
    "wrn_40_2": 2.26,
    "resnet50_cifar": 23.71,
    "vgg8": 3.97,
    "vgg13": 9.46,
    "mobilenet_v2_cifar": 0.81,
    "shuffle_v1": 0.95,
    "shuffle_v2": 1.36,
}
SMALL = ("resnet8", "resnet8x4", "wrn_16_2", "scenes_large", "scenes_medium", "scenes_small")
RECTIFIED = ("resnet50_cifar", "vgg8", "vgg13", "shuffle_v1", "shuffle_v2")
MOBILE = ("mobilenet_v2_cifar", "scenes_mobile")  # blocks that end without activation


def images(size: int = 32, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "millions"), LITERATURE.items())
def test_parameters_equal_the_literature(name, millions):
    assert round(count_parameters(create_model(name, 100)) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("name", "build"), [("resnet18", tv.resnet18), ("mobilenet_v2", tv.mobilenet_v2)]
)
def test_torchvision_networks_keep_all_their_parameters(name, build):
    assert count_parameters(create_model(name, 1000)) == count_parameters(build())


@pytest.mark.parametrize(("name", "low", "high"), [
    ("scenes_large", 0.65e6, 0.75e6),
    ("scenes_medium", 0.07e6, 0.09e6),
    ("scenes_small", 0, 0.01e6),
    ("scenes_mobile", 0.07e6, 0.09e6),
])  # fmt: skip
def test_scenes_networks_are_small(name, low, high):
    assert low < count_parameters(create_model(name, 16)) < high


@pytest.mark.parametrize(("name", "channels"), [
    ("resnet20", (16, 32, 64)),
    ("resnet8x4", (64, 128, 256)),
    ("wrn_16_2", (32, 64, 128)),
    ("wrn_40_1", (16, 32, 64)),
])  # fmt: skip
def test_cifar_stages_have_32_16_and_8_pixels(name, channels):
    expected = [(c, s, s) for c, s in zip(channels, (32, 16, 8), strict=True)]
    assert stage_shapes(create_model(name, 100), 32) == expected


@pytest.mark.parametrize(("name", "channels", "finest"), [
    ("resnet50_cifar", (256, 512, 1024, 2048), 32),
    ("vgg8", (64, 128, 256, 512), 32),
    ("vgg13", (64, 128, 256, 512), 32),
    ("mobilenet_v2_cifar", (12, 16, 48, 1280), 16),
    ("shuffle_v1", (240, 480, 960), 16),
    ("shuffle_v2", (116, 232, 1024), 16),
])  # fmt: skip
def test_cifar_stages_of_other_kinds_halve_from_the_finest(name, channels, finest):
    expected = [(c, finest >> index, finest >> index) for index, c in enumerate(channels)]
    assert stage_shapes(create_model(name, 100), 32) == expected


@pytest.mark.parametrize(("teacher", "student"), [
    ("resnet32x4", "shuffle_v1"),
    ("wrn_40_2", "shuffle_v2"),
    ("vgg13", "mobilenet_v2_cifar"),
    ("resnet50_cifar", "vgg8"),
    ("scenes_large", "scenes_mobile"),
])  # fmt: skip
def test_cross_architecture_pairs_have_equally_many_stages(teacher, student):
    first, second = (stage_shapes(create_model(name, 4), 32) for name in (teacher, student))
    assert len(first) == len(second)


@pytest.mark.parametrize(("name", "channels"), [
    ("resnet18", (64, 128, 256, 512)),
    ("resnet50", (256, 512, 1024, 2048)),
    ("mobilenet_v2", (24, 32, 96, 1280)),
])  # fmt: skip
def test_imagenet_stages_have_56_28_14_and_7_pixels(name, channels):
    expected = [(c, s, s) for c, s in zip(channels, (56, 28, 14, 7), strict=True)]
    assert stage_shapes(create_model(name, 10), 224) == expected


@pytest.mark.parametrize("name", ["scenes_large", "scenes_medium", "scenes_mobile"])
def test_scenes_stages_halve_from_a_quarter_of_the_image(name):
    assert [shape[1:] for shape in stage_shapes(create_model(name, 16), 64)] == [
        (16, 16),
        (8, 8),
        (4, 4),
    ]


@pytest.mark.parametrize("name", ["scenes_small", "scenes_mobile"])
@pytest.mark.parametrize("size", [1, 7, 33, 64])
def test_scenes_networks_take_any_size(name, size):
    output = create_model(name, 4)(images(size))
    assert output.logits.shape == (2, 4) and len(output.stages) == 3


@pytest.mark.parametrize("name", [*SMALL, *RECTIFIED, *MOBILE, "mobilenet_v2", "resnet18"])
def test_logits_and_embedding_belong_together(name):
    network = create_model(name, 5).eval()
    output = network(images(64))
    assert isinstance(output, Output)
    assert output.logits.shape == (2, 5)
    torch.testing.assert_close(output.embedding, output.stages[-1].mean((2, 3)))
    classifier = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    torch.testing.assert_close(classifier(output.embedding), output.logits)


@pytest.mark.parametrize("name", [*SMALL, *RECTIFIED, "resnet18"])
def test_stages_are_read_after_an_activation(name):
    for stage in create_model(name, 5)(images()).stages:
        assert stage.min() == 0 and stage.max() > 0


@pytest.mark.parametrize("name", [*SMALL, *RECTIFIED, *MOBILE, "mobilenet_v2", "resnet18"])
def test_a_loss_on_stages_and_logits_reaches_every_parameter(name):
    network = create_model(name, 5)
    output = network(images(32 if name in RECTIFIED else 64, batch=4))
    loss = output.logits.logsumexp(1).sum() + sum(s.square().mean() for s in output.stages)
    loss.backward()
    for parameter in network.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()


def test_tapping_leaves_torchvisions_network_as_it_is():
    torch.manual_seed(0)
    theirs = tv.resnet18(num_classes=1000).eval()
    tapped = create_model("resnet18", 1000).eval()
    tapped.network.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(tapped(images(64)).logits, theirs(images(64)), rtol=0, atol=0)


def test_tapped_dropout_follows_train_and_eval():
    network = create_model("mobilenet_v2", 5)
    training = [network.train()(images(64)).logits for _ in range(2)]
    evaluating = [network.eval()(images(64)).logits for _ in range(2)]
    assert not torch.equal(*training) and torch.equal(*evaluating)


@pytest.mark.parametrize("name", [*RECTIFIED, *MOBILE])
def test_a_state_dict_carries_the_whole_network(name):
    trained, loaded = create_model(name, 5), create_model(name, 5).eval()
    trained.train()(images(batch=8))  # statistics that are not those of the start
    loaded.load_state_dict(trained.state_dict())
    torch.testing.assert_close(loaded(images()).logits, trained.eval()(images()).logits)


def test_a_shuffle_unit_mixes_its_groups_and_appends_the_pooled_shortcut():
    unit = ShuffleUnit(48, 240, stride=2).eval()
    features = torch.rand(1, 48, 8, 8, requires_grad=True)
    output = unit(features)
    pooled = functional.avg_pool2d(features, 3, 2, padding=1)
    torch.testing.assert_close(output[:, 192:], pooled)
    (reached,) = torch.autograd.grad(unit.convolutions(features)[:, 0].sum(), features)
    assert (reached.abs().sum((0, 2, 3)) > 0).all()


@pytest.mark.parametrize("name", [*SMALL, *MOBILE, "vgg8", "shuffle_v1", "shuffle_v2"])
def test_bfloat16_and_channels_last_agree_with_float32(name):
    torch.manual_seed(0)
    network = create_model(name, 5)
    network.train()(images(64, batch=16))  # one batch of statistics, so that eval is meaningful
    network.eval()
    reference = network(images(64)).logits
    network.to(memory_format=torch.channels_last)
    batch = images(64).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network(batch).logits, reference, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(batch)
    assert output.logits.dtype == torch.bfloat16
    error = (output.logits.float() - reference).norm() / reference.norm()
    assert error < 0.05


def test_one_seed_gives_one_initialisation():
    def weights() -> list[torch.Tensor]:
        torch.manual_seed(3)
        return list(create_model("wrn_16_2", 5).state_dict().values())

    assert all(torch.equal(a, b) for a, b in zip(weights(), weights(), strict=True))


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_a_network_as_it_was(training):
    network = create_model("scenes_small", 4).train(training)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    stage_shapes(network, 16), flops(network, 16)
    assert network.training is training
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def test_flops_count_a_multiply_add_as_two():
    # ResNet-20 on 32 x 32 images: 40.8 M multiply-adds (He 2016 gives 0.041 G).
    assert flops(create_model("resnet20", 10), 32) == pytest.approx(2 * 40.8e6, rel=0.01)


def test_unknown_name_is_refused_with_the_valid_ones():
    with pytest.raises(KdlibError, match="Did you mean 'resnet20'.*scenes_large"):
        create_model("resnet-20", 10)
    assert set(LITERATURE) < set(model_names())


@pytest.mark.parametrize("option", ["depth", "blocks", "weights"])
def test_own_networks_refuse_every_option(option):
    with pytest.raises(KdlibError, match=f"'resnet20' has no options: remove {option}"):
        create_model("resnet20", 10, **{option: 8})


@pytest.mark.parametrize("option", ["weight", "build"])
def test_torchvision_networks_refuse_other_options(option):
    with pytest.raises(KdlibError, match="Valid: weights"):
        create_model("resnet18", 10, **{option: "DEFAULT"})


def test_unknown_weights_are_refused_with_the_valid_ones():
    with pytest.raises(KdlibError, match=r"weights of resnet18 'IMAGENET1K'.*IMAGENET1K_V1"):
        create_model("resnet18", 10, weights="IMAGENET1K")


def test_weights_that_cannot_be_downloaded_name_the_file_and_its_place(monkeypatch):
    def offline(*_args, **_kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(KdlibError, match=r"no route to host.*resnet18-\w+\.pth in .*checkpoints"):
        create_model("resnet18", 10, weights="DEFAULT")


def test_pretrained_weights_survive_and_only_a_wrong_classifier_is_replaced(monkeypatch):
    state = tv.resnet18().state_dict()
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *_args, **_kwargs: state
    )
    same = tapped_resnet(1000, "resnet18", "DEFAULT")
    other = tapped_resnet(10, "resnet18", "DEFAULT")
    assert isinstance(other, TappedNetwork)
    assert torch.equal(same.network.fc.weight, state["fc.weight"])
    assert torch.equal(other.network.conv1.weight, state["conv1.weight"])
    assert other.network.fc.weight.shape == (10, 512)
