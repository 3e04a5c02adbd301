"""What ``kdlib analyse`` measures of each trained network of a folder, once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdlib.data import load_data
from kdlib.data.image_data import ImageData
from kdlib.data.photographs import Photographs
from kdlib.errors import KdlibError
from kdlib.evaluate import attention_on, predict, trained_network
from kdlib.losses.dct import dct_2d
from kdlib.methods import parse_method
from kdlib.runs import RunConfig, provenance, read_record
from kdlib.seeds import generator
from study.analyses import ANALYSIS_FILE, ANSWERS_FILE, KEY_METHODS, MAPS_FILE
from study.analyses.files import (
    Answers,
    AttentionMaps,
    read_analysis,
    save_answers,
    save_maps,
    write_analysis,
)
from study.records import load_records, student_settings, teacher_runs

TEACHER = "teacher"
WEIGHTS = "weights.safetensors"
IMAGES, CHUNK = 2000, 250  # images of robustness, spectra and answers; those in memory at once
PICTURES = 60  # of the images, from the first on, that a teacher keeps
SHOWN = 4  # images whose attention maps are kept
BINS = 15
LARGEST = 1 - 2**-24  # below 1 in float32: torchmetrics puts a confidence of 1 into a 16th bin
NOISE = (0.025, 0.05, 0.075, 0.1)  # standard deviation, where black is 0 and white 1
OCCLUSION = (0.05, 0.1, 0.2, 0.3)  # share of the image's area
DATA = ("dataset", "attentions", "distractors", "image_size", "test_size")


def analyse(
    root: Path,
    methods: Sequence[str] = KEY_METHODS,
    *,
    dataset: str | None = None,
    data_root: Path | None = None,
    maps_seed: int = 0,
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
    runs = chosen_runs(load_records(Path(root)), methods, dataset)
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
    for method in set(methods) - {TEACHER}:
        parse_method(method)
    tested = table[table["split"] == "train"]
    if dataset is not None:
        tested = tested[tested["dataset"] == dataset]
    settings = student_settings(tested)
    students = tested[tested["setting"].isin(settings) & tested["method"].isin(methods)]
    teachers = [teacher_runs(tested, one).assign(label=TEACHER) for one in settings]
    chosen = pd.concat([*teachers, students] if TEACHER in methods else [students])
    if chosen.empty:
        where = f"the test set of {dataset}" if dataset else "a test set"
        raise KdlibError(f"There is no run of {', '.join(methods)} on {where} here.")
    order = [*DATA, "setting", "label", "init_seed"]
    return chosen.drop_duplicates("run_id").sort_values(order, kind="stable").to_dict("records")


def _is_done(row: Mapping[str, Any], maps_seed: int) -> bool:
    directory = Path(row["directory"])
    wanted = [MAPS_FILE, ANSWERS_FILE] if row["init_seed"] == maps_seed else []
    try:
        read_analysis(directory / ANALYSIS_FILE)
    except KdlibError:
        return False
    return all((directory / name).exists() for name in wanted)


def _analyse_run(row: Mapping[str, Any], data_root: Path | None, maps_seed: int) -> Path:
    directory = Path(row["directory"])
    record = read_record(directory / "record.json")
    config = RunConfig.from_dict(record["config"])
    data = _test_data(data_root, **{name: getattr(config, name) for name in DATA})
    network = trained_network(config, directory.parent, len(data.classes))
    network = network.to(memory_format=torch.channels_last)
    precision = record["provenance"]["precision"]
    if config.init_seed == maps_seed:
        save_maps(directory, attention_maps_of(network, data))
        save_answers(directory, answers_of(network, data, precision, row["label"] == TEACHER))
    return write_analysis(directory, analysis_of(network, data, config, precision))


@lru_cache(maxsize=1)
def _test_data(data_root: Path | None, dataset: str, test_size: int | None, **of: Any) -> ImageData:
    """The test set; kept for the next run, which is likely to be on it too."""
    return load_data(dataset, "test", size=test_size, data_root=data_root, **of)


def analysis_of(
    network: nn.Module, data: ImageData, config: RunConfig, precision: str
) -> dict[str, Any]:
    """All that ``analysis.json`` says of a network, on the test set ``data``.

    Calibration is measured on all images, in the ``precision`` in which the record's accuracy
    was; robustness and spectra on the first 2,000.
    """
    source = provenance(config, "cpu", precision, data.fingerprint)
    source["versions"]["torchmetrics"] = version("torchmetrics")
    return {
        "schema_version": 1,
        "run_id": config.run_id,
        "config_hash": config.config_hash,
        "images": min(IMAGES, len(data)),
        "calibration": calibration(predict(network, data, precision=precision), data.labels),
        "robustness": robustness(network, data, precision),
        "spectra": mean_spectra(network, data),
        "provenance": source,
    }


def pixels_of(data: ImageData) -> Tensor:
    """Images (N, 3, H, W) uint8, all in memory; of photographs the middle."""
    if isinstance(data.images, Tensor):
        return data.images
    return cast("Photographs", data.images).centres()


def _chunks(data: ImageData) -> Iterator[tuple[ImageData, Tensor]]:
    """The first 2,000 images, some at a time, with their positions."""
    count = min(IMAGES, len(data))
    for positions in torch.arange(count).split(CHUNK):
        yield data.part(int(positions[0]), int(positions[-1]) + 1), positions


def answers_of(network: nn.Module, data: ImageData, precision: str, pictures: bool) -> Answers:
    """Answers to the first 2,000 images, with the first 60 as ``pictures`` if wanted."""
    part = data.first(IMAGES)
    answers = predict(network, part, precision=precision).argmax(1)
    images = tuple(pixels_of(part.first(PICTURES))) if pictures else ()
    return Answers(part.labels, answers, data.classes, images)


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


def shown_positions(labels: Tensor, classes: int, count: int = SHOWN) -> list[int]:
    """The first image of each of ``count`` classes that lie evenly among all; no choice by eye.

    Classes of which there is no image are passed over.
    """
    wanted = dict.fromkeys(place * classes // count for place in range(count))
    return [int((labels == one).nonzero()[0]) for one in wanted if bool((labels == one).any())]


def _as_bytes(maps: Tensor) -> Tensor:
    """Each map (n, h, w) scaled to 0..255; a flat one becomes 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    scaled = (maps - low) / (high - low).masked_fill(high == low, 1)
    return (255 * scaled).round().to(torch.uint8)


