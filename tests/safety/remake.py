"""Makes small runs of every kind again and writes what must not change to the bit, as JSON.

    python tests/safety/remake.py OUT.json ['NAME,NAME*,...']

It uses whatever ``kdlib`` Python finds: set ``PYTHONPATH`` to another tree to remake it with that.
"""

import csv
import hashlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from fnmatch import fnmatch
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from configurations import earlier, found
from safetensors.torch import load_file
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))
from data_files import photograph, write_fashion

RunConfig, run_directory = (found(n, "kdlib.runs", "kdlib") for n in ("RunConfig", "run_directory"))
fit, load_data = found("fit", "kdlib.train", "kdlib"), found("load_data", "kdlib.data", "kdlib")
create_model = found("create_model", "kdlib.models", "kdlib")
Entry = dict[str, Any]
ASKED = yaml.safe_load(Path(__file__).with_name("kinds.yaml").read_text(encoding="utf-8"))
HALVES = {f"{name} bfloat16": {"precision": "bfloat16"} for name in ASKED["bfloat16"]}
RUNS: Entry = {**{name: {} for name in ASKED["methods"]}, **HALVES, **ASKED["runs"]}
VARYING = {
    "train_seconds", "images_per_second", "latency_ms", "seconds", "utc", "commit", "dirty",
    "versions", "processor", "capability", "checksum", "checksums", "evaluation_fingerprint",
    "teacher_fingerprint",
}  # fmt: skip
SIZE = (96, 72)
BOXES = ([4, 6, 26, 30], [30, 12, 28, 24], [10, 20, 40, 20])
"""Of the objects of a photograph: x, y, width, height."""


def write_inputs(root: Path) -> None:
    """Garments, photographs in folders, and photographs with objects, always the same."""
    write_fashion(root, 300)
    for part, count in (("train", 96), ("test", 48)):
        for number in range(count):
            photograph(root / part / f"kind{number % 3}" / f"{number}.png", number, SIZE)
    annotations, named = root / "coco" / "annotations", {"person": 1, "dog": 18}.items()
    annotations.mkdir(parents=True)
    kinds = [{"id": number, "name": name, "supercategory": ""} for name, number in named]
    for part, count in (("train2017", 32), ("val2017", 16)):
        numbers, size = range(1, count + 1), {"width": SIZE[0], "height": SIZE[1]}
        images = [{"id": n, "file_name": f"{n:012}.jpg", **size} for n in numbers]
        for image in images:
            photograph(root / "coco" / part / image["file_name"], image["id"] - 1, SIZE)
        found = [
            {"id": 10 * n + i, "image_id": n, "bbox": box, "area": box[2] * box[3]}
            | {"iscrowd": int(i == 2), "category_id": (1, 18)[(n + i) % 2]}
            for n in numbers
            for i, box in enumerate(BOXES[: n % 4])
        ]
        content = {"images": images, "annotations": found, "categories": kinds}
        (annotations / f"instances_{part}.json").write_text(json.dumps(content))


def digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's kind, shape and bits."""
    plain = tensor.detach().cpu().contiguous()
    head = f"{plain.dtype} {tuple(plain.shape)} ".encode()
    return hashlib.sha256(head + plain.view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def digests(tensors: Iterable[tuple[Any, Tensor]]) -> str:
    """One SHA-256 of many tensors and their names, in their order."""
    lines = [f"{name} {digest(tensor)}" for name, tensor in tensors]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def lasting(value: Any) -> Any:
    """A value of a record or a history without what varies."""
    if isinstance(value, dict):
        return {k: lasting(v) for k, v in value.items() if k not in VARYING}
    return [lasting(one) for one in value] if isinstance(value, list) else value


def described(directory: Path) -> Entry:
    """All of a finished run that must stay: weights, record, history."""
    record = json.loads((directory / "record.json").read_text(encoding="utf-8"))
    history = list(csv.DictReader((directory / "history.csv").read_text().splitlines()))
    files = {f.name: load_file(f) for f in sorted(directory.glob("*.safetensors"))}
    return {
        "config_hash": record["config_hash"],
        "files": {n: {k: digest(t) for k, t in file.items()} for n, file in files.items()},
        "record": lasting(record),
        "history": lasting(history),
    }


def config_of(name: str, **changes: Any) -> Any:
    fields = {**ASKED["small"], "method": name.split()[0], **RUNS[name], **changes}
    return RunConfig(**fields).canonical()


def learned(configs: list[Any], place: Path, folder: str) -> list[Entry]:
    """Runs in lock-step, after all that they need."""
    for group in (*([one] for one in earlier(configs)), configs):
        fit(group, place / folder, data_root=place / "data", device="cpu", progress=False)
    return [described(run_directory(config, place / folder)) for config in configs]


def plain(name: str, place: Path) -> Entry:
    return learned([config_of(name)], place, "runs")[0]


def together(place: Path) -> Entry:
    """Runs in lock-step, which must be what each is alone."""
    names = ASKED["together"]
    runs = zip(names, learned([config_of(n) for n in names], place, "together"), strict=True)
    return {name: {**run, "as alone": run == plain(name, place)} for name, run in runs}


def stopped(name: str, place: Path) -> Entry:
    """A run that is killed after an epoch and goes on, which must end as if it had not been."""
    config = config_of(name, epochs=8)
    learned(earlier([config]) or [config_of("student")], place, "stopped")
    directory = run_directory(config, place / "stopped")
    work = partial(fit, [config], directory.parent, device="cpu", progress=False)
    process = get_context("fork").Process(target=work)
    process.start()
    while process.is_alive() and not (directory / "checkpoint.safetensors").exists():
        time.sleep(0.001)
    process.kill()
    process.join()
    unfinished = not (directory / "record.json").exists()
    (run,), (whole,) = (learned([config], place, folder) for folder in ("stopped", "whole"))
    return {**run, "was stopped": unfinished, "as whole": run == whole}


def automatic(place: Path) -> Entry:
    """Precision ``auto``, which must be that of the name that this machine chooses."""
    (run,) = learned([config_of("at", precision="auto")], place, "auto")
    precision = run["record"]["provenance"]["precision"]
    (chosen,) = learned([config_of("at", precision=precision)], place, "auto")
    same = all(run[part] == chosen[part] for part in ("files", "history"))
    return {"config_hash": run["config_hash"], "as chosen": same}


def network(name: str, _: Path) -> Entry:
    """A network's first weights and, of those that answer with logits, a step's gradients."""
    torch.manual_seed(0)
    built = create_model(name, 10)
    entry = {"weights": digests(built.state_dict().items())}
    if name in ASKED["finding"]:
        return entry
    output = built.train()(torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    output.logits.square().mean().backward()
    gradients = [(n, p.grad) for n, p in built.named_parameters() if p.grad is not None]
    return {**entry, "stages": digests(enumerate(output.stages)), "gradients": digests(gradients)}


def data(name: str, _: Path) -> Entry:
    """Images and truth of all splits of Scenes with some options."""
    options, entry = {"size": 120, **ASKED["data"][name]}, {}
    for split in ("train", "fit", "dev", "test"):
        one = load_data("scenes", split, **options)
        parts = {"images": one.images, "labels": one.labels, "masks": one.masks}
        parts |= vars(one.objects) if one.objects is not None else {}
        if one.relevance is not None:
            parts["relevance"] = one.relevance(torch.arange(len(one)))
        facts = json.loads(json.dumps([one.classes, one.mean, one.std, one.fingerprint]))
        kept = {n: digest(part) for n, part in parts.items() if isinstance(part, Tensor)}
        entry[split] = {**kept, "facts": facts}
    return entry


KINDS = {
    **{f"data {name}": partial(data, name) for name in ASKED["data"]},
    **{f"network {n}": partial(network, n) for n in (*ASKED["answering"], *ASKED["finding"])},
    **{name: partial(plain, name) for name in RUNS},
    "together": together,
    **{f"stopped {name}": partial(stopped, name) for name in ASKED["stopped"]},
    "auto": automatic,
}


def remade(only: list[str], place: Path) -> Entry:
    """The kinds that are asked for, and then every run that they needed."""
    entries: Entry = {}
    for name in (name for name in KINDS if any(fnmatch(name, pattern) for pattern in only)):
        print(name, flush=True)
        try:
            entries[name] = KINDS[name](place)
        except Exception as error:
            traceback.print_exc()
            entries[name] = {"error": f"{type(error).__name__}: {error}"}
    seen = {entry.get("config_hash") for entry in entries.values()}
    runs = [described(path.parent) for path in sorted(place.glob("runs/*/record.json"))]
    needed = [run for run in runs if run["config_hash"] not in seen]
    return entries | {f"needed {run['record']['run_id']}": run for run in needed}


def is_sound(entry: Entry) -> bool:
    """Whether nothing failed, and all that had to be equal was."""
    checks = ("as alone", "as whole", "as chosen", "was stopped")
    return "error" not in entry and not any(f'"{c}": false' in json.dumps(entry) for c in checks)


def main(out: str, only: str = "*") -> int:
    """Remake, and write what came out."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["KDLIB_CACHE"] = f"{folder}/cache"  # so that data are made again too
        write_inputs(Path(folder) / "data")
        entries = remade(only.split(","), Path(folder))
    Path(out).write_text(json.dumps(entries, indent=1, sort_keys=True))
    unsound = [name for name, entry in entries.items() if not is_sound(entry)]
    print(f"{len(entries)} kinds; not sound: {', '.join(unsound) or 'none'}")
    return bool(unsound)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
