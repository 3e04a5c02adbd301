"""Makes tide.json: what the authors' own package says of random detections.

    pip install numpy pycocotools; pip install --no-deps tidecv==1.0.1
    python tests/detection/make_tide_reference.py

It needs neither kdlib nor what tidecv draws with. Every class has objects and no object is a crowd:
there alone kdlib counts differently on purpose.
"""

import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np

NAMES = {
    "Cls": "cls", "Loc": "loc", "Both": "both", "Dupe": "dupe", "Bkg": "bkg", "Miss": "miss",
    "FalsePos": "false_pos", "FalseNeg": "false_neg",
}  # fmt: skip
DRAWING = "cv2 matplotlib matplotlib.pyplot matplotlib.lines matplotlib.patches seaborn pandas"


def make_case(random, images=30, classes=3):
    """Rows [image, class, x, y, width, height], with a score for detections."""
    truth, found = [], []
    for image in range(images):
        for _ in range(random.integers(0, 5)):
            corner, size = random.integers(0, 60, 2), random.integers(12, 40, 2)
            truth.append([image, int(random.integers(classes)), *corner.tolist(), *size.tolist()])
    boxes = np.array([row[2:] for row in truth], float)
    for which in random.integers(0, len(truth), 160):
        shift = random.normal(0, random.choice([1, 4, 12]), 4)
        image, kind = truth[which][:2]
        if random.random() < 0.3:
            kind = int(random.integers(classes))
        if random.random() < 0.1:
            image = int(random.integers(images))
        box = np.round(boxes[which] + shift, 2)
        box[2:] = np.maximum(box[2:], 2)
        found.append([image, kind, *box.tolist()])
    scores = np.round(random.permutation(len(found)) / len(found), 4)
    return truth, [[*row, float(score)] for row, score in zip(found, scores, strict=True)]


def by_tidecv(truth, found):
    """Counts, and gains in fractions."""
    from tidecv import TIDE, Data

    objects, detections = Data("objects"), Data("detections")
    for image, kind, *box in truth:
        objects.add_ground_truth(image, kind, box)
    for image, kind, *box, score in found:
        detections.add_detection(image, kind, score, box)
    for image in range(max(row[0] for row in found) + 1):
        objects.add_image(image, str(image))
    run = TIDE().evaluate(objects, detections)
    counts = {NAMES[kind.short_name]: count for kind, count in run.count_errors().items()}
    gains = {**run.fix_main_errors(), **run.fix_special_errors()}
    gains = {NAMES[kind.short_name]: gain / 100 for kind, gain in gains.items()}
    return {"ap50": run.ap / 100, "count": counts, "dap": gains}


for drawing in [*DRAWING.split(), "appdirs"]:
    sys.modules.setdefault(drawing, MagicMock())
cases = [make_case(np.random.default_rng(seed)) for seed in range(4)]
rows = [{"truth": one[0], "found": one[1], "tidecv": by_tidecv(*one)} for one in cases]
text = json.dumps(rows, separators=(",", ":")).replace('{"truth', '\n{"truth')
Path(__file__).with_name("tide.json").write_text(text + "\n")
