"""Average precision of detections, as pycocotools counts it, and what each error costs of it.

Errors are those of TIDE (arXiv 2008.08115). Boxes of all images lie in flat arrays, a row per box:
x, y, width, height in pixels, float64.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask

from kdlib.detection.detector import Detections
from kdlib.detection.objects import Objects
from kdlib.errors import KdlibError

MOST = 100  # detections per class and image that COCO counts, the surest
THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""Of IoU, from which on COCO takes an object for found."""
SIZES = ("small", "medium", "large")
LARGEST = 1e10  # pixels^2: COCO's bound, beyond any object
FOREGROUND = 0.5  # t_f: from this IoU on an object of the right class is found
BACKGROUND = 0.1  # t_b: up to this IoU there is nothing
RIGHT, LEFT_OUT = "right", "left_out"
ERRORS = ("cls", "loc", "both", "dupe", "bkg", "miss")
"""Of detections; and the last one of objects that no repair of a detection can find."""
RECALLS = np.arange(101) / 100
"""Of AP50 and what errors cost of it, as in tidecv; of COCO's, ``linspace(0, 1, 101)``, ten differ
in the last bit."""


def coco_measures(
    detections: Sequence[Detections], objects: Objects, classes: int
) -> dict[str, Any]:
    """Average precision and recall over N images (Lin et al. 2014; cocodataset.org, "Metrics").

    Fractions: ``map``, the mean over :data:`THRESHOLDS` and classes; ``map50``, ``map75``;
    ``map_small``, ``map_medium``, ``map_large``, split at ``objects.sizes``; ``ap_by_iou``, one per
    threshold; ``per_class``, the mean over thresholds; ``recall``, the mean over both with at most
    100 detections per class and image. ``None`` where there is no such object; a ``KdlibError``
    where there is none at all. An object's size is the area of its box (COCO's own tables take
    that of its mask); crowds, and detections that lie on them, do not count.
    """
    counted = evaluated(*_rows(detections, objects), objects, classes)
    precision, recall = counted["precision"][..., -1], counted["recall"][..., -1]
    everything = precision[..., 0]
    return {
        "map": _mean(everything),
        "map50": _mean(everything[THRESHOLDS.index(0.5)]),
        "map75": _mean(everything[THRESHOLDS.index(0.75)]),
        **{f"map_{name}": _mean(precision[..., at]) for at, name in enumerate(SIZES, 1)},
        "ap_by_iou": [_mean(of_threshold) for of_threshold in everything],
        "per_class": [_mean(everything[:, :, kind]) for kind in range(everything.shape[2])],
        "recall": _mean(recall[..., 0]),
    }


def _mean(values: np.ndarray) -> float | None:
    """Of what is known; ``None`` if nothing is."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None


class Detected(NamedTuple):
    """What was detected, in COCO's order: by image and class, the surest first."""

    images: np.ndarray  # (D,) int64
    kinds: np.ndarray  # (D,) int64
    boxes: np.ndarray  # (D, 4)
    scores: np.ndarray  # (D,) float64


class Truth(NamedTuple):
    """What is to be detected, image after image."""

    images: np.ndarray  # (M,) int64
    kinds: np.ndarray  # (M,) int64
    boxes: np.ndarray  # (M, 4)
    crowd: np.ndarray  # (M,) bool: counts neither as found nor as missed


class Pairs(NamedTuple):
    """Detections and objects (by row) that overlap; the IoU with a crowd is over the detection."""

    found: np.ndarray  # (P,) int64
    truth: np.ndarray  # (P,) int64
    iou: np.ndarray  # (P,) float64

    def where(self, chosen: np.ndarray) -> "Pairs":
        """Those of a mask (P,)."""
        return Pairs(*(values[chosen] for values in self))


def detected_rows(detections: Sequence[Detections]) -> Detected:
    """The detections of N images as rows, at most :data:`MOST` per class and image."""
    images = np.repeat(np.arange(len(detections)), [len(one.scores) for one in detections])
    boxes, kinds, scores = (
        torch.cat(parts).detach().cpu().double().numpy() for parts in zip(*detections, strict=True)
    )
    order = np.lexsort((-scores, kinds, images))  # stable: equals keep their order
    rows = [values[order] for values in (images, kinds.astype(np.int64), _sized(boxes), scores)]
    place, starts = np.arange(len(order)), np.ones(len(order), bool)
    starts[1:] = (np.diff(rows[0]) != 0) | (np.diff(rows[1]) != 0)
    surest = place - np.maximum.accumulate(np.where(starts, place, 0)) < MOST
    return Detected(*(values[surest] for values in rows))


