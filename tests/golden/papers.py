"""SRM, FRSKD, detectors, networks and measures, as functions of a case: to our values."""

import re
import zlib
from collections import Counter
from dataclasses import replace
from math import prod
from pkgutil import resolve_name

import numpy as np
import torch
from detection.detectors import base_of, detections_of, objects_of
from golden.cases import of
from torch import nn
from torch.nn import functional

from kdlib.data.batches import Batch
from kdlib.detection.average_precision import error_types
from kdlib.detection.batches import DetectionBatch
from kdlib.detection.detector import Answer, Positives
from kdlib.detection.losses import RECOGNITION, CropLoss
from kdlib.detection.teacher import CropTeacher
from kdlib.distill import BeforeRelu, TeacherOutput, create_distiller
from kdlib.evaluate import ssim_released
from kdlib.frskd.losses import RefinementLoss
from kdlib.losses.logits import kd_loss
from kdlib.methods import METHODS
from kdlib.models import create_model
from kdlib.models.cifar import WideResNet
from kdlib.models.output import NetworkPair, Output, Shapes, count_parameters
from kdlib.runs import RunConfig
from kdlib.srm.losses import InitialisationLoss, ReconstructionLoss, global_labels, local_labels
from kdlib.train_state import learning_rate
from study.profiles import expand


# Fills: tensors that are not in the files, but that the README says how to make.
def pattern(name, shape):
    """Numbers of -1 to 1 that a name and a place alone decide."""
    mask, counts = np.uint64(0xFFFFFFFF), np.arange(prod(shape), dtype=np.uint64)
    values = (counts * np.uint64(2654435761) + np.uint64(zlib.crc32(name.encode()))) & mask
    for _ in range(2):
        values = ((values ^ (values >> np.uint64(16))) * np.uint64(73244475)) & mask
    values = values ^ (values >> np.uint64(16))
    return torch.from_numpy((values / 2**31 - 1).reshape(shape))


def filled(name, shape, role):
    """A parameter, or a running statistic, of a layer of some kind."""
    values, fan = pattern(name, shape), prod(shape[1:])
    if role in ("conv", "linear"):
        return values * ({"conv": 6, "linear": 3}[role] / fan) ** 0.5
    spreads = {"scale": (1, 0.25), "running_var": (1, 0.25), "fusion": (1, 0.5)}
    middle, spread = spreads.get(role, (0, 0.1))
    return middle + spread * values


# FRSKD
PLACES = {  # what the files call a list of layers, and the level of its first one
    "laterals_down": ("lateral_down", 0), "laterals_up": ("lateral_up", 1),
    "fuse_down": ("fusion_down", 0), "fuse_up": ("fusion_up", 1), "narrow": ("narrow", 0),
    "widen": ("widen", 1), "refine_down": ("refine_down", 0), "refine_up": ("refine_up", 1),
}  # fmt: skip
NORM = {"weight": "scale", "bias": "shift"}
KINDS = ("depthwise", "pointwise", "norm")


def published_name(own):
    """What the files call an entry of a self-teacher's state."""
    if not (found := re.match(r"pyramids\.0\.(\w+)\.(\d)\.(?:(\d)\.)?(\w+)", own)):
        return own
    part, number, layer, kind = found.groups()
    start, first = PLACES[part]
    place = f"{start}{int(number) + first}"
    if layer is None:
        return place
    block, at = divmod(int(layer), 4)
    name = f"{KINDS[at]}{block}" if part.startswith("refine") else ("conv", "norm")[at]
    return f"{place}.{name}.{NORM.get(kind, kind) if 'norm' in name else kind}"


