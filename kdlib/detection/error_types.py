"""What a detector does wrong, and what each kind of error costs: TIDE (arXiv 2008.08115)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from kdlib.detection.average_precision import (
    Detected,
    Pairs,
    Truth,
    check_there_are_objects,
    detected_rows,
    overlapping,
    truth_rows,
)
from kdlib.detection.detector import Detections
from kdlib.detection.objects import Objects

FOREGROUND = 0.5  # t_f: from this IoU on an object of the right class is found
BACKGROUND = 0.1  # t_b: up to this IoU there is nothing
RIGHT, LEFT_OUT = "right", "left_out"
ERRORS = ("cls", "loc", "both", "dupe", "bkg", "miss")
"""Of detections; and the last one of objects that no repair of a detection can find."""
RECALLS = np.linspace(0, 1, 101)  # COCO's


def error_types(
    detections: Sequence[Detections], objects: Objects, classes: int
) -> dict[str, dict[str, float]]:
    """How many errors of each type there are, and the AP50 that repairing them would gain.

    A detection that finds no object, by its largest IoU with the objects of its image:

    * ``loc``: the right class and a poor box, BACKGROUND <= IoU < FOREGROUND;
    * ``cls``: else, a good box and the wrong class, IoU >= FOREGROUND with another class;
    * ``dupe``: else, both are good, but a surer detection has the object;
    * ``bkg``: else, nothing is there, IoU <= BACKGROUND with whatever class;
    * ``both``: else, class and box are poor.

    ``miss``: an object that no detection has and no ``loc`` or ``cls`` aims at. An oracle repairs
    all errors of one type alone: of those that aim at one object the surest becomes right, unless
    the object is found or another type has a surer one; the rest vanish. So do ``dupe``, ``bkg``
    and ``both``; a missed object is no longer asked for. ``false_pos`` takes every wrong detection
    away, ``false_neg`` no longer asks for any object that is not found.

    As the authors' tidecv 1.0.1 does, but for what keeps to COCO: classes without objects have no
    AP, detections on a crowd are no errors, at most 100 detections per class and image count, and a
    gain is in fractions, not in percents.

    Returns:
        ``count`` and ``dap``, the gain, at least 0, of ``ERRORS``, ``false_pos``, ``false_neg``.

    Raises:
        KdlibError: there is nothing to detect.
    """
    check_there_are_objects(objects)
    found, truth = detected_rows(detections), truth_rows(objects)
    verdicts = judged(found, truth)
    asked = np.bincount(truth.kinds[~truth.crowd], minlength=classes)
    base = ap50(curve_points(found, verdicts), asked, asked > 0)
    gains = {
        name: ap50(points, wanted, asked > 0) - base
        for name, points, wanted in _oracles(found, truth, verdicts, asked)
    }
    counts = _counts(verdicts, truth)
    return {name: {"count": counts[name], "dap": max(gains[name], 0.0)} for name in counts}


class Verdicts(NamedTuple):
    """What becomes of every detection and every object.

    A detection is :data:`RIGHT`, one of :data:`ERRORS`, or :data:`LEFT_OUT` where it lies on a
    crowd. Its target is the row of the object that it found, or would have found with another class
    (cls) or another box (loc); -1 without one.
    """

    types: np.ndarray  # (D,) str
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
    """How often each error occurs."""
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
    right = verdicts.types == RIGHT
    return Points(found.kinds, found.scores, right, verdicts.types != LEFT_OUT)


def _oracles(
    found: Detected, truth: Truth, verdicts: Verdicts, asked: np.ndarray
) -> Iterator[tuple[str, Points, np.ndarray]]:
    """The detections and the number of objects per class (C,) after each repair."""
    points, types = curve_points(found, verdicts), verdicts.types
    for name in ("both", "dupe", "bkg"):
        yield name, points._replace(counted=points.counted & (types != name)), asked
    first = _first_to_aim(found, verdicts)
    for name in ("cls", "loc"):  # the first become right, with their object's class; others vanish
        better, kinds = first & (types == name), points.kinds.copy()
        kinds[better] = truth.kinds[verdicts.targets[better]]
        kept = points.counted & ((types != name) | better)
        yield name, Points(kinds, points.scores, points.right | better, kept), asked
    missed, hit = (
        np.bincount(truth.kinds[chosen], minlength=len(asked))
        for chosen in (verdicts.missed, verdicts.found)
    )
    yield "miss", points, asked - missed
    yield "false_pos", points._replace(counted=points.right), asked
    yield "false_neg", points, hit


def _first_to_aim(found: Detected, verdicts: Verdicts) -> np.ndarray:
    """(D,) bool: the surest of the errors that aim at one object that nothing has found."""
    first = np.zeros(len(found.kinds), bool)
    free = (verdicts.types != RIGHT) & (verdicts.targets >= 0)
    free[free] = ~verdicts.found[verdicts.targets[free]]
    rows = np.flatnonzero(free)
    rows = rows[np.argsort(-found.scores[rows], kind="stable")]
    first[rows[np.unique(verdicts.targets[rows], return_index=True)[1]]] = True
    return first


def ap50(points: Points, asked: np.ndarray, classes: np.ndarray) -> float:
    """Mean AP, COCO's of 101 recalls, of the ``classes`` (C,) with so many objects ``asked`` (C,).

    A class without detections and, after a repair, without objects is left out; where every class
    is, nothing is wrong any more: 1.
    """
    kept = np.flatnonzero(points.counted)
    kept = kept[np.lexsort((-points.scores[kept], points.kinds[kept]))]
    kinds, right = points.kinds[kept], points.right[kept]
    starts = np.searchsorted(kinds, np.arange(len(asked) + 1))
    found = [
        _average_precision(right[starts[kind] : starts[kind + 1]], int(asked[kind]))
        for kind in np.flatnonzero(classes & ((asked > 0) | (np.diff(starts) > 0)))
    ]
    return float(np.mean(found)) if found else 1.0


def _average_precision(right: np.ndarray, asked: int) -> float:
    """Mean of the best precision at or beyond each of 101 recalls; the surest detection first."""
    if asked == 0:
        return 0.0
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(hits / asked, RECALLS)
    return float(best[at[at < len(best)]].sum() / len(RECALLS))
