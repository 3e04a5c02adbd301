"""Writes into tide.json what the authors' own package says of the detections that stand there.

    pip install numpy pycocotools; pip install --no-deps tidecv==1.0.1
    python tests/detection/make_tide_reference.py

It needs neither kdlib nor what tidecv draws with. Every class has objects and no object is a crowd:
there alone kdlib counts differently on purpose.
"""

import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

FILE = Path(__file__).with_name("tide.json")
NAMES = {
    "Cls": "cls", "Loc": "loc", "Both": "both", "Dupe": "dupe", "Bkg": "bkg", "Miss": "miss",
    "FalsePos": "false_pos", "FalseNeg": "false_neg",
}  # fmt: skip
DRAWING = "cv2 matplotlib matplotlib.pyplot matplotlib.lines matplotlib.patches seaborn pandas"
sys.modules.update({module: MagicMock() for module in [*DRAWING.split(), "appdirs"]})

from tidecv import TIDE, Data  # noqa: E402

cases = json.loads(FILE.read_text())
for case in cases:  # rows of image, class, x, y, width, height; with a score for detections
    truth, found = Data("truth"), Data("found")
    for image, kind, *box in case["truth"]:
        truth.add_ground_truth(image, kind, box)
    for image, kind, *box, score in case["found"]:
        found.add_detection(image, kind, score, box)
    for image in range(max(row[0] for row in case["found"]) + 1):
        truth.add_image(image, str(image))
    run = TIDE().evaluate(truth, found)
    counts = {NAMES[kind.short_name]: count for kind, count in run.count_errors().items()}
    gains = {**run.fix_main_errors(), **run.fix_special_errors()}
    gains = {NAMES[kind.short_name]: gain / 100 for kind, gain in gains.items()}
    case["tidecv"] = {"ap50": run.ap / 100, "count": counts, "dap": gains}
text = json.dumps(cases, separators=(",", ":")).replace('{"truth', '\n{"truth')
FILE.write_text(text + "\n")