@of("frskd")
def frskd(case):
    options = case.options
    sizes = zip(options["channels"], options["sizes"], strict=True)
    filled = tuple((channels, side, side) for channels, side in sizes)
    stages = filled if options["filled"] else case.shapes("student").stages
    pair = NetworkPair(Shapes(stages, 1), None, torch.zeros(1), 1, 0, options["classes"])
    given = ("alpha", "beta", "temperature", "width", "common", "depth", "repeat")
    loss = RefinementLoss(pair, **{name: options[name] for name in given}).double()
    module = loss.self_teacher.train(options["mode"] == "train")
    names = {own: published_name(own) for own in module.state_dict() if "tracked" not in own}
    if options["filled"]:
        state = module.state_dict()
        fill_frskd(case, stages, {name: state[own].shape for own, name in names.items()})
    case.fill(module, *((f"^{re.escape(name)}$", own) for own, name in names.items()))
    student = case.output("student")
    made = loss.teach(student)
    taught = TeacherOutput(*made)
    found = {
        "logits": made.logits,
        "loss": functional.cross_entropy(made.logits, case["labels"]),
        "kl": kd_loss(student.logits, taught.logits, loss.temperature),
        "attention": loss.features(student, taught, None).mean(),
        "distillation": loss(student, taught, Batch(None, case["labels"], None)).mean(),
        **{f"refined{level}": maps for level, maps in enumerate(made.stages)},
    }
    if options["filled"]:
        found |= summaries_of_frskd(student, found)
        found["parameter_count"] = torch.tensor(count_parameters(module))
    return found


def summaries(maps):
    """Each image's mean, mean of the positive part, and root mean square."""
    flat = maps.flatten(1)
    return flat.mean(1), flat.relu().mean(1), flat.square().mean(1).sqrt()


def fill_frskd(case, stages, shapes):
    """Inputs and parameters of a full size, which the file does not hold."""
    batch, classes = case.options["batch"], case.options["classes"]
    for level, shape in enumerate(stages):
        name = f"student.stage{level}"
        case[name] = (3 * pattern(name, (batch, *shape))).relu().requires_grad_()
    case["student.logits"] = (3 * pattern("student.logits", (batch, classes))).requires_grad_()
    case.leaves["student.logits"] = case["student.logits"]
    case["labels"] = torch.arange(batch) % classes
    for name, shape in shapes.items():
        role = "fusion" if "fusion" in name else name.rsplit(".", 1)[-1]
        role = {"classifier.weight": "linear"}.get(name, "conv" if role == "weight" else role)
        case[f"param.{name}"] = filled(f"param.{name}", shape, role)


def summaries_of_frskd(student, found):
    """What the files hold of maps and gradients that are too large."""
    kept = {}
    for level, stage in enumerate(student.stages):
        mean, _, rms = summaries(found[f"refined{level}"])
        kept |= {f"refined{level}.mean": mean, f"refined{level}.rms": rms}
        for value in ("loss", "distillation"):
            (slope,) = torch.autograd.grad(found[value], stage, retain_graph=True)
            start = f"grad.{value}.student.stage{level}".replace(".loss", "")
            kept[f"{start}.norms"] = slope.flatten(1).norm(dim=1)
            kept[f"{start}.channel_sums"] = slope.sum((0, 2, 3))
    return kept


@of("frskd_pixels")
def frskd_pixels(case):
    if "epochs" in case.options:
        method = METHODS["frskd_pixels"]
        ends = [(epoch + 1) / case.options["epochs"] for epoch in case["epoch"].tolist()]
        shares = [resolve_name(method.ramp)(end / method.warmup) for end in ends]
        ramp = torch.tensor(shares, dtype=torch.float64)
        return {name: method.fixed[name] * ramp for name in ("alpha", "beta")}
    student, teacher = case.output("student"), case.output("teacher")
    options = {"alpha": 0.0, "beta": 1.0} if student.stages else {"beta": 0.0, **case.options}
    options.pop("ignored_label", None)
    config = RunConfig(method="frskd_pixels", task="segmentation", method_options=options)
    shapes = case.shapes("student") if student.stages else Shapes(((1, 1, 1),), 1)
    pair = NetworkPair(shapes, None, torch.zeros(1), 1, 0, 5, 8)
    loss = create_distiller(config, pair).method_loss
    student = student._replace(logits=torch.zeros(2)) if student.stages else student
    return {"loss": loss(student, teacher, Batch(None, case.get("labels"), None)).mean()}


