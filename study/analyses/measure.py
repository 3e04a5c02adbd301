"""The analyses of all runs of a folder: each once, kept as soon as it is done."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import version
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from jsonschema import Draft202012Validator
from PIL import Image
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error
from tqdm.auto import tqdm

from kdlib.data import load_data
from kdlib.data.image_data import ImageData
from kdlib.data.photographs import Photographs
from kdlib.errors import KdlibError
from kdlib.evaluate import attention_on, predict, trained_network
from kdlib.files import load_tensors, save_tensors, write_text
from kdlib.losses.dct import dct_2d
from kdlib.methods import parse_method
from kdlib.runs import RunConfig, provenance, read_record
from kdlib.seeds import generator

# Does a network's confidence say how often it is right? (Guo et al. 2017, arXiv 1706.04599).
BINS = 15
# In float32, in which torchmetrics bins, this is the largest number below 1. A confidence of
# exactly 1 it would put into a bin of its own, a sixteenth.
LARGEST = 1 - 2**-24


def calibration(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Expected calibration error, and the bins of the reliability diagram.

    Args:
        logits: (N, K).
        labels: (N,).

    Returns:
        ``ece`` in 0..1; ``count``, ``confidence`` and ``accuracy`` of each of 15 equally wide
        bins of confidence (mean confidence and accuracy are ``None`` where a bin is empty).
    """
    probabilities = logits.double().softmax(1).clamp(max=LARGEST)
    ece = multiclass_calibration_error(probabilities, labels, logits.shape[1], n_bins=BINS)
    confidence, predicted = probabilities.max(1)
    edges = torch.linspace(0, 1, BINS + 1)
    place = torch.bucketize(confidence.float(), edges, right=True) - 1
    count = torch.bincount(place, minlength=BINS)
    return {
        "ece": ece.item(),
        "count": count.tolist(),
        "confidence": _means(confidence, place, count),
        "accuracy": _means((predicted == labels).double(), place, count),
    }


def _means(values: Tensor, place: Tensor, count: Tensor) -> list[float | None]:
    sums = torch.bincount(place, weights=values, minlength=BINS)
    return [
        total / number if number else None
        for total, number in zip(sums.tolist(), count.tolist(), strict=True)
    ]


# The files of a run's analysis.
FILES_FILE = "analysis.json"
MAPS_FILE = "attention_maps.safetensors"
SCHEMA_VERSION = 1
DIGITS = 6


def write_analysis(directory: Path, analysis: Mapping[str, Any]) -> Path:
    """Write the analysis of a run beside its record; numbers keep six digits."""
    path = Path(directory) / FILES_FILE
    write_text(path, _compact(_rounded(analysis)))
    return path


def read_analysis(path: Path) -> dict[str, Any]:
    """Read and check an analysis.

    Raises:
        KdlibError: it is missing, damaged, or not that of the run in whose directory it lies.
    """
    advice = "Delete it, and analyse the run again."
    try:
        analysis = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KdlibError(f"{path} is not a readable analysis ({error}). {advice}") from error
    problem = next(iter(_schema().iter_errors(analysis)), None)
    if problem is not None:
        where = ".".join(str(part) for part in problem.absolute_path) or "the analysis"
        raise KdlibError(f"{path}: {where}: {problem.message[:300]}. {advice}")
    if analysis["run_id"] != Path(path).parent.name:
        raise KdlibError(f"{path} is the analysis of '{analysis['run_id']}'. {advice}")
    return analysis


