"""What the published names are called here, and the words in which the ledger judges.

A method, network or data set that stands in no table, or that kdlib's registry lacks, is not
offered; the ledger asks the registries when it is made, so it needs no change when they grow.
"""

import re

from kdlib.comparisons import smallest_effect

# Points that a published difference must exceed to claim anything: every cell is a single run,
# and the paper's own sweep scatters by about as much.
LEAST = 100 * smallest_effect("top1")

SAME = "same"
AGREES = "stand-in: agrees"
DISAGREES = "stand-in: disagrees"
UNDECIDED = "stand-in: undecided"
SHAPE = "stand-in: shape only"
REFERENCE = "stand-in: reference"
DRAWN = "stand-in: drawn"
NOT_RUN = "not run"
NOT_OFFERED = "not offered"
PLANNED = "planned"

STATUSES = {
    SAME: "the published data set, networks and protocol were run; the difference is given",
    AGREES: "a smaller data set was run, and what the number says of its method holds there",
    DISAGREES: "a smaller data set was run, and what the number says does not hold there",
    UNDECIDED: (
        "a smaller data set was run, and the seeds do not decide; or the number is within "
        f"{LEAST:g} points of its baseline, the scatter of the paper's own sweep: no claim"
    ),
    SHAPE: "the same sweep on a smaller data set; only the shapes of the curves can be compared",
    REFERENCE: "student or teacher alone: what the differences start from, no claim of its own",
    DRAWN: "the figure is drawn, from runs on a smaller data set",
    NOT_RUN: "the command would run it",
    NOT_OFFERED: "kdlib has no such method, network or data set; the reason says which",
    PLANNED: "a figure that is still to be drawn",
}

# The first of them that was run is the one that is judged; the others stand below it. The
# release gates its DCT loss; without gated runs the same loss without the gate is the nearest.
METHODS_OF: dict[str, tuple[str, ...]] = {
    "student": ("student",),
    "teacher": ("teacher",),
    "KD": ("kd",),
    "FitNet": ("fitnet",),
    "AT": ("at",),
    "SP": ("sp",),
    "RKD": ("rkd",),
    "PKT": ("pkt",),
    "VID": ("vid",),
    "CRD": ("crd",),
    "CKD": ("semckd",),
    "DKD": ("dkd",),
    "ReviewKD": ("reviewkd",),
    "DCT": ("release_a+gate", "release_a", "dct"),
}
# Of the neighbours' papers; apart, for what the paper's numbers claim is one family of tests.
NEIGHBOURS: dict[str, tuple[str, ...]] = {
    "SRM": ("srm+kd",),
    "FRSKD": ("frskd", "frskd_pixels"),
}
NETWORKS = {
    "ResNet-18": "resnet18",
    "ResNet-34": "resnet34",
    "ResNet-50": "resnet50",
    "ResNet-152": "resnet152",
    "MobileNet-V2": "mobilenet_v2",
    "MobileNetV2": "mobilenet_v2_cifar",
    "ShuffleV1": "shuffle_v1",
    "ShuffleV2": "shuffle_v2",
    "ResNet50": "resnet50_cifar",
}
DATASETS_OF = {
    "COCO": "coco",
    "MIT67": "mit67",
    "SUN397": "sun397",
    "ADE20K": "ade20k",
    "CIFAR-100": "cifar100",
    "ImageNet": "imagefolder",
}
# The three data sets that Scenes stands in for.
SCENE_DATASETS = ("ADE20K", "SUN397", "MIT67")
_ALPHA = re.compile(r"DCT alpha=([\d.]+)")


def our_methods(published: str) -> tuple[str, ...]:
    """Method strings of kdlib for a published method; empty if there is none.

    ``X+KD`` becomes each of X's with ``+kd``, and a point of the alpha sweep what DCT becomes.
    """
    if alpha_of(published) is not None:
        return METHODS_OF["DCT"]
    base, *added = published.split("+")
    suffix = "".join(f"+{word.lower()}" for word in added)
    return tuple(name + suffix for name in {**METHODS_OF, **NEIGHBOURS}.get(base, ()))


def our_network(published: str) -> str:
    """Name of a network here; most of the CIFAR networks are called alike."""
    return NETWORKS.get(published, published)


def alpha_of(published: str) -> float | None:
    """The weight of a point of the alpha sweep; ``None`` for all other methods."""
    found = _ALPHA.fullmatch(published)
    return float(found[1]) if found else None