# SRM
@of("srm")
def srm(case):
    options = {name: case.options[name] for name in ("mu", "sparsity", "targets")}
    learned = ReconstructionLoss(case.pair(), **options).blocks
    loss = InitialisationLoss(case.pair(), **options)
    for block in (*learned, *loss.students):
        block.intercept = nn.Parameter(torch.zeros(1))  # in the files' shape
    case.fill(nn.ModuleDict({"teacher": learned, "student": loss.students}), (r"(\d)", r".\1"))
    loss.double().teachers = learned
    student, teacher = case.output("student"), case.output("teacher")
    terms = {name: term.mean() for name, term in loss.terms(student, teacher).items()}
    pairs = list(zip(learned, teacher.stages, strict=True))
    errors = [block.errors(maps).mean() for block, maps in pairs]
    found = {
        "reconstruction": sum(errors),
        "reconstruction_loss": sum(errors),
        "image_loss": terms["global"],
        "pixel_loss": terms["local"],
        "loss": loss(student, teacher, None).mean(),
    }
    for stage, (block, maps) in enumerate(pairs):
        found |= {
            f"reconstruction{stage}": block.restored(maps),
            f"image_label{stage}": global_labels(block(maps)),
            f"pixel_label{stage}": local_labels(block(maps)),
            f"image_code{stage}": global_labels(loss.students[stage](student.stages[stage])),
        }
    return found


# Detectors
@of("kd_cls")
def kd_cls(case):
    mine, theirs = case["student.logits"], case["teacher.logits"]
    background = case.get("student.background", torch.zeros(len(mine), 1))
    form = RECOGNITION[case.options["form"]]
    logits = torch.cat([background, mine], dim=1)
    return {"loss": form(logits, theirs, case.options["temperature"]).mean()}


class Classifier(nn.Module):
    """Two convolutions, whose every result is a stage."""

    def __init__(self):
        super().__init__()
        strides = ((3, 4, 1), (4, 5, 2))
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, s, padding=1) for a, b, s in strides)

    def forward(self, images):
        fine = self.stages[0](images).relu()
        return Output(fine.mean((2, 3)), (fine, self.stages[1](fine).relu()), None)


@of("kd_loc")
def kd_loc(case):
    owners, options = case["owners"], case.options
    images = [image.double() / 255 for image in case["images"]]
    extent = torch.tensor([*images[0].shape[:0:-1]] * 2)
    own = [torch.where(owners == image)[0] for image in range(len(images))]
    targets = [{"boxes": case["objects"][rows]} for rows in own]
    numbers = torch.empty_like(owners)
    for rows in own:
        numbers[rows] = torch.arange(len(rows))
    network = case.fill(Classifier(), (r"classifier\.stage", "stages."))
    # The release shows its classifier what it compares: pixels of 0 to 255.
    teacher = CropTeacher(network, options["crop"], (0.0,) * 3, (1 / 255,) * 3).double()
    positives = Positives(torch.zeros(len(owners), 1), case["boxes"] / extent, owners, numbers)
    batch = DetectionBatch(images, targets, torch.arange(len(images)))
    loss = CropLoss(cls=0.0, loc=1.0, layers=tuple(options["layers"]))
    terms = loss(Answer({}, positives, "softmax"), teacher.teach(batch), batch)
    return {"loss": sum(terms.values())}


@of("tide")
def tide(case):
    truth, rows = case["truth"], case["found"]
    for some in (truth, rows):
        some[:, 4:6] += some[:, 2:4]  # width and height become the lower right corner
    images, classes = case.options["images"], case.options["classes"]
    counts = np.bincount(truth[:, 0].int(), minlength=images)
    objects = objects_of(truth[:, 2:], truth[:, 1], counts=counts)
    own = [rows[rows[:, 0] == image] for image in range(images)]
    detections = [detections_of(some[:, 2:6], some[:, 1], some[:, 6]) for some in own]
    found = {"ap50": base_of(detections, objects, classes)}
    for name, error in error_types(detections, objects, classes).items():
        found |= {f"count.{name}": error["count"], f"gain.{name}": error["dap"]}
    return {name: torch.as_tensor(value) for name, value in found.items()}


