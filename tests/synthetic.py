"""Records with values that were made up, by a rule that anyone can see through."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from zlib import crc32

import torch

from kdlib.files import write_text
from kdlib.runs import RunConfig, write_record
from kdlib.tasks import TASKS
from study.analyses.files import Answers, AttentionMaps, save_answers, save_maps, write_analysis

# Accuracy of each method's seed 0; seed s adds s / 100, and methods scatter around that.
TOP1 = {
    "student": 0.60, "kd": 0.64, "at": 0.63, "at_equal_scale": 0.66, "dct": 0.68,
    "release_a": 0.67, "parseval_twin": 0.679, "dct_abs": 0.665, "at+gate": 0.631,
    "dct+gate": 0.682, "at+kd": 0.65, "dct+kd": 0.70, "release_a+kd": 0.69,
    "release_a+gate": 0.671,
}  # fmt: skip
TEACHER_TOP1 = 0.80


def scatter(method, seed):
    """Between -0.005 and 0.005, a function of the method's name and the seed."""
    return (crc32(f"{method} {seed}".encode()) % 1001 - 500) / 100_000


def synthetic_record(config, top1=None):
    """A record that fits the schema; its numbers follow from the method's name and the seed."""
    config = config.canonical()
    base = TOP1.get(config.method, 0.6) + config.init_seed / 100
    accuracy = base + scatter(config.method, config.init_seed) if top1 is None else top1
    taught, with_stages = config.method != "student", config.task != "detection"
    stages = [round(0.3 * accuracy + 0.1 * stage, 6) for stage in range(3)]
    measures = {"energy_share": stages, "pointing": [value + 0.1 for value in stages]}
    teacher = {"teacher": {name: [0.5, 0.6, 0.7] for name in measures}} if taught else {}
    relevance = {"student": measures, "chance": 0.2, **teacher}
    return {
        "schema_version": 1, "run_id": config.run_id,
        "config": config.to_dict(), "config_hash": config.config_hash,
        "results": {
            **_results(config.task, accuracy),
            "per_class": [accuracy, None], "last_epoch": config.epochs, "best_epoch": 2,
        },
        "ssim": [value + 0.2 for value in stages] if taught and with_stages else None,
        "relevance": relevance if with_stages else None,
        **({"agreement": _agreement(accuracy)} if taught else {}),
        "cost": {
            "parameters": 1234, "flops": 5678, "latency_ms": {"1": 1.0, "64": 9.0},
            "train_seconds": 60.0 + 10 * len(config.method), "images_per_second": 1000.0,
        },
        "provenance": {
            "commit": "0" * 40, "dirty": False, "versions": {"python": "3.11.0"},
            "device": "cpu", "precision": "float32", "threads": 1,
            "seeds": {"data_seed": config.data_seed, "init_seed": config.init_seed},
            "data_fingerprint": "synthetic", "utc": "2000-01-01T00:00:00+00:00",
        },
    }  # fmt: skip


def _agreement(accuracy):
    parts = {"right": accuracy + 0.02, "wrong": accuracy / 3}
    found = {name: {"top1": top1, "kl": 1 - top1} for name, top1 in parts.items()}
    return {"top1": accuracy, "kl": 1 - accuracy, **found}


def _results(task, value):
    """AP falls with the IoU by 0.04 a step; an error costs a tenth of what is missing."""
    if task == "segmentation":
        return {"miou": value, "pixel_accuracy": value + 0.1, "last_monitored_miou": value}
    if task != "detection":
        return {
            "top1": value, "top5": min(1.0, value + 0.2), "mca": value - 0.01, "ece": 0.04,
            "mca_all": value - 0.01, "confusion": [[3, 1], [0, 0]],
            "best_monitored_top1": value, "last_monitored_top1": value,
        }  # fmt: skip
    by_iou = [round(value + 0.18 - 0.04 * step, 6) for step in range(10)]
    errors = ("cls", "loc", "both", "dupe", "bkg", "miss", "false_pos", "false_neg")
    return {
        "map": value, "map50": by_iou[0], "map75": by_iou[5], "ap_by_iou": by_iou,
        "map_small": value - 0.05, "map_medium": value, "map_large": None, "recall": value + 0.1,
        "errors": {name: {"count": 7, "dap": round((1 - value) / 10, 6)} for name in errors},
        "detections": 900, "last_monitored_map": value, "best_monitored_map": value,
    }  # fmt: skip


def write_run(root, config, top1=None):
    """Write a finished run's record and history; returns its directory."""
    record = synthetic_record(config, top1)
    directory = Path(root) / record["run_id"]
    measures, epochs = TASKS[config.task], range(1, config.epochs + 1)
    accuracy = record["results"][measures.metric]
    rows = [f"{e},0.1,{2 / e:.4f},{accuracy * (1 - 0.5 / e):.4f},3.0" for e in epochs]
    head = f"epoch,learning_rate,ce,{measures.monitored},seconds"
    write_text(directory / "history.csv", "\n".join([head, *rows]) + "\n")
    write_record(directory, record)
    return directory