def truth_rows(objects: Objects) -> Truth:
    """The objects as rows."""
    boxes = _sized(objects.boxes.double().numpy())
    return Truth(objects.owners.numpy(), objects.kinds.numpy(), boxes, objects.crowd.numpy())


def _rows(detections: Sequence[Detections], objects: Objects) -> tuple[Detected, Truth]:
    """Both as rows; a ``KdlibError`` if no object counts."""
    if objects.crowd.all():  # also where there is none
        raise KdlibError(
            f"None of the {len(objects)} images has an object that counts; evaluate "
            "at least one image with an object that is not part of a crowd."
        )
    return detected_rows(detections), truth_rows(objects)


def _sized(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) of x1, y1, x2, y2 as x, y, width, height; nothing is less than 0 wide."""
    return np.concatenate([boxes[:, :2], np.maximum(boxes[:, 2:] - boxes[:, :2], 0)], axis=1)


def overlapping(found: Detected, truth: Truth) -> Pairs:
    """Every detection with every object of its image, where they overlap."""
    parts = [Pairs(np.zeros(0, int), np.zeros(0, int), np.zeros(0))]
    for image in np.intersect1d(found.images, truth.images):
        mine, theirs = (
            np.arange(*np.searchsorted(rows.images, (image, image + 1))) for rows in (found, truth)
        )
        crowd = truth.crowd[theirs].astype(int).tolist()
        iou = np.asarray(mask.iou(found.boxes[mine], truth.boxes[theirs], crowd))
        near = np.nonzero(iou)
        parts.append(Pairs(mine[near[0]], theirs[near[1]], iou[near]))
    return Pairs(*map(np.concatenate, zip(*parts, strict=True)))


def evaluated(found: Detected, truth: Truth, objects: Objects, classes: int) -> dict[str, Any]:
    """What faster_coco_eval counts: ``precision`` (T, 101, C, A, 3), ``recall`` (T, C, A, 3).

    Of T thresholds, C classes, all sizes and :data:`SIZES`, and 1, 10 and 100 detections per image;
    -1 stands for "no object".
    """
    bounds = (0.0, *objects.sizes, LARGEST)
    evaluator = COCOeval_faster(
        _annotated(len(objects), classes, truth, iscrowd=truth.crowd.astype(int)),
        _annotated(len(objects), classes, found, score=found.scores),
        "bbox",
        ranges={name: list(bounds[at : at + 2]) for at, name in enumerate(SIZES)},
    )
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator.eval


def _annotated(images: int, classes: int, rows: Detected | Truth, **more: np.ndarray) -> COCO:
    """The evaluator's own kind of data set. Its ids begin at 1: to it, 0 means "no match"."""
    columns = {
        "id": np.arange(1, len(rows.kinds) + 1),
        "image_id": rows.images,
        "category_id": rows.kinds,
        "bbox": rows.boxes,
        "area": rows.boxes[:, 2] * rows.boxes[:, 3],
        **more,
    }
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    contents = {
        "images": [{"id": image} for image in range(images)],
        "categories": [{"id": kind} for kind in range(classes)],
        "annotations": [dict(zip(columns, row, strict=True)) for row in values],
    }
    return COCO(contents)