# Measures
@of("ssim")
def ssim(case):
    student, teacher = case.output("student"), case.output("teacher")
    each = ssim_released(student, teacher, case["labels"])
    stages = {f"per_image{stage}": values for stage, values in enumerate(each)}
    counted = (teacher.logits.argmax(1) == case["labels"]).to(case["counted"])
    return {**stages, "per_stage": torch.stack([one.mean() for one in each]), "counted": counted}


@of("learning_rate")
def rates(case):
    dataset = {"cifar": "cifar100", "scenes": "mit67"}[case.name.split("-")[1]]
    run = next(run for run in expand("paper", dataset) if run.method == "kd")
    places = range(epochs := case.options["epochs"])  # files count epochs from 0, or from 1

    def of_epochs(**changes):
        config = replace(run, **changes)
        found = [learning_rate(config, (place + 0.5) / epochs, epochs) for place in places]
        return torch.tensor(found, dtype=torch.float64)

    names = {"momentum", "weight_decay"} & case.options.keys()
    assert {name: getattr(run, name) for name in names} == {n: case.options[n] for n in names}
    slow = {"rate_mobile_and_shuffle": of_epochs(learning_rate=0.01)}
    return {"rate": of_epochs()} | (slow if dataset == "cifar100" else {})


# Networks: the names of ours where they are others
NETWORKS = {
    "mobilenet_v2_half": "mobilenet_v2_cifar",
    **{f"resnet{depth}": f"resnet{depth}_cifar" for depth in (18, 50)},
}
ROLES = {
    nn.Conv2d: {"weight": "conv weight", "bias": "conv bias"},
    nn.Linear: {"weight": "linear weight", "bias": "linear bias"},
    nn.BatchNorm2d: {"weight": "norm scale", "bias": "norm shift"},
}


def sized(shape):
    return "x".join(map(str, shape))


@of("network_*")
def network(case):
    name, classes = case.options["network"], case.options["classes"]
    made = create_model(NETWORKS.get(name, name), classes).double()
    for layer in made.modules():
        for part, role in ROLES.get(type(layer), {}).items():
            if (parameter := getattr(layer, part)) is not None:
                kind = role.split()[role.startswith("norm") or role.endswith("bias")]
                parameter.data = filled(f"{role} {sized(parameter.shape)}", parameter.shape, kind)
    size = re.search(r"image ([\dx]+)", case.options["input"])[1]
    images = 2 * pattern(f"image {size}", tuple(map(int, size.split("x"))))
    shapes = Counter(sized(parameter.shape) for parameter in made.parameters())
    found = {
        "parameter_count": torch.tensor(count_parameters(made)),
        "parameter_shape_counts": torch.tensor([shapes[one] for one in case["parameter_shapes"]]),
    }
    for mode in ("evaluation", "training"):
        with torch.no_grad(), BeforeRelu():
            output = made.train(mode == "training")(images)
            first = made.stem(images)
            # The files of wide networks have sums, before the next block's norm.
            wide = isinstance(made, WideResNet)
            features = sums_of(made, first) if wide else (first, *output.stages)
        before = first, *(getattr(stage, "before", stage) for stage in output.stages)
        found |= {f"{mode}.logits": output.logits, f"{mode}.embedding": output.embedding}
        for kind, listed in (("feature", features), ("preact", before)):
            for number, maps in enumerate(listed):
                found[f"{mode}.{kind}{number}.summary"] = torch.stack(summaries(maps), 1)
                found[f"{mode}.{kind}{number}.shape"] = torch.tensor(maps.shape[1:])
    return found


def sums_of(made, features):
    """What the stem and each stage of a wide network hand on."""
    found = [features]
    for stage in made.stages:
        for block in stage:
            _, features = block(features)
        found.append(features)
    return found
