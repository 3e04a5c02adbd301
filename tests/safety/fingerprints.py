"""Fingerprints of every kind of run: two steps of tiny trainings, whose numbers must not move.

    python tests/safety/fingerprints.py [--renew] [--only 'NAME,NAME*,...']

Compares them with the committed ones; ``--renew`` writes those that changed by intention. It is
refused for a kind of the same revision as before while records of its method count: raise the
``revision`` (of the method in kdlib/methods.py, or of the network), and they leave all tables.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml

sys.path.append(str(Path(__file__).parents[1]))
from data_files import write_fashion

from kdlib import runs
from kdlib.errors import KdlibError
from kdlib.evaluate import channels_last
from kdlib.files import checksum, save_tensors, write_text
from kdlib.methods import STAGES
from kdlib.runs import RunConfig, data_of, earlier, processor_name
from kdlib.train import fit, state_of
from kdlib.train_state import Group, TrainState
from study.records import find_records

HERE = Path(__file__).parent
FILE, RECORDS = HERE / "fingerprints.json", HERE.parents[1] / "records"
ASKED = yaml.safe_load((HERE / "kinds.yaml").read_text(encoding="utf-8"))
HALVES = {f"{name} bfloat16": {"precision": "bfloat16"} for name in ASKED["bfloat16"]}
KINDS: dict[str, Any] = {**{name: {} for name in ASKED["methods"]}, **HALVES, **ASKED["runs"]}
SMALL = {"train_size": 48, "test_size": 16, "batch_size": 16, "epochs": 3, "teacher_epochs": 1}
STEPS, PER_EPOCH, START = 2, 6, 12  # the steps after 12 of 18: when warm-ups are over
TOLERANCE, LOOSE = 1e-4, 3e-2
"""Relative: by what terms and weights may differ where another processor rounds otherwise."""
LOOSER = ("at+kd bfloat16", "semckd bfloat16", "frskd bfloat16")  # whose roundings grow
Print = dict[str, Any]


def conditions() -> dict[str, str]:
    """On what the last bit of a number depends; threads are one."""
    capability = torch.backends.cpu.get_cpu_capability()
    return {"processor": processor_name(), "capability": capability, "torch": torch.__version__}


def prints(only: str = "*") -> dict[str, Print]:
    """The fingerprints of this tree on this machine, by kind."""
    torch.set_num_threads(1)
    wanted = [name for name in KINDS if any(fnmatch(name, one) for one in only.split(","))]
    loaded = patch("kdlib.runs.load_data", cache(runs.load_data))  # most kinds have the same data
    with tempfile.TemporaryDirectory() as folder, loaded:
        write_fashion(Path(folder) / "data", 300)
        return {name: fingerprint(name, Path(folder)) for name in wanted}


def fingerprint(name: str, place: Path) -> Print:
    """The loss terms of the second of two steps, and the weights after it."""
    own = {**ASKED["small"], "method": name.split()[0], **KINDS[name], **SMALL}
    config = RunConfig(**own).canonical()
    for run in earlier([config]):
        prepare(run, place)
    state = state_in(config, place)
    group, bfloat16 = state.group, config.precision == "bfloat16"
    batches = map(channels_last, group.batches.epoch(config.data_seed, 0))
    for done, batch in zip(range(START, START + STEPS), batches, strict=False):
        with torch.autocast("cpu", torch.bfloat16, bfloat16):
            taught = group.teacher if state.distiller.needs_teacher else None
            teacher = None if taught is None else taught.teach(batch)
        terms = state.learn(batch, teacher, done, PER_EPOCH)
    return {
        "method": config.method, "revision": config.revision,
        "values": {**{name: term.item() for name, term in terms.items()}, **projected(state)},
        "bits": checksum(state.parts.state_dict()),
    }  # fmt: skip


def prepare(run: RunConfig, place: Path) -> None:
    """Make what a kind needs: a teacher that has learnt nothing yet; SRM's stages, trained."""
    if run.method in STAGES:
        fit(run, place / "runs", data_root=place / "data", device="cpu", progress=False)
        return
    state = state_in(run, place)
    facts = {"classes": state.classes, **state.identity}
    save_tensors(state.directory / "weights.safetensors", state.student.state_dict(), facts)


