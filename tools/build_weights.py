"""Write the files of the networks that ship with kdlib, and their card, from finished runs.

Usage: python tools/build_weights.py RUNS [--cast weights/cast.yaml] [NAME ...]
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from kdlib import shipped
from kdlib.data.image_data import ImageData
from kdlib.errors import KdlibError
from kdlib.evaluate import evaluate_student, trained_network
from kdlib.files import load_tensors, save_tensors, write_text
from kdlib.methods import weights_of
from kdlib.models.output import count_parameters
from kdlib.runs import RunConfig, data_of, earlier, finished_record, is_finished, run_directory
from kdlib.srm.stages import blocks_of
from kdlib.tasks import TASKS
from study.profiles import expand

IMAGES = 2000  # first ones of the evaluation data, on which what is shipped is measured
MOST_LOST = 0.002  # of the metric, by rounding to half precision
LIMIT = 6e6  # bytes of all files together
DICTIONARY = "srm_dictionary"
MEASURED = ("result_float32", "result_shipped")
TERMS = ("weight", "cross-entropy", "KD")  # as weights_of gives them
Facts = dict[str, Any]


def main() -> None:
    """Write the files of the cast, or of some names in it, then the page about all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, help="folder of runs, with their weights")
    parser.add_argument("names", nargs="*", help="of the cast; by default all")
    parser.add_argument("--cast", type=Path, default=shipped.FOLDER / "cast.yaml")
    parser.add_argument("--data-root", type=Path, help="folder of the real data sets")
    given = parser.parse_args()
    cast = yaml.safe_load(given.cast.read_text("utf-8"))
    for name in given.names or cast:
        try:
            facts = build(name, chosen(name, cast[name], given.runs), given.runs, given.data_root)
            print(f"{name}: {facts['run']}: {facts['metric']} {facts['result']:.4f}")
        except KdlibError as error:
            print(f"{name}: {error}")
    write_text(shipped.FOLDER / "README.md", page())
    size = sum(path.stat().st_size for path in shipped.FOLDER.rglob("*.safetensors"))
    if size > LIMIT:
        raise SystemExit(f"{size / 1e6:.1f} MB are shipped; {LIMIT / 1e6:.0f} are the limit.")


def chosen(name: str, line: Mapping[str, Any], root: Path) -> RunConfig:
    """The finished run of a line of the cast; a ``KdlibError`` unless it is exactly one."""
    fields = {field: value for field, value in line.items() if field != "profile"}
    runs = expand(line["profile"], line.get("dataset", "scenes"))
    fitting = [
        run
        for run in (*earlier(runs), *runs)
        if all(getattr(run, field) == value for field, value in fields.items())
    ]
    if len(fitting) != 1:
        raise KdlibError(f"{len(fitting)} runs fit {dict(line)}; give more fields, or others.")
    if not is_finished(fitting[0], root):
        raise KdlibError(f"{run_directory(fitting[0], root)} is not finished.")
    return fitting[0]


def build(name: str, run: RunConfig, root: Path, data_root: Path | None) -> Facts:
    """Write the file of a network in half precision; refuse one that this makes worse."""
    record, data = finished_record(run, root), first_images(run, data_root)
    count = run.test_size or len(data_of(run, "test", data_root))
    facts: Facts = {
        "network": name, "classes": len(data.classes), "run": run.run_id,
        "config": record["config"], "data": record["provenance"]["data_fingerprint"],
        "commit": record["provenance"]["commit"], "stored": "float16",
    }  # fmt: skip
    if run.method == DICTIONARY:
        tensors, _ = load_tensors(run_directory(run, root) / "weights.safetensors")
        whole: nn.Module = blocks_of(tensors, run.method_options)
        deepest = record["dictionary"]["stages"][-1]["explained"]
        facts |= {"metric": "explained", "result": deepest, "test_size": count}
    else:
        whole, metric = trained_network(run, root, len(data.classes)), TASKS[run.task].metric
        facts |= {"metric": metric, "result": record["results"][metric], "test_size": count}
    facts["parameters"] = count_parameters(whole)
    half = {
        key: one.half() if one.dtype == torch.float32 else one
        for key, one in whole.state_dict().items()
    }
    if run.method != DICTIONARY:
        facts |= measured(whole, half, data, facts["metric"])
    save_tensors(shipped.FOLDER / f"{name}.safetensors", half, facts)
    return facts


