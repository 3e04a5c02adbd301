"""The core's losses, as functions of a case: from its arrays to our values."""

import torch
from golden.cases import of

from kdlib.data.batches import Batch
from kdlib.distill import TeacherOutput, create_distiller
from kdlib.losses.attention import at_loss
from kdlib.losses.contrastive import ContrastiveLoss
from kdlib.losses.hints import HintLoss, SemanticLoss, VariationalLoss
from kdlib.losses.logits import dkd_loss, kd_loss, standardised_kd_per_image
from kdlib.losses.relations import pkt_loss, rkd_loss, sp_loss
from kdlib.losses.review import FrequencyAttention, FrequencyReview, ReviewLoss
from kdlib.models.output import NetworkPair, Output, Shapes
from kdlib.runs import RunConfig


def parts(case, name):
    """A part of the student's output, and of the teacher's."""
    return tuple(getattr(case.output(who), name) for who in ("student", "teacher"))


def some_of(options, names):
    """Those of a file's options that ours have too."""
    return {name: options[name] for name in names.split()}


PLAIN = {  # method: ours, the part that it compares, its options
    "kd": (kd_loss, "logits", "temperature"),
    "logit_std": (standardised_kd_per_image, "logits", "temperature"),
    "rkd": (rkd_loss, "embedding", "distance_weight angle_weight"),
    "pkt": (pkt_loss, "embedding", ""),
    "sp": (sp_loss, "stages", ""),
}


@of(*PLAIN)
def plain(case):
    loss, part, names = PLAIN[case.method]
    return {"loss": loss(*parts(case, part), **some_of(case.options, names)).mean()}


@of("dkd")
def dkd(case):
    options = some_of(case.options, "target_weight other_weight temperature")
    found = dkd_loss(*parts(case, "logits"), case["labels"], **options)
    return {"loss": case.options["factor"] * found}


@of("at")
def at(case):
    mine, theirs = parts(case, "stages")
    each = [at_loss([a], [b]) for a, b in zip(mine, theirs, strict=True)]
    return {"loss": at_loss(mine, theirs), "per_stage": torch.stack(each)}


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
    options = some_of(case.options, "temperature momentum negatives dimensions")
    mine, theirs = (case.listed(f"{who}.embedding.step") for who in ("student", "teacher"))
    shapes = (Shapes((), embedding[0].shape[1]) for embedding in (mine, theirs))
    labels = torch.arange(case.options["images"]) % 2
    pair = NetworkPair(*shapes, labels, batch_size=len(mine[0]), seed=0, classes=2)
    loss, found = ContrastiveLoss(pair, **options), {}
    case.fill(loss)
    memories = {"student": loss.memory_student, "teacher": loss.memory_teacher}
    for who, memory in memories.items():
        memory.bank = case[f"memory.{who}"]
    places, losses = (case.listed(f"{name}.step") for name in ("indices", "positions")), []
    steps = zip(mine, theirs, *places, strict=True)
    for step, (own, other, indices, positions) in enumerate(steps):
        loss.negatives.forward = lambda labels, drawn=positions[:, 1:]: drawn
        outputs = Output(None, (), own), Output(None, (), other)
        losses.append(loss(*outputs, Batch(None, labels[indices], indices)).mean())
        for who, memory in memories.items():
            found[f"memory.{who}.step{step}"] = memory.bank
    for name in [name for name in case.results if name.startswith("grad.param.")]:
        leaf, step = name.removeprefix("grad.").rsplit(".step", 1)
        wanted = losses[int(step)], case.leaves[leaf]
        (found[name],) = torch.autograd.grad(*wanted, retain_graph=True)
    constants = [memories[who].log_constant.exp() for who in ("teacher", "student")]
    return {"loss": torch.stack(losses), "constants": torch.stack(constants), **found}


def outputs(case):
    """Of the student and of the teacher; no loss of these reads the batch."""
    return case.output("student"), case.output("teacher"), None