def state_in(config: RunConfig, place: Path) -> TrainState:
    """A run at its beginning."""
    kind, device = state_of(config), torch.device("cpu")
    data, evaluation = (data_of(config, part, place / "data") for part in ("train", "test"))
    batches = kind.batches(data, config.batch_size, config.augmentation, device)
    teacher = kind.teacher_for([config], place / "runs", data, device)
    group = Group(data, device, teacher, config.precision, batches=batches, evaluation=evaluation)
    return kind(config, group, place / "runs")


def projected(state: TrainState) -> dict[str, float]:
    """All weights in two numbers: their sum with factors from -1 to 1, their sum of squares."""
    flat = torch.cat([one.detach().double().flatten() for one in state.parts.parameters()])
    signs = torch.arange(len(flat)).double().cos()
    return {"projection": (flat * signs).sum().item(), "squares": flat.square().sum().item()}


# What differs, and what may be written anew.
def differing(kept: Mapping[str, Any], now: Mapping[str, Print], exact: bool) -> Iterator[str]:
    """Kinds whose numbers moved, and how."""
    for name, found in now.items():
        if (before := kept.get(name)) is None:
            yield f"{name}: is new"
        elif before["revision"] != found["revision"]:
            yield f"{name}: revision {before['revision']} -> {found['revision']}"
        elif before["values"].keys() != found["values"].keys():
            yield f"{name}: {', '.join(before['values'])} -> {', '.join(found['values'])}"
        elif exact and before["bits"] != found["bits"]:
            yield f"{name}: other bits, by up to {_largest(before, found):.1g} of a value"
        elif (most := _largest(before, found)) > (LOOSE if name in LOOSER else TOLERANCE):
            yield f"{name}: by up to {most:.1g} of a value"


def _largest(one: Print, other: Print) -> float:
    pairs = ((one["values"][name], other["values"][name]) for name in one["values"])
    return max(abs(a - b) / max(abs(a), 0.1) for a, b in pairs)


def untouched(kept: Mapping[str, Any], moved: Mapping[str, Print]) -> list[str]:
    """Kinds that moved at the revision of before, of whose method there are records that count."""
    counting = {record["config"]["method"] for record in find_records(RECORDS).values()}
    same = (n for n in moved if n in kept and kept[n]["revision"] == moved[n]["revision"])
    return [name for name in same if moved[name]["method"] in counting]


def compared(only: str = "*") -> tuple[list[str], dict[str, Print], dict[str, Any]]:
    """What moved, in words; the fingerprints of now; the file."""
    file = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    now, kept = prints(only), file.get("kinds", {})
    lost = [f"{name}: is gone" for name in kept if name not in KINDS]
    return [*differing(kept, now, file.get("made") == conditions()), *lost], now, file


def renew(now: dict[str, Print], file: dict[str, Any], moved: list[str]) -> None:
    """Write the fingerprints of now; a ``KdlibError`` where records that count would be wrong."""
    kept, names = file.get("kinds", {}), {text.split(":")[0] for text in moved}
    if wrong := untouched(kept, {name: now[name] for name in names if name in now}):
        raise KdlibError(
            f"{', '.join(wrong)}: numbers moved, and records of before count. Take the change "
            "back, or raise the revision of the method or network; then renew."
        )
    kinds = {name: {**kept, **now}[name] for name in KINDS if name in {**kept, **now}}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(one)}" for name, one in kinds.items())
    made = json.dumps(conditions())
    write_text(FILE, f'{{\n "made": {made},\n "kinds": {{\n{lines}\n }}\n}}\n')


def main() -> int:
    """Compare or renew; the exit status is 1 if a number moved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--renew", action="store_true")
    parser.add_argument("--only", default="*")
    given = parser.parse_args()
    moved, now, file = compared("*" if given.renew else given.only)
    print(*moved, f"{len(moved)} of {len(now)} kinds moved", sep="\n")
    if given.renew:
        renew(now, file, moved)
    return bool(moved) and not given.renew


if __name__ == "__main__":
    sys.exit(main())
