"""Makes small runs of every kind again and writes what must not change to the bit, as JSON.

    python tests/safety/remake.py OUT.json [--only 'NAME,NAME*,...']

It uses whatever ``kdlib`` Python finds: set ``PYTHONPATH`` to another tree to remake it with that.
"""

import argparse
import csv
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import torch
from inputs import write_all
from kinds import ANSWERING, DATA, FINDING, RUNS, SMALL, STOPPED, TOGETHER
from names import RunConfig, create_model, earlier, fit, load_data, run_directory
from safetensors.torch import load_file
from torch import Tensor

Entry = dict[str, Any]
VARYING = {
    "train_seconds", "images_per_second", "latency_ms", "seconds", "commit", "dirty", "versions",
    "utc", "checksums",
}  # fmt: skip
"""Of records and histories: clocks, and where the code came from."""


def digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's kind, shape and bits."""
    plain = tensor.detach().cpu().contiguous()
    told = f"{plain.dtype} {tuple(plain.shape)} ".encode()
    return hashlib.sha256(told + plain.view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def digests(tensors: Iterable[tuple[str, Tensor]]) -> str:
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
    files = sorted(directory.glob("*.safetensors"))
    record = json.loads((directory / "record.json").read_text(encoding="utf-8"))
    with (directory / "history.csv").open(newline="") as file:
        history = lasting(list(csv.DictReader(file)))
    return {
        "config_hash": record["config_hash"],
        "files": {f.name: {n: digest(t) for n, t in load_file(f).items()} for f in files},
        "record": lasting(record),
        "history": history,
    }


def config_of(name: str, **changes: Any) -> Any:
    """The configuration of one of ``RUNS``."""
    return RunConfig.from_dict({**SMALL, **RUNS[name], **changes}).canonical()


def trained(config: Any, place: Path, folder: str = "runs") -> Entry:
    """A run alone, after all that it needs."""
    prepared(config, place, folder)
    fit([config], place / folder, data_root=place / "data", device="cpu", progress=False)
    return described(run_directory(config, place / folder))


def prepared(config: Any, place: Path, folder: str) -> None:
    """Train what a run needs: its teacher, the stages before it."""
    for needed in earlier([config]):
        fit([needed], place / folder, data_root=place / "data", device="cpu", progress=False)


def plain(name: str, place: Path) -> Entry:
    """One of ``RUNS``, alone."""
    return trained(config_of(name), place)


def together(place: Path) -> Entry:
    """Runs in lock-step, which must be what each is alone."""
    configs = [config_of(name) for name in TOGETHER]
    for config in configs:
        prepared(config, place, "together")
    fit(configs, place / "together", device="cpu", progress=False)
    runs = [described(run_directory(config, place / "together")) for config in configs]
    pairs = zip(TOGETHER, configs, runs, strict=True)
    return {name: {**run, "as alone": run == trained(one, place)} for name, one, run in pairs}


def stopped(name: str, place: Path) -> Entry:
    """A run that is killed after an epoch and goes on, which must end as if it had not been."""
    config = config_of(name, epochs=8)
    prepared(config, place, "stopped")
    directory = run_directory(config, place / "stopped")
    child = os.fork()
    if child == 0:
        fit([config], place / "stopped", device="cpu", progress=False)
        os._exit(0)
    while not (directory / "checkpoint.safetensors").exists():
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    unfinished = not (directory / "record.json").exists()
    run = trained(config, place, "stopped")
    return {**run, "was stopped": unfinished, "as whole": run == trained(config, place, "whole")}


def automatic(place: Path) -> Entry:
    """Precision ``auto``, which must be that of the name that this machine chooses."""
    run = trained(config_of("at", precision="auto"), place)
    chosen = trained(config_of("at", precision=run["record"]["provenance"]["precision"]), place)
    same = all(run[part] == chosen[part] for part in ("files", "history"))
    return {"config_hash": run["config_hash"], "as chosen": same}


def network(name: str, place: Path) -> Entry:
    """A network's first weights and, of those that answer with logits, a step's gradients."""
    torch.manual_seed(0)
    built = create_model(name, 10)
    entry = {"weights": digests(built.state_dict().items())}
    if name in FINDING:
        return entry
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    output = built.train()(images)
    output.logits.square().mean().backward()
    gradients = [(n, p.grad) for n, p in built.named_parameters() if p.grad is not None]
    stages = [(str(n), stage) for n, stage in enumerate(output.stages)]
    return {**entry, "stages": digests(stages), "gradients": digests(gradients)}


def data(name: str, place: Path) -> Entry:
    """Images and truth of all splits of a data set with some options."""
    options = {"size": 120, **DATA[name]}
    sets = {s: load_data("scenes", s, **options) for s in ("train", "fit", "dev", "test")}
    return {split: _content(found) for split, found in sets.items()}


def _content(found: Any) -> Entry:
    objects = vars(found.objects) if found.objects is not None else {}
    parts = {"images": found.images, "labels": found.labels, "masks": found.masks, **objects}
    if found.relevance is not None:
        parts["relevance"] = found.relevance(torch.arange(len(found)))
    facts = [found.classes, found.mean, found.std, found.fingerprint]
    kept = {n: digest(part) for n, part in parts.items() if isinstance(part, Tensor)}
    return {**kept, "facts": json.loads(json.dumps(facts))}


KINDS: dict[str, Callable[[Path], Entry]] = {
    **{f"data {name}": partial(data, name) for name in DATA},
    **{f"network {name}": partial(network, name) for name in (*ANSWERING, *FINDING)},
    **{name: partial(plain, name) for name in RUNS},
    "together": together,
    **{f"stopped {name}": partial(stopped, name) for name in STOPPED},
    "auto": automatic,
}


def remade(only: list[str], place: Path) -> Iterator[tuple[str, Entry]]:
    """The kinds that are asked for, and then every run that they needed."""
    chosen = [name for name in KINDS if any(fnmatch(name, pattern) for pattern in only)]
    seen = set()
    for name in chosen:
        begin = time.perf_counter()
        try:
            entry = KINDS[name](place)
        except Exception as error:
            traceback.print_exc()
            entry = {"error": f"{type(error).__name__}: {error}"}
        seen.add(entry.get("config_hash"))
        print(f"{time.perf_counter() - begin:6.1f} s  {name}", flush=True)
        yield name, entry
    needed = [described(path.parent) for path in sorted(place.glob("runs/*/record.json"))]
    yield from (
        (f"needed {e['record']['run_id']}", e) for e in needed if e["config_hash"] not in seen
    )


def is_sound(value: Any) -> bool:
    """Whether nothing failed, and all that had to be equal was."""
    if isinstance(value, dict):
        return "error" not in value and all(is_sound(one) for one in value.values())
    return value is not False


def main() -> int:
    """Remake, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="*", help="names of kinds, or patterns, with commas")
    given = parser.parse_args()
    torch.set_num_threads(1)
    place = Path(tempfile.mkdtemp())
    os.environ["KDLIB_CACHE"] = str(place / "cache")  # so that data are made again too
    write_all(place / "data")
    try:
        entries = dict(remade(given.only.split(","), place))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    given.out.write_text(json.dumps(entries, indent=1, sort_keys=True))
    unsound = [name for name, entry in entries.items() if not is_sound(entry)]
    print(f"{len(entries)} kinds; not sound: {', '.join(unsound) or 'none'}")
    return bool(unsound)


if __name__ == "__main__":
    sys.exit(main())
