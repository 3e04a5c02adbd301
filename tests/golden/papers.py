"""SRM, FRSKD, detectors, networks and measures, as functions of a case: to our values."""

import re
import zlib
from math import prod

import numpy as np
import torch
from golden.cases import of
from torch import nn
from torch.nn import functional

from kdlib.data.batches import Batch
from kdlib.distill import TeacherOutput
from kdlib.frskd.losses import RefinementLoss
from kdlib.losses.attention import at_loss
from kdlib.losses.logits import kd_loss
from kdlib.models.output import NetworkPair, Output, Shapes, count_parameters


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
    middle, spread = {"scale": (1, 0.25), "running_var": (1, 0.25), "fusion": (1, 0.5)}.get(role, (0, 0.1))
    return middle + spread * values


# FRSKD
STEPS = {"laterals_up": 1, "widen": 1, "fuse_up": 1, "refine_up": 1}  # files count from the finest
NORM = {"weight": "scale", "bias": "shift"}
KINDS = ("depthwise", "pointwise", "norm")


def published_name(own):
    """What the files call an entry of a self-teacher's state."""
    if not (found := re.match(r"pyramids\.0\.(\w+)\.(\d)\.(?:(\d)\.)?(\w+)", own)):
        return own
    part, number, layer, kind = found.groups()
    place = f"{part.replace('laterals', 'lateral').replace('fuse', 'fusion')}{int(number) + STEPS.get(part, 0)}"
    if layer is None:
        return place
    block, at = divmod(int(layer), 4)
    name = f"{KINDS[at]}{block}" if part.startswith("refine") else ("conv", "norm")[at]
    return f"{place}.{name}.{NORM.get(kind, kind) if 'norm' in name else kind}"


def of_images(values):
    """(B,) norms of (B, ...)."""
    return values.flatten(1).norm(dim=1)


@of("frskd")
def frskd(case):
    options = case.options
    stages = [(channels, side, side) for channels, side in zip(options["channels"], options["sizes"])]
    pair = NetworkPair(Shapes(tuple(stages), 1), None, torch.zeros(1), 1, 0, options["classes"])
    given = ("alpha", "beta", "temperature", "width", "common", "depth", "repeat")
    loss = RefinementLoss(pair, **{name: options[name] for name in given}).double()
    module = loss.self_teacher.train(options["mode"] == "train")
    names = {own: published_name(own) for own in module.state_dict() if "tracked" not in own}
    if options["filled"]:
        fill_frskd(case, stages, {name: module.state_dict()[own].shape for own, name in names.items()})
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
        maps = found[f"refined{level}"]
        kept |= {
            f"refined{level}.mean": maps.flatten(1).mean(1),
            f"refined{level}.rms": maps.flatten(1).square().mean(1).sqrt(),
        }
        for value in ("loss", "distillation"):
            (slope,) = torch.autograd.grad(found[value], stage, retain_graph=True)
            start = f"grad.{value}.student.stage{level}".replace(".loss", "")
            kept |= {f"{start}.norms": of_images(slope), f"{start}.channel_sums": slope.sum((0, 2, 3))}
    return kept