def analyses_of(runs: pd.DataFrame) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Row and analysis of each of ``runs`` (of ``load_records``) that has one.

    Raises:
        KdlibError: as :func:`read_analysis`.
    """
    for row in runs.to_dict("records"):
        path = Path(row["directory"]) / FILES_FILE
        if path.exists():
            yield {str(name): value for name, value in row.items()}, read_analysis(path)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value


def _compact(analysis: Mapping[str, Any]) -> str:
    """JSON with a line for each top-level key: a list of a hundred numbers takes one line."""
    lines = (
        f"{json.dumps(name)}: {json.dumps(value, sort_keys=True, allow_nan=False)}"
        for name, value in sorted(analysis.items())
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


@cache
def _schema() -> Draft202012Validator:
    text = files("study.analyses").joinpath("analysis.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text))


# The images of a data set as they are evaluated, and as they are kept in an analysis.
JPEG_QUALITY = 85


def pixels_of(data: ImageData) -> Tensor:
    """Images (N, 3, H, W) uint8, all in memory; of photographs the middle."""
    if isinstance(data.images, Tensor):
        return data.images
    return cast("Photographs", data.images).centres()


def as_jpeg(image: Tensor) -> Tensor:
    """(3, H, W) uint8 -> the bytes of its JPEG."""
    file = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "jpeg", quality=JPEG_QUALITY)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


def from_jpeg(content: Tensor) -> Tensor:
    """The bytes of a JPEG -> (3, H, W) uint8."""
    picture = np.array(Image.open(BytesIO(content.numpy().tobytes())))
    return torch.from_numpy(picture).permute(2, 0, 1)


# What a network answers to each of the first test images; of a teacher also some of the images.
ANSWERS_FILE = "answers.safetensors"
ANSWERS_IMAGES = 2000  # whose answers are kept
KEPT = 60  # of them, from the first on, that are kept as pictures


@dataclass(frozen=True)
class Answers:
    """A network's answers to the first images of a test set.

    Attributes:
        labels: (n,) int64, the true classes.
        answers: (n,) int64, the network's.
        classes: names.
        images: the first few, (3, H, W) uint8 each; empty unless they were asked for.
    """

    labels: Tensor
    answers: Tensor
    classes: tuple[str, ...]
    images: tuple[Tensor, ...]


def answers_of(network: nn.Module, data: ImageData, precision: str, pictures: bool) -> Answers:
    """Answers to the first 2,000 images, with the first 60 as ``pictures`` if wanted."""
    part = data.first(ANSWERS_IMAGES)
    predicted = predict(network, part, precision=precision).argmax(1)
    images = tuple(pixels_of(part.first(KEPT))) if pictures else ()
    return Answers(part.labels, predicted, data.classes, images)


def save_answers(directory: Path, found: Answers) -> None:
    """Write the answers' file into a run's directory, whole or not at all."""
    tensors = {"labels": found.labels.to(torch.int16), "answers": found.answers.to(torch.int16)}
    for number, image in enumerate(found.images, 1):
        tensors[f"image_{number}"] = as_jpeg(image)
    save_tensors(Path(directory) / ANSWERS_FILE, tensors, {"classes": found.classes})


def load_answers(directory: Path) -> Answers:
    """Read what :func:`save_answers` wrote.

    Raises:
        KdlibError: the file is missing or damaged.
    """
    tensors, facts = load_tensors(Path(directory) / ANSWERS_FILE)
    pictures = range(1, sum(name.startswith("image_") for name in tensors) + 1)
    return Answers(
        labels=tensors["labels"].long(),
        answers=tensors["answers"].long(),
        classes=tuple(facts["classes"]),
        images=tuple(from_jpeg(tensors[f"image_{number}"]) for number in pictures),
    )


# Images made harder to see: noise on every pixel, a square that hides a part.
SEED = 0


class Corruption(NamedTuple):
    """A way to harm images.

    Attributes:
        levels: how strong; the unit is the corruption's own.
        versions: (data, positions (N,) in the whole data set) -> an (N, 3, H, W) uint8 for each
            level.
    """

    levels: tuple[float, ...]
    versions: Callable[[ImageData, Tensor], Iterator[Tensor]]


def noisy(data: ImageData, positions: Tensor) -> Iterator[Tensor]:
    """Images with Gaussian noise added, clipped to 0..255 again."""
    whole = pixels_of(data)
    shape, places = whole.shape[1:], positions.tolist()
    draws = [torch.randn(shape, generator=_stream("noise", place)) for place in places]
    noise = torch.stack(draws)
    for sigma in NOISE:
        noised = whole.float() + 255 * sigma * noise
        yield noised.round_().clamp_(0, 255).to(torch.uint8)


def occluded(data: ImageData, positions: Tensor) -> Iterator[Tensor]:
    """Images with a square, somewhere inside, of the mean colour of the data set."""
    whole = pixels_of(data)
    draws = [torch.rand(2, generator=_stream("occlusion", place)) for place in positions.tolist()]
    colour = (torch.tensor(data.mean) * 255).round().to(torch.uint8).view(1, 3, 1, 1)
    for share in OCCLUSION:
        hidden = square_masks(torch.stack(draws), share, *whole.shape[2:])
        yield torch.where(hidden[:, None], colour, whole)


def square_masks(places: Tensor, share: float, height: int, width: int) -> Tensor:
    """Squares of ``share`` of the area (as far as the shorter side has room): (N, H, W) bool.

    Args:
        places: (N, 2) in 0..1; 0 touches the top or the left edge, 1 the opposite one.
        share: of the image's area, 0..1.
        height: pixels.
        width: pixels.
    """
    side = min(round((share * height * width) ** 0.5), height, width)
    room = torch.tensor([height - side + 1, width - side + 1])
    corner = (places * room).long().minimum(room - 1)
    rows, columns = (
        (torch.arange(size) >= start) & (torch.arange(size) < start + side)
        for size, start in ((height, corner[:, :1]), (width, corner[:, 1:]))
    )
    return rows[:, :, None] & columns[:, None, :]


def _stream(kind: str, place: int) -> torch.Generator:
    return generator(SEED, "corruption", kind, place)


NOISE = (0.025, 0.05, 0.075, 0.1)  # standard deviation, where black is 0 and white 1
OCCLUSION = (0.05, 0.1, 0.2, 0.3)  # share of the image's area
CORRUPTIONS: dict[str, Corruption] = {
    "noise": Corruption(NOISE, noisy),
    "occlusion": Corruption(OCCLUSION, occluded),
}


# Attention maps of a few images, chosen by a rule and not by eye, small enough to be committed.
SHOWN = 4


@dataclass(frozen=True)
class AttentionMaps:
    """What a network attends to in some test images.

    Attributes:
        images: an (3, H, W) uint8 each.
        stages: maps (n, h, w) uint8 of each stage, fine to coarse, each scaled to 0..255.
        positions: of the images in the test set.
        labels: names of their classes.
        predicted: names of the classes that the network gives them.
    """

    images: tuple[Tensor, ...]
    stages: tuple[Tensor, ...]
    positions: tuple[int, ...]
    labels: tuple[str, ...]
    predicted: tuple[str, ...]


def shown_positions(labels: Tensor, classes: int, count: int = SHOWN) -> list[int]:
    """The first image of each of ``count`` classes that lie evenly among all; no choice by eye.

    Classes of which there is no image are passed over.
    """
    wanted = dict.fromkeys(place * classes // count for place in range(count))
    return [int((labels == one).nonzero()[0]) for one in wanted if bool((labels == one).any())]


def attention_maps_of(network: nn.Module, data: ImageData) -> AttentionMaps:
    """Maps, and answers, for the images of :func:`shown_positions`."""
    positions = shown_positions(data.labels, len(data.classes))
    pieces = [data.part(place, place + 1) for place in positions]
    maps = [attention_on(network, piece) for piece in pieces]
    answers = [int(predict(network, piece).argmax()) for piece in pieces]
    return AttentionMaps(
        images=tuple(pixels_of(piece)[0] for piece in pieces),
        stages=tuple(_as_bytes(torch.cat(stage)) for stage in zip(*maps, strict=True)),
        positions=tuple(positions),
        labels=tuple(data.classes[int(data.labels[place])] for place in positions),
        predicted=tuple(data.classes[answer] for answer in answers),
    )


def save_maps(directory: Path, maps: AttentionMaps) -> None:
    """Write the maps' file into a run's directory, whole or not at all."""
    tensors = {f"stage_{number}": stage for number, stage in enumerate(maps.stages, 1)}
    for number, image in enumerate(maps.images, 1):
        tensors[f"image_{number}"] = as_jpeg(image)
    facts = {"positions": maps.positions, "labels": maps.labels, "predicted": maps.predicted}
    save_tensors(Path(directory) / MAPS_FILE, tensors, facts)


def load_maps(directory: Path) -> AttentionMaps:
    """Read what :func:`save_maps` wrote.

    Raises:
        KdlibError: the file is missing or damaged.
    """
    tensors, facts = load_tensors(Path(directory) / MAPS_FILE)
    return AttentionMaps(
        images=tuple(from_jpeg(one) for one in _numbered(tensors, "image_")),
        stages=tuple(_numbered(tensors, "stage_")),
        **{name: tuple(facts[name]) for name in ("positions", "labels", "predicted")},
    )


def _numbered(tensors: dict[str, Tensor], prefix: str) -> Sequence[Tensor]:
    count = sum(name.startswith(prefix) for name in tensors)
    return [tensors[f"{prefix}{number}"] for number in range(1, count + 1)]


def _as_bytes(maps: Tensor) -> Tensor:
    """Each map (n, h, w) scaled to 0..255; a flat one becomes 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    scaled = (maps - low) / (high - low).masked_fill(high == low, 1)
    return (255 * scaled).round().to(torch.uint8)