def error_types(
    detections: Sequence[Detections], objects: Objects, classes: int
) -> dict[str, dict[str, float]]:
    """``count`` of each type of error, and ``dap``, the AP50 (0 or more) that repairs would gain.

    Of detections that find no object, by their largest IoU with those of their image, the first of:

    * ``loc``: the right class and a poor box, BACKGROUND <= IoU < FOREGROUND;
    * ``cls``: a good box and the wrong class, IoU >= FOREGROUND with another class;
    * ``dupe``: both are good, but a surer detection has the object;
    * ``bkg``: nothing is there, IoU <= BACKGROUND with whatever class;
    * ``both``: class and box are poor.

    ``miss``: an object that no detection has and no ``loc`` or ``cls`` aims at. An oracle repairs
    all errors of one type alone: of those that aim at one object the surest becomes right, unless
    the object is found or another type has a surer one; the rest vanish. So do ``dupe``, ``bkg``
    and ``both``; a missed object is no longer asked for. ``false_pos`` takes every wrong detection
    away, ``false_neg`` no longer asks for any object that is not found.

    As the authors' tidecv 1.0.1 does, but that gains are fractions and what keeps to COCO: classes
    without objects have no AP, detections on a crowd are no errors, at most 100 per class and image
    count. A ``KdlibError`` if there is nothing to detect.
    """
    found, truth = _rows(detections, objects)
    verdicts = judged(found, truth)
    totals = np.bincount(truth.kinds[~truth.crowd], minlength=classes)
    base = ap50(curve_points(found, verdicts), totals, totals > 0)
    gains = {
        name: ap50(points, wanted, totals > 0) - base
        for name, points, wanted in _oracles(found, truth, verdicts, totals)
    }
    counts = _counts(verdicts, truth)
    return {name: {"count": counts[name], "dap": max(gains[name], 0.0)} for name in counts}


class Verdicts(NamedTuple):
    """What becomes of every detection and every object.

    A target is the row of the object that a detection found, or would have found with another class
    (cls) or another box (loc); -1 without one.
    """

    types: np.ndarray  # (D,) str: RIGHT, one of ERRORS, or LEFT_OUT on a crowd
    targets: np.ndarray  # (D,) int64
    found: np.ndarray  # (M,) bool: a right detection has it
    missed: np.ndarray  # (M,) bool: it counts, and no detection has it or aims at it


def judged(found: Detected, truth: Truth) -> Verdicts:
    """Which detections find which objects, and what is wrong with the others."""
    pairs = overlapping(found, truth)
    on_crowd = truth.crowd[pairs.truth]
    same = found.kinds[pairs.found] == truth.kinds[pairs.truth]
    counted = pairs.where(~on_crowd)
    targets = _matched(counted.where(same[~on_crowd]), len(found.kinds))
    types, aims = _mistakes(counted, same[~on_crowd], len(found.kinds))
    in_crowd = pairs.found[on_crowd & same & (pairs.iou >= FOREGROUND)]
    types[in_crowd] = LEFT_OUT
    types[targets >= 0] = RIGHT
    targets = np.where(targets >= 0, targets, np.where(types == LEFT_OUT, -1, aims))
    has, aimed = (np.zeros(len(truth.kinds), bool) for _ in range(2))
    has[targets[types == RIGHT]] = True
    aimed[targets[targets >= 0]] = True
    return Verdicts(types, targets, has, ~aimed & ~truth.crowd)


def _matched(pairs: Pairs, detections: int) -> np.ndarray:
    """COCO's greedy matching: the surest detection first takes the object it overlaps most.

    Of pairs of one class, the row (D,) of the object of each detection, -1 without one.
    """
    near = pairs.where(pairs.iou >= FOREGROUND)
    order = np.lexsort((-near.truth, -near.iou, near.found))  # of equals COCO takes the last
    targets, taken = np.full(detections, -1), set()
    for one, thing in zip(near.found[order].tolist(), near.truth[order].tolist(), strict=True):
        if targets[one] < 0 and thing not in taken:
            targets[one] = thing
            taken.add(thing)
    return targets


def _mistakes(pairs: Pairs, same: np.ndarray, detections: int) -> tuple[np.ndarray, np.ndarray]:
    """What would be wrong with each detection (D,) if it found nothing, and the row it aims at."""
    mine, my_iou = _nearest(pairs.where(same), detections)
    others, others_iou = _nearest(pairs.where(~same), detections)
    loc = (my_iou >= BACKGROUND) & (my_iou < FOREGROUND)
    cls = ~loc & (others_iou >= FOREGROUND)
    dupe = my_iou >= FOREGROUND
    bkg = np.maximum(my_iou, others_iou) <= BACKGROUND
    types = np.select([loc, cls, dupe, bkg], ["loc", "cls", "dupe", "bkg"], "both")
    return types.astype(object), np.select([loc, cls], [mine, others], -1)