def calibration(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Does confidence say how often a network is right? (Guo et al. 2017, arXiv 1706.04599).

    Args:
        logits: (N, K).
        labels: (N,).

    Returns:
        ``ece``, the expected calibration error, 0..1; ``count``, ``confidence`` and ``accuracy``
        of each of 15 equally wide bins of confidence (means, ``None`` where a bin is empty).
    """
    from torchmetrics.functional.classification import multiclass_calibration_error  # 10 s

    probabilities = logits.double().softmax(1).clamp(max=LARGEST)
    ece = multiclass_calibration_error(probabilities, labels, logits.shape[1], n_bins=BINS)
    confidence, predicted = probabilities.max(1)
    edges = torch.linspace(0, 1, BINS + 1)
    place = torch.bucketize(confidence.float(), edges, right=True) - 1
    count = torch.bincount(place, minlength=BINS).tolist()

    def means(values: Tensor) -> list[float | None]:
        sums = torch.bincount(place, weights=values, minlength=BINS).tolist()
        return [total / n if n else None for total, n in zip(sums, count, strict=True)]

    right = (predicted == labels).double()
    means_of = {"confidence": means(confidence), "accuracy": means(right)}
    return {"ece": ece.item(), "count": count, **means_of}


def robustness(
    network: nn.Module, data: ImageData, precision: str = "float32"
) -> dict[str, dict[str, Any]]:
    """Top-1 accuracy (0..1) on the first 2,000 images, whole (level 0) and corrupted.

    Returns:
        Name of a corruption -> ``level`` and ``top1``, equally long lists.
    """
    hits = {name: [0] * (1 + len(levels)) for name, (levels, _) in CORRUPTIONS.items()}
    for piece, positions in _chunks(data):
        whole = _hits(network, piece, precision)
        for name, (_, corrupted) in CORRUPTIONS.items():
            hits[name][0] += whole
            for level, images in enumerate(corrupted(piece, positions), 1):
                hits[name][level] += _hits(network, replace(piece, images=images), precision)
    count = min(IMAGES, len(data))
    return {
        name: {"level": [0.0, *levels], "top1": [one / count for one in hits[name]]}
        for name, (levels, _) in CORRUPTIONS.items()
    }


def _hits(network: nn.Module, data: ImageData, precision: str) -> int:
    predicted = predict(network, data, precision=precision).argmax(1)
    return int((predicted == data.labels).sum())


def noisy(data: ImageData, positions: Tensor) -> Iterator[Tensor]:
    """Images with Gaussian noise added, clipped to 0..255 again."""
    whole = pixels_of(data)
    streams = (_stream("noise", place) for place in positions.tolist())
    noise = torch.stack([torch.randn(whole.shape[1:], generator=stream) for stream in streams])
    for sigma in NOISE:
        noised = whole.float() + 255 * sigma * noise
        yield noised.round_().clamp_(0, 255).to(torch.uint8)


def occluded(data: ImageData, positions: Tensor) -> Iterator[Tensor]:
    """Images with a square, somewhere inside, of the mean colour of the data set."""
    whole = pixels_of(data)
    streams = (_stream("occlusion", place) for place in positions.tolist())
    places = torch.stack([torch.rand(2, generator=stream) for stream in streams])
    colour = (torch.tensor(data.mean) * 255).round().to(torch.uint8).view(1, 3, 1, 1)
    for share in OCCLUSION:
        hidden = square_masks(places, share, *whole.shape[2:])
        yield torch.where(hidden[:, None], colour, whole)


def _stream(kind: str, place: int) -> torch.Generator:
    """An image's harm depends on its position in the data set alone."""
    return generator(0, "corruption", kind, place)


# Levels, in a unit of its own, and what gives the images (N, 3, H, W) uint8 at each level.
Corruption = tuple[tuple[float, ...], Callable[[ImageData, Tensor], Iterator[Tensor]]]
CORRUPTIONS: dict[str, Corruption] = {
    "noise": (NOISE, noisy),
    "occlusion": (OCCLUSION, occluded),
}


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


def mean_spectra(network: nn.Module, data: ImageData) -> list[list[float]]:
    """Mean of :func:`radial_energy` over the first 2,000 images, a list a stage, fine to coarse."""
    parts = [
        [radial_energy(maps).sum(0) for maps in attention_on(network, piece)]
        for piece, _ in _chunks(data)
    ]
    sums = [sum(stage[1:], stage[0]) for stage in zip(*parts, strict=True)]
    # A flat map has no energy to share out; those that have some share 1 each.
    return [(total / total.sum().clamp_min(1)).tolist() for total in sums]


def radial_energy(maps: Tensor) -> Tensor:
    """Share of a map's AC energy at each radial frequency: (B, H, W) -> (B, bands), float64.

    Band k holds the DCT's coefficients (u, v) with ``round(sqrt(u^2 + v^2)) = k``, in half
    periods per image, from 1 on, so that bands of maps of unequal size mean the same. The shares
    of a map add up to 1, those of a flat map to 0.
    """
    energy = dct_2d(maps.double()).square()
    energy[:, 0, 0] = 0
    # Rounding leaves a flat map some energy, next to nothing beside its own.
    floor = 1e-12 * maps.double().square().sum((1, 2)).clamp_min(1e-300)
    total = energy.sum((1, 2))
    shares = energy.flatten(1) / torch.where(total > floor, total, torch.inf)[:, None]
    rows, columns = (torch.arange(size) ** 2 for size in maps.shape[1:])
    bands = (rows[:, None] + columns).double().sqrt().round().long().flatten()
    return shares @ nn.functional.one_hot(bands).double()[:, 1:]