# Accuracy under corruptions of the images.
ROBUSTNESS_IMAGES = 2000
ROBUSTNESS_CHUNK = 250  # images whose corrupted versions are in memory at once


def robustness(
    network: nn.Module, data: ImageData, precision: str = "float32"
) -> dict[str, dict[str, Any]]:
    """Top-1 accuracy (0..1) on the first 2,000 images, whole (level 0) and corrupted.

    Returns:
        Name of a corruption -> ``level`` and ``top1``, equally long lists.
    """
    part = data.first(ROBUSTNESS_IMAGES)
    hits = {name: [0] * (1 + len(one.levels)) for name, one in CORRUPTIONS.items()}
    for start in range(0, len(part), ROBUSTNESS_CHUNK):
        piece = part.part(start, min(start + ROBUSTNESS_CHUNK, len(part)))
        positions = torch.arange(start, start + len(piece))
        whole = _hits(network, piece, precision)
        for name, corruption in CORRUPTIONS.items():
            hits[name][0] += whole
            for level, images in enumerate(corruption.versions(piece, positions), 1):
                hits[name][level] += _hits(network, replace(piece, images=images), precision)
    return {
        name: {"level": [0.0, *one.levels], "top1": [count / len(part) for count in hits[name]]}
        for name, one in CORRUPTIONS.items()
    }