def _nearest(pairs: Pairs, detections: int) -> tuple[np.ndarray, np.ndarray]:
    """The object that each detection overlaps most: its row (D,), -1 without one, and the IoU."""
    order = np.lexsort((-pairs.truth, pairs.iou, pairs.found))
    objects, iou = np.full(detections, -1), np.zeros(detections)
    objects[pairs.found[order]] = pairs.truth[order]  # the last that is written stays
    iou[pairs.found[order]] = pairs.iou[order]
    return objects, iou


def _counts(verdicts: Verdicts, truth: Truth) -> dict[str, int]:
    wrong = ~np.isin(verdicts.types, (RIGHT, LEFT_OUT))
    missing = ~verdicts.found & ~truth.crowd
    counts = {name: int((verdicts.types == name).sum()) for name in ERRORS}
    counts["miss"] = int(verdicts.missed.sum())
    return {**counts, "false_pos": int(wrong.sum()), "false_neg": int(missing.sum())}


class Points(NamedTuple):
    """Detections, before they become a curve of precision over recall."""

    kinds: np.ndarray  # (D,) int64
    scores: np.ndarray  # (D,) float64
    right: np.ndarray  # (D,) bool
    counted: np.ndarray  # (D,) bool; where it is not, there is no detection


def curve_points(found: Detected, verdicts: Verdicts) -> Points:
    """What the detector gives as it is."""
    counted = verdicts.types != LEFT_OUT
    return Points(found.kinds, found.scores, verdicts.types == RIGHT, counted)


def _oracles(
    found: Detected, truth: Truth, verdicts: Verdicts, totals: np.ndarray
) -> Iterator[tuple[str, Points, np.ndarray]]:
    """The detections and the number of objects per class (C,) after each repair."""
    points, types = curve_points(found, verdicts), verdicts.types
    for name in ("both", "dupe", "bkg"):
        yield name, points._replace(counted=points.counted & (types != name)), totals
    first = _first_to_aim(found, verdicts)
    for name in ("cls", "loc"):  # the first become right, with their object's class; others vanish
        better, kinds = first & (types == name), points.kinds.copy()
        kinds[better] = truth.kinds[verdicts.targets[better]]
        kept = points.counted & ((types != name) | better)
        yield name, Points(kinds, points.scores, points.right | better, kept), totals
    yield "miss", points, totals - np.bincount(truth.kinds[verdicts.missed], minlength=len(totals))
    yield "false_pos", points._replace(counted=points.right), totals
    yield "false_neg", points, np.bincount(truth.kinds[verdicts.found], minlength=len(totals))


def _first_to_aim(found: Detected, verdicts: Verdicts) -> np.ndarray:
    """(D,) bool: the surest of the errors that aim at one object that nothing has found."""
    first = np.zeros(len(found.kinds), bool)
    free = (verdicts.types != RIGHT) & (verdicts.targets >= 0)
    free[free] = ~verdicts.found[verdicts.targets[free]]
    rows = np.flatnonzero(free)
    rows = rows[np.argsort(-found.scores[rows], kind="stable")]
    first[rows[np.unique(verdicts.targets[rows], return_index=True)[1]]] = True
    return first


def ap50(points: Points, totals: np.ndarray, classes: np.ndarray) -> float:
    """Mean AP, of 101 recalls, of the ``classes`` (C,) with so many objects ``totals`` (C,).

    A class without detections and, after a repair, without objects is left out; where every class
    is, nothing is wrong any more: 1.
    """
    kept = np.flatnonzero(points.counted)
    kept = kept[np.lexsort((-points.scores[kept], points.kinds[kept]))]
    kinds, right = points.kinds[kept], points.right[kept]
    starts = np.searchsorted(kinds, np.arange(len(totals) + 1))
    found = [
        _average_precision(right[starts[kind] : starts[kind + 1]], int(totals[kind]))
        for kind in np.flatnonzero(classes & ((totals > 0) | (np.diff(starts) > 0)))
    ]
    return float(np.mean(found)) if found else 1.0


def _average_precision(right: np.ndarray, totals: int) -> float:
    """Mean of the best precision at or beyond each of 101 recalls; the surest detection first."""
    if totals == 0:
        return 0.0
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(hits / totals, RECALLS)
    return float(best[at[at < len(best)]].sum() / len(RECALLS))
