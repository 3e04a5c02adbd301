"""Records of detectors that were made up: gains and errors by method, and ablations."""

import json
from dataclasses import replace
from itertools import product

from synthetic import edit_record, scatter, write_run

from kdlib.runs import RunConfig

SETTING = RunConfig(task="detection", student="scenes_ssd", teacher="scenes_medium", crop_size=16)
MAP = {"student": 0.40, "kd_cls": 0.46, "loc": 0.41, "kd_loc": 0.43, "kd_cls_loc": 0.48}
DAP = {"student": 0.25, "kd_cls": 0.11, "loc": 0.24, "kd_loc": 0.23, "kd_cls_loc": 0.10}
KL_CE = {"student": "scenes_retinanet", "method": "kd_cls", "method_options": {"sigmoid": "kl_ce"}}
CHANGED = (
    {"method": "kd_cls", "method_options": {"temperature": 1.0}},
    {"method": "kd_cls", "method_options": {"temperature": 4.0}},
    {"method": "kd_loc", "method_options": {"layers": [0]}},
    {"method": "kd_loc", "method_options": {"layers": [-1, 0, 1]}},
    {"method": "kd_cls", "crop_size": 24},
    {"method": "kd_loc", "crop_size": 24},
    KL_CE,
)
WEIGHTS = (0.03, 0.1, 0.3, 1.0)


def write_detectors(root, seeds=(0, 1, 2), methods=tuple(MAP), **fields):
    """Every method at every seed; seed s adds s / 100 to the mAP, and methods scatter by a tenth.

    The gain of a method in AP falls by a third from an IoU of 0.5 to 0.95.
    """
    for method, seed in product(methods, seeds):
        run = replace(SETTING, method=method, data_seed=seed, init_seed=seed, **fields)
        directory = write_run(root, run, MAP[method] + seed / 100 + scatter(method, seed))
        results = json.loads((directory / "record.json").read_text())["results"]
        results["errors"]["cls"]["dap"] = DAP[method] + scatter(f"{method} cls", seed)
        gain = MAP[method] - MAP["student"]
        steps = enumerate(results["ap_by_iou"])
        results["ap_by_iou"] = [ap - gain * step / 27 for step, ap in steps]
        edit_record(directory, results=results)
    return root


def write_ablations(root):
    """The methods, one choice of theirs changed at seed 0 alone, and RetinaNet."""
    write_detectors(root)
    write_detectors(root, [0], ["student", "kd_cls"], student="scenes_retinanet")
    for place, fields in enumerate((*CHANGED, KL_CE)):
        write_run(root, replace(SETTING, **fields), 0.42 + 0.01 * place)
    return root


def write_weights(root):
    """Runs on the dev split by their weight, the larger the better."""
    tuned = replace(SETTING, split="dev")
    for method, weight in product(("kd_cls", "kd_loc"), WEIGHTS):
        write_run(root, replace(tuned, method=method, weight=weight), 0.4 + weight / 9)
    write_run(root, tuned, 0.40)
    return root