def _hits(network: nn.Module, data: ImageData, precision: str) -> int:
    predicted = predict(network, data, precision=precision).argmax(1)
    return int((predicted == data.labels).sum())


# How fine is the structure of attention maps? Energy of their DCT by frequency.
SPECTRA_IMAGES = 2000
SPECTRA_CHUNK = 250


def mean_spectra(network: nn.Module, data: ImageData) -> list[list[float]]:
    """Mean of :func:`radial_energy` over the first 2,000 images, a list a stage, fine to coarse."""
    part = data.first(SPECTRA_IMAGES)
    sums: dict[int, Tensor] = {}
    for start in range(0, len(part), SPECTRA_CHUNK):
        piece = part.part(start, min(start + SPECTRA_CHUNK, len(part)))
        for stage, maps in enumerate(attention_on(network, piece)):
            energy = radial_energy(maps).sum(0)
            sums[stage] = sums[stage] + energy if stage in sums else energy
    # A flat map has no energy to share out; those that have some share 1 each.
    return [(total / total.sum().clamp_min(1)).tolist() for total in sums.values()]


def radial_energy(maps: Tensor) -> Tensor:
    """Share of a map's AC energy at each radial frequency: (B, H, W) -> (B, bands), float64.

    Band k holds the DCT's coefficients (u, v) with ``round(sqrt(u^2 + v^2)) = k``, in half
    periods an image, from 1 on, so that bands of maps of unequal size mean the same. The shares
    of a map add up to 1, those of a flat map to 0.
    """
    energy = dct_2d(maps.double()).square()
    energy[:, 0, 0] = 0
    # Rounding leaves a flat map some energy, next to nothing beside its own.
    floor = 1e-12 * maps.double().square().sum((1, 2)).clamp_min(1e-300)
    total = energy.sum((1, 2))
    shares = energy.flatten(1) / torch.where(total > floor, total, torch.inf)[:, None]
    bands = _bands(*maps.shape[1:]).flatten()
    return shares @ torch.nn.functional.one_hot(bands).double()[:, 1:]


def _bands(height: int, width: int) -> Tensor:
    squares = torch.arange(height)[:, None] ** 2 + torch.arange(width) ** 2
    return squares.double().sqrt().round().long()


TEACHER = "teacher"
KEY_METHODS = (TEACHER, "student", "kd", "at", "dct", "release_a", "at+kd", "dct+kd")
MAPS_SEED = 0
WEIGHTS = "weights.safetensors"