def first_images(run: RunConfig, data_root: Path | None = None) -> ImageData:
    """The first images that a run is evaluated on; others are not composed or listed."""
    return data_of(replace(run, test_size=IMAGES), "test", data_root).first(IMAGES)


def measured(network: nn.Module, half: Mapping[str, Tensor], few: ImageData, metric: str) -> Facts:
    """What a network reaches on a few images, and with its weights rounded."""
    before = quality(network, few, metric)
    network.load_state_dict(half)
    after = quality(network, few, metric)
    if abs(before - after) > MOST_LOST:
        raise KdlibError(f"{metric} is {before:.4f}, but {after:.4f} in half precision.")
    return {"images": len(few), "result_float32": before, "result_shipped": after}


def quality(network: nn.Module, data: ImageData, metric: str) -> float:
    """What a network reaches on data: its accuracy, IoU, or average precision."""
    if data.task == "detection":
        from kdlib.detection.evaluation import evaluate_detector

        return evaluate_detector(network, data)["results"][metric]
    return evaluate_student(network, None, data)["results"][metric]


# The page: a model card for a hub too, made from the files alone.
HEAD = """\
---
license: mit
library_name: kdlib
pipeline_tag: image-classification
tags: [knowledge-distillation, attention-transfer, discrete-cosine-transform, safetensors]
---
<!-- Made by `python tools/build_weights.py RUNS`; the networks are named in cast.yaml. -->
# Trained networks that ship with kdlib

```python
import kdlib
from kdlib.shipped import card

teacher = kdlib.pretrained("scenes/teacher")  # in eval mode; takes normalised images
card("scenes/teacher")  # its run, its whole configuration, its accuracy
```

Each file holds the weights of one run, its configuration, and a checksum of all of it; nothing in
it is unpickled. Weights are stored in half precision and loaded as float32. *Result* is what the
record of the run says, with the number of images it was evaluated on. The two columns after it are
of the first of these images alone: before and after rounding to half precision.

"""
TAIL = """
Data: scenes that kdlib composes itself (`kdlib.load_data("scenes", ...)`) from Microsoft's Fluent
Emoji; images, objects and classes are synthetic, so the networks are for teaching and for comparing
methods, and of no use on photographs. A sample is one training set, drawn independently of others.
Licence: MIT, as kdlib; the emoji are under the MIT licence too.
"""


def page() -> str:
    """A table of all files that are shipped, as markdown."""
    heads = (
        "name", "network", "parameters", "method", "training data", "evaluated on", "result",
        "first images", "of these, float32", "of these, shipped", "run", "MB",
    )  # fmt: skip
    rows = [_row(name) for name in shipped.pretrained_names()]
    lines = [heads, ["---"] * len(heads), *rows]
    return HEAD + "".join(f"| {' | '.join(line)} |\n" for line in lines) + TAIL


def _row(name: str) -> list[str]:
    facts, path = shipped.card(name), shipped.FOLDER / f"{name}.safetensors"
    run = RunConfig(**facts["config"])
    data = f"{run.train_size:,} images, sample {run.sample}" if run.train_size else "all images"
    few = [f"{facts['images']:,}"] if "images" in facts else ["–"]
    few += [f"{100 * facts[one]:.2f} %" if one in facts else "–" for one in MEASURED]
    weights = ", ".join(_weights(run))
    return [
        f"`{name}`", f"`{run.student}`", f"{facts['parameters']:,}",
        f"{f'`{run.method}` ({weights})' if weights else 'plain'}, {run.epochs} epochs",
        f"{run.dataset}: {data}", "test split" if run.split == "train" else "dev split",
        f"{facts['metric']} {100 * facts['result']:.2f} % ({facts['test_size']:,})", *few,
        f"`{facts['run']}`", f"{path.stat().st_size / 1e6:.2f}",
    ]  # fmt: skip


def _weights(run: RunConfig) -> Iterator[str]:
    """How a run's terms are weighted, and the seed of its teacher."""
    weights = weights_of(run)
    if run.method != "student":
        yield from (
            f"{name} {value:g}" for name, value in zip(TERMS, weights, strict=True) if value
        )
        yield f"teacher {run.teacher_seed}"


if __name__ == "__main__":
    main()
