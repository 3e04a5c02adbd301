"""The files of an analysis, in the directory of their run: numbers, attention maps, answers."""

import json
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from kdlib.errors import KdlibError
from kdlib.files import check_identity, finite, load_tensors, save_tensors, write_json
from study.analyses import ANALYSIS_FILE, ANSWERS_FILE, MAPS_FILE
from study.records import check_schema
from study.sealed import checked_file, entry_of, is_sealed

ADVICE = "Delete it, and analyse the run again."
DIGITS = 6
JPEG_QUALITY = 85


class AttentionMaps(NamedTuple):
    """What a network attends to in some test images."""

    images: tuple[Tensor, ...]  # (3, H, W) uint8 each
    stages: tuple[Tensor, ...]  # maps (n, h, w) uint8, fine to coarse, each scaled to 0..255
    positions: tuple[int, ...]  # in the test set
    labels: tuple[str, ...]  # names of the images' classes
    predicted: tuple[str, ...]  # names of the classes that the network gives them


class Answers(NamedTuple):
    """A network's answers to the first images of a test set."""

    labels: Tensor  # (n,) int64, the true classes
    answers: Tensor  # (n,) int64
    classes: tuple[str, ...]
    images: tuple[Tensor, ...]  # the first few, (3, H, W) uint8 each; of a teacher alone


def save_maps(directory: Path, maps: AttentionMaps) -> None:
    """Write attention maps into a run's directory, whole or not at all."""
    tensors = {f"stage_{number}": stage for number, stage in enumerate(maps.stages, 1)}
    facts: dict[str, Any] = {"labels": maps.labels, "predicted": maps.predicted}
    facts |= {"positions": maps.positions, "run": Path(directory).name}
    save_tensors(Path(directory) / MAPS_FILE, tensors | _as_jpegs(maps.images), facts)


def load_maps(directory: Path) -> AttentionMaps:
    """Read what :func:`save_maps` wrote; a KdlibError if it is missing or damaged."""
    tensors, facts = _loaded(Path(directory), MAPS_FILE)
    named = [tuple(facts[name]) for name in ("positions", "labels", "predicted")]
    return AttentionMaps(_from_jpegs(tensors), _numbered(tensors, "stage"), *named)


def save_answers(directory: Path, found: Answers) -> None:
    """Write answers into a run's directory, whole or not at all."""
    tensors = {"labels": found.labels.to(torch.int16), "answers": found.answers.to(torch.int16)}
    facts = {"classes": found.classes, "run": Path(directory).name}
    save_tensors(Path(directory) / ANSWERS_FILE, tensors | _as_jpegs(found.images), facts)


def load_answers(directory: Path) -> Answers:
    """Read what :func:`save_answers` wrote; a KdlibError if it is missing or damaged."""
    tensors, facts = _loaded(Path(directory), ANSWERS_FILE)
    labels, answers = (tensors[name].long() for name in ("labels", "answers"))
    return Answers(labels, answers, tuple(facts["classes"]), _from_jpegs(tensors))


def _loaded(directory: Path, file: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A file of this run; older ones, which are committed, do not say of which run they are."""
    tensors, facts = load_tensors(checked_file(directory / file))
    check_identity(directory, facts, {"run": directory.name} if "run" in facts else {}, ADVICE)
    return tensors, facts


def _numbered(tensors: Mapping[str, Tensor], prefix: str) -> tuple[Tensor, ...]:
    count = sum(name.startswith(f"{prefix}_") for name in tensors)
    return tuple(tensors[f"{prefix}_{number}"] for number in range(1, count + 1))


def _as_jpegs(images: tuple[Tensor, ...]) -> dict[str, Tensor]:
    found = {}
    for number, image in enumerate(images, 1):
        file = BytesIO()
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture.save(file, "jpeg", quality=JPEG_QUALITY)
        found[f"image_{number}"] = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
    return found


def _from_jpegs(tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    contents = (BytesIO(one.numpy().tobytes()) for one in _numbered(tensors, "image"))
    return tuple(torch.from_numpy(np.array(Image.open(one))).permute(2, 0, 1) for one in contents)


def write_analysis(directory: Path, analysis: Mapping[str, Any]) -> Path:
    """Write the analysis of a run beside its record, its numbers with six digits."""
    whole, path = json.dumps(finite(analysis)), Path(directory) / ANALYSIS_FILE
    digits = f".{DIGITS}g"
    write_json(path, json.loads(whole, parse_float=lambda text: float(f"{float(text):{digits}}")))
    return path


def read_analysis(path: Path) -> dict[str, Any]:
    """Read an analysis; a KdlibError if it is missing, damaged, or that of another run."""
    try:
        if is_sealed(path.parent.parent):
            analysis = entry_of(path.parent)["analysis"]
        else:
            analysis = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(analysis, allow_nan=False)
    except (OSError, ValueError, RecursionError) as error:
        raise KdlibError(f"{path} is not a readable analysis ({error}). {ADVICE}") from error
    check_schema(analysis, path, "study.analyses", "analysis.schema.json", ADVICE)
    name, digits = analysis["run_id"], analysis["config_hash"][:10]
    if name != path.parent.name or not name.endswith(digits):
        raise KdlibError(f"{path} is the analysis of '{name}' with hash {digits}. {ADVICE}")
    return analysis


def has_file(directory: Path, name: str) -> bool:
    """Whether a run has a file of its analysis; the numbers of a sealed run are in its line."""
    if name == ANALYSIS_FILE and is_sealed(Path(directory).parent):
        return "analysis" in entry_of(Path(directory))
    return (Path(directory) / name).exists()


def analyses_of(runs: pd.DataFrame) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Row and analysis of each of ``runs`` (of ``load_records``) that has one."""
    for row in runs.to_dict("records"):
        if has_file(row["directory"], ANALYSIS_FILE):
            yield row, read_analysis(Path(row["directory"]) / ANALYSIS_FILE)
