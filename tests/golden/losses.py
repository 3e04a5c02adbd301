"""The core's losses, as functions of a case: from its arrays to our values."""

import torch
from golden.cases import of

from kdlib.data.batches import Batch
from kdlib.distill import TeacherOutput, create_distiller
from kdlib.losses.attention import at_loss
from kdlib.losses.contrastive import ContrastiveLoss
from kdlib.losses.logits import dkd_loss, kd_loss
from kdlib.losses.relations import rkd_loss, sp_loss
from kdlib.models.output import NetworkPair, Output, Shapes
from kdlib.runs import RunConfig


def parts(case, name):
    """A part of the student's output, and of the teacher's."""
    return tuple(getattr(case.output(who), name) for who in ("student", "teacher"))


@of("kd")
def kd(case):
    return {"loss": kd_loss(*parts(case, "logits"), case.options["temperature"])}


@of("dkd")
def dkd(case):
    names = "target_weight", "other_weight", "temperature"
    options = {name: case.options[name] for name in names}
    found = dkd_loss(*parts(case, "logits"), case["labels"], **options)
    return {"loss": case.options["factor"] * found}


@of("at")
def at(case):
    mine, theirs = parts(case, "stages")
    each = [at_loss([a], [b]) for a, b in zip(mine, theirs, strict=True)]
    return {"loss": at_loss(mine, theirs), "per_stage": torch.stack(each)}


@of("rkd")
def rkd(case):
    return {"loss": rkd_loss(*parts(case, "embedding"))}


@of("sp")
def sp(case):
    return {"loss": sp_loss(*parts(case, "stages"))}


@of("release_a", "release_b")
def release(case):
    student, teacher = case.output("student"), case.output("teacher")
    if not case.options.get("gate"):
        loss = create_distiller(RunConfig(method=case.method)).method_loss
        per_image = loss(student, teacher, None)
        return {"loss": per_image.mean(), "per_image": per_image}
    config = RunConfig(method=f"{case.method}+gate", weight=1.0, ce_weight=0.0)
    given = TeacherOutput(*teacher._replace(embedding=teacher.logits))
    batch = Batch(torch.empty(0), case["labels"], torch.arange(len(case["labels"])))
    return {"loss": create_distiller(config)(student, given, batch)[case.method]}


@of("crd")
def crd(case):
    names = "temperature", "momentum", "negatives", "dimensions"
    options = {name: case.options[name] for name in names}
    mine, theirs = (case.listed(f"{who}.embedding.step") for who in ("student", "teacher"))
    shapes = (Shapes((), embedding[0].shape[1]) for embedding in (mine, theirs))
    labels = torch.arange(case.options["images"]) % 2
    pair = NetworkPair(*shapes, labels, batch_size=len(mine[0]), seed=0, classes=2)
    loss, found = ContrastiveLoss(pair, **options), {}
    case.fill(loss)
    memories = {"student": loss.memory_student, "teacher": loss.memory_teacher}
    for who, memory in memories.items():
        memory.bank = case[f"memory.{who}"]
    steps = zip(
        mine, theirs, case.listed("indices.step"), case.listed("positions.step"), strict=True
    )
    losses = []
    for step, (own, other, indices, positions) in enumerate(steps):
        loss.negatives.forward = lambda labels, drawn=positions[:, 1:]: drawn
        outputs = Output(None, (), own), Output(None, (), other)
        losses.append(loss(*outputs, Batch(None, labels[indices], indices)).mean())
        for who, memory in memories.items():
            found[f"memory.{who}.step{step}"] = memory.bank
    for name in [name for name in case.results if name.startswith("grad.param.")]:
        leaf, step = name.removeprefix("grad.").rsplit(".step", 1)
        (found[name],) = torch.autograd.grad(
            losses[int(step)], case.leaves[leaf], retain_graph=True
        )
    constants = [memories[who].log_constant.exp() for who in ("teacher", "student")]
    return {"loss": torch.stack(losses), "constants": torch.stack(constants), **found}