@of("fitnet", "vid")
def of_pairs(case):
    made = {"fitnet": HintLoss, "vid": VariationalLoss}[case.method]
    roles = (r"stage(\d+)\.", r"predictors.\1."), (r"conv(\d)", lambda m: f"mean.{2 * int(m[1])}")
    roles = roles if case.method == "vid" else ()
    return {"loss": case.fill(made(case.pair()), *roles)(*outputs(case)).mean()}


@of("semckd")
def semckd(case):
    count = len(case.output("teacher").stages)
    roles = (
        (r"query(\d+)", r"queries.\1.layers"),
        (r"key(\d+)", r"keys.\1.layers"),
        (r"linear(\d)", lambda m: f"{2 * int(m[1])}"),
        (r"projection(\d+)to(\d+)", lambda m: f"projections.{count * int(m[1]) + int(m[2])}"),
        (r"conv(\d)", lambda m: f"{3 * int(m[1])}"),
        (r"norm(\d)", lambda m: f"{3 * int(m[1]) + 1}"),
        ("scale", "weight"),
        ("shift", "bias"),
    )
    loss = case.fill(SemanticLoss(case.pair()), *roles)
    student, teacher, _ = outputs(case)
    attention = loss.shares(student, teacher)
    return {"loss": loss(student, teacher, None).mean(), "attention": attention}


def deepest_first(output):
    """Roles of stages as reviews number them: 0 is the embedding, then the deepest stage."""
    count = len(output.stages)
    return ("^embedding", "0"), (r"^stage(\d+)", lambda m: f"{count - int(m[1])}")


@of("reviewkd")
def reviewkd(case):
    student, teacher, _ = outputs(case)
    roles = (
        *deepest_first(student),
        (r"^(\d+)\.output", r"to_teacher.\1"),
        (r"^(\d+)\.attention\.conv", r"fusions.\1.attention"),
        (r"^(\d+)\.(reduce|attention)", r"fusions.\1.\2"),
        (r"(to_teacher\.\d+)\.conv", r"\1.0"),
    )
    loss = case.fill(ReviewLoss(case.pair(), middle=case.options["middle"]), *roles)
    before = case.listed("teacher.preact") or teacher.stages
    given = TeacherOutput(*teacher._replace(logits=teacher.embedding), before=lambda: before)
    return {"loss": case.options["warmup_factor"] * loss(student, given, None).mean()}


def whole_filters(case):
    """Put real and imaginary parts together, and both shares, as our modules have them."""
    for name in [name for name in case if name.endswith("filter.real")]:
        start = name.removesuffix("filter.real")
        both = torch.stack([case.pop(name), case.pop(f"{start}filter.imag")], dim=-1)
        case[f"{start}filter"] = both.permute(2, 3, 0, 1, 4)
        shares = [case.pop(f"{start}share_{part}") for part in ("filter", "local")]
        case[f"{start}shares"] = torch.cat(shares)


@of("famkd")
def famkd(case):
    whole_filters(case)
    if "features" in case:
        theirs, own = case["param.local.weight"].shape[:2]
        made = case.fill(FrequencyAttention(own, theirs, case["features"].shape[2:]))
        found = made(case["features"])
        return {"features": found, "loss": (found * case["cotangent"]).sum()}
    roles = (
        *deepest_first(case.output("student")),
        (r"^(\d+)\.(filter|local|shares)", r"to_teacher.\1.0.\2"),
        (r"^(\d+)\.norm\.scale", r"to_teacher.\1.1.weight"),
        (r"^(\d+)\.norm\.shift", r"to_teacher.\1.1.bias"),
        (r"^(\d+)\.attention", r"fusions.\1"),
        (r"^(\d+)\.narrow_deeper", r"fusions.\1.narrow"),
        (r"relative_", ""),
    )
    loss = case.fill(FrequencyReview(case.pair()), *roles)
    return {"loss": case.options["warmup_factor"] * loss(*outputs(case)).mean()}