def write_grid(root, methods=tuple(TOP1), seeds=(0, 1, 2), attentions=(2,), **fields):
    """Write every method at every seed and number of attentions, and the teachers' runs.

    Every attention beyond the second widens the distance to the plain student by a third.
    """
    for number in attentions:
        setting, plain = RunConfig(attentions=number, **fields), TOP1["student"]
        for method, seed in product(methods, list(seeds)):
            run = replace(setting, method=method, data_seed=seed, init_seed=seed)
            top1 = plain + (TOP1[method] - plain) * (1 + (number - 2) / 3)
            write_run(root, run, top1 + seed / 100 + scatter(method, seed))
        write_run(root, replace(setting, method="dct").teacher_config(), TEACHER_TOP1)
    return Path(root)


MAP = {"student": 0.40, "kd_cls": 0.42, "loc": 0.44, "kd_loc": 0.45, "kd_cls_loc": 0.50}
DAP = {"student": (0.10, 0.10), "kd_cls": (0.05, 0.12), "kd_loc": (0.11, 0.04)}
"""What errors of classification and of localisation cost; 0.1 for other methods."""


def write_detectors(root, setting, methods=tuple(MAP), seeds=(0, 1, 2)):
    """Write some seeds of methods of detectors, and the classifier that taught them."""
    for method, seed in product(methods, seeds):
        run = replace(setting, method=method, data_seed=seed, init_seed=seed)
        directory = write_run(root, run, MAP[method] + 0.01 * seed + scatter(method, seed) / 10)
        results = json.loads((directory / "record.json").read_text())["results"]
        cls, loc = DAP.get(method, (0.1, 0.1))
        results["errors"]["cls"]["dap"] = cls + scatter(method, seed) / 10
        results["errors"]["loc"]["dap"] = loc + scatter(f"{method} loc", seed) / 10
        edit_record(directory, results=results)
    write_run(root, replace(setting, method="kd_cls").teacher_config(), 0.9)
    return root


def edit_record(directory, **changes):
    """Change top-level keys of a record on disk, whatever the schema says of them."""
    record = {**json.loads((directory / "record.json").read_text()), **changes}
    record.pop("checksum", None)
    return write_record(directory, record)


def write_analyses(root):
    """Analyses of all runs under ``root``; numbers follow from the run's accuracy."""
    return [_write_analysis(path.parent) for path in sorted(Path(root).glob("*/record.json"))]


def _write_analysis(directory):
    """With maps, brighter in the middle, and answers at seed 0; the teacher keeps its pictures."""
    record = json.loads((directory / "record.json").read_text())
    top1, config = record["results"]["top1"], record["config"]
    if config["init_seed"] == 0:
        maps = tuple(torch.full((2, side, side), 40, dtype=torch.uint8) for side in (8, 4))
        for stage in maps:
            stage[:, stage.shape[1] // 2, stage.shape[2] // 2] = 255
        images = (torch.full((3, 16, 16), 200, dtype=torch.uint8),) * 2
        names = (("beach", "farm"), ("beach", "city"))
        save_maps(directory, AttentionMaps(images, maps, (0, 7), *names))
        labels, wrong = torch.arange(20) % 4, torch.arange(20) >= round(20 * top1)
        kept = images * 10 if config["teacher"] == "none" else ()
        classes = ("beach", "city", "farm", "port")
        save_answers(directory, Answers(labels, (labels + wrong) % 4, classes, kept))
    analysis = {
        "schema_version": 1, "run_id": record["run_id"], "config_hash": record["config_hash"],
        "images": 2000,
        "calibration": {
            "ece": (1 - top1) / 10, "count": [0] * 13 + [4000, 6000],
            "confidence": [None] * 13 + [0.9, 0.95], "accuracy": [None] * 13 + [top1, top1],
        },
        "robustness": {
            "noise": {"level": [0.0, 0.1], "top1": [top1, top1 / 2]},
            "occlusion": {"level": [0.0, 0.2], "top1": [top1, top1 - 0.1]},
        },
        "spectra": [[0.5, 0.3, 0.2], [0.6, 0.4]],
        "objects": {
            "energy_selectivity": [0.5, 0.55], "class_selectivity": [0.7, top1],
            "removal_relevant": 2 * top1, "removal_other": 0.1,
        },
        "provenance": {**record["provenance"], "precision": "float32"},
    }  # fmt: skip
    return write_analysis(directory, analysis)


def fits(figure):
    """Whether a figure cuts nothing off."""
    figure.draw_without_rendering()
    drawn, size = figure.get_tightbbox(), figure.get_size_inches()
    return drawn.min.min() >= -0.01 and (drawn.max <= size + 0.01).all()