def analyse(
    root: Path,
    methods: Sequence[str] = KEY_METHODS,
    *,
    dataset: str | None = None,
    data_root: Path | None = None,
    maps_seed: int = MAPS_SEED,
    progress: bool = True,
) -> list[Path]:
    """Analyse the finished runs of a folder that were tested on a test set; one at a time.

    What is done stays done: killed and repeated, it goes on where it was. A run without weights
    (as where records are committed) is passed over.

    Args:
        root: the folder of runs.
        methods: which; ``teacher`` stands for the networks that taught.
        dataset: only runs on this data set; ``None`` for all.
        data_root: folder of the real data sets.
        maps_seed: runs of this seed keep their attention maps and answers too.
        progress: show a progress bar.

    Returns:
        The analyses written, in the order of the runs.

    Raises:
        KdlibError: an unknown method, no run of these, none of them with weights, or data that
            are missing.
    """
    from study.records import load_records

    table = load_records(Path(root))
    runs = chosen_runs(table, methods, dataset)
    trained = [row for row in runs if (Path(row["directory"]) / WEIGHTS).exists()]
    if not trained:
        raise KdlibError(
            f"No run of {', '.join(methods)} in {root} has its weights ({WEIGHTS}); analyse the "
            "folder that the runs were trained in."
        )
    waiting = [row for row in trained if not _is_done(row, maps_seed)]
    written = []
    with tqdm(waiting, desc="analyses", unit="run", disable=not progress) as bar:
        for row in bar:
            bar.set_postfix_str(f"{row['label']} s{row['init_seed']}")
            written.append(_analyse_run(row, data_root, maps_seed))
    return written


def chosen_runs(
    table: pd.DataFrame, methods: Sequence[str], dataset: str | None = None
) -> list[dict[str, Any]]:
    """Rows of the runs of these methods on test sets; those on the same data follow each other.

    Raises:
        KdlibError: an unknown method, or no such run.
    """
    from study.records import student_settings, teacher_runs

    for method in methods:
        if method != TEACHER:
            parse_method(method)
    tested = table[table["split"] == "train"]
    settings = student_settings(tested)
    teachers = pd.concat([teacher_runs(tested, one) for one in settings]) if settings else tested
    students = tested[tested["setting"].isin(settings) & tested["method"].isin(methods)]
    chosen = pd.concat([teachers.assign(label=TEACHER), students])
    chosen = chosen if TEACHER in methods else students
    if dataset is not None:
        chosen = chosen[chosen["dataset"] == dataset]
    if chosen.empty:
        where = f"the test set of {dataset}" if dataset else "a test set"
        raise KdlibError(f"There is no run of {', '.join(methods)} on {where} here.")
    order = [*_DATA, "setting", "label", "init_seed"]
    rows = chosen.drop_duplicates("run_id").sort_values(order, kind="stable").to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def analysis_of(
    network: nn.Module, data: ImageData, config: RunConfig, precision: str
) -> dict[str, Any]:
    """All that ``analysis.json`` says of a network, on the test set ``data``.

    Calibration is measured on all images, in the ``precision`` in which the record's accuracy
    was; robustness and spectra on the first 2,000.
    """
    logits = predict(network, data, precision=precision)
    source = provenance(config, "cpu", precision, data.fingerprint)
    source["versions"]["torchmetrics"] = version("torchmetrics")
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": config.run_id,
        "config_hash": config.config_hash,
        "images": min(ROBUSTNESS_IMAGES, len(data)),
        "calibration": calibration(logits, data.labels),
        "robustness": robustness(network, data, precision),
        "spectra": mean_spectra(network, data),
        "provenance": source,
    }


def _analyse_run(row: Mapping[str, Any], data_root: Path | None, maps_seed: int) -> Path:
    directory = Path(row["directory"])
    record = read_record(directory / "record.json")
    config = RunConfig.from_dict(record["config"])
    data = _test_data(*(getattr(config, name) for name in _DATA), data_root)
    network = trained_network(config, directory.parent, len(data.classes))
    network = network.to(memory_format=torch.channels_last)
    precision = record["provenance"]["precision"]
    if config.init_seed == maps_seed:
        save_maps(directory, attention_maps_of(network, data))
        found = answers_of(network, data, precision, pictures=row["label"] == TEACHER)
        save_answers(directory, found)
    analysis = analysis_of(network, data, config, precision)
    return write_analysis(directory, analysis)


_DATA = ("dataset", "attentions", "distractors", "image_size", "test_size")


@lru_cache(maxsize=1)
def _test_data(
    dataset: str, attentions: int, distractors: int, image_size: int, size: int | None,
    data_root: Path | None,
) -> ImageData:  # fmt: skip
    """The test set; kept for the next run, which is likely to be on it too."""
    return load_data(
        dataset, "test", size=size, image_size=image_size, attentions=attentions,
        distractors=distractors, data_root=data_root,
    )  # fmt: skip


def _is_done(row: dict[str, Any], maps_seed: int) -> bool:
    directory = Path(row["directory"])
    wanted = [MAPS_FILE, ANSWERS_FILE] if row["init_seed"] == maps_seed else []
    try:
        read_analysis(directory / FILES_FILE)
    except KdlibError:
        return False
    return all((directory / name).exists() for name in wanted)
