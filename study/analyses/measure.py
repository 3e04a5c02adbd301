"""What ``kdlib analyse`` measures of each trained network of a folder, once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdlib.data import load_data
from kdlib.data.image_data import ImageData
from kdlib.errors import KdlibError
from kdlib.evaluate import attention_on, predict, trained_network
from kdlib.losses.dct import dct_2d
from kdlib.methods import parse_method
from kdlib.runs import RunConfig, provenance, read_record
from kdlib.seeds import generator
from kdlib.train import check_sources
from study.analyses import ANALYSIS_FILE, ANSWERS_FILE, KEY_METHODS, MAPS_FILE, files
from study.analyses.files import Answers, AttentionMaps
from study.analyses.objects import of_objects, removal
from study.records import load_records, student_settings, teacher_runs

if TYPE_CHECKING:
    from kdlib.data.photographs import Photographs

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
    root: Path, methods: Sequence[str] = KEY_METHODS, dataset: str | None = None,
    maps_seed: int = 0, data_root: Path | None = None,
) -> list[Path]:  # fmt: skip
    """Analyse the finished runs of a folder that were tested on a test set; returns what it wrote.

    What is done stays done: killed and repeated, it goes on where it was. Runs without weights
    (as where records are committed) are passed over. For the rest see the command of this name.
    """
    runs = chosen_runs(load_records(Path(root)), methods, dataset)
    trained = [row for row in runs if (Path(row["directory"]) / WEIGHTS).exists()]
    if not trained:
        raise KdlibError(
            f"No run of {', '.join(methods)} in {root} has its weights ({WEIGHTS}); analyse the "
            "folder that the runs were trained in."
        )
    for _, some in groupby(trained, itemgetter("setting")):  # what was kept is of their data too
        records = [read_record(Path(row["directory"]) / "record.json") for row in some]
        check_sources([RunConfig(**record["config"]) for record in records], Path(root), data_root)
    waiting = [row for row in trained if not _is_done(row, maps_seed)]
    bar = tqdm(waiting, desc="analyses", unit="run", disable=None)  # None: where nobody looks
    written = [_analyse_run(row, data_root, maps_seed) for row in bar]
    print(f"{len(written)} runs in {root} were analysed; those analysed before are kept")
    return written


def chosen_runs(
    table: pd.DataFrame, methods: Sequence[str], dataset: str | None
) -> list[dict[str, Any]]:
    """Rows of the methods' runs on test sets; those on the same data follow each other."""
    for method in set(methods) - {"teacher"}:
        parse_method(method)
    tested = table[table["split"] == "train"]
    if dataset is not None:
        tested = tested[tested["dataset"] == dataset]
    settings = student_settings(tested)
    students = tested[tested["setting"].isin(settings) & tested["method"].isin(methods)]
    teachers = [teacher_runs(tested, one).assign(label="teacher") for one in settings]
    chosen = pd.concat([*teachers, students] if "teacher" in methods else [students])
    if chosen.empty:
        where = f"the test set of {dataset}" if dataset else "a test set"
        raise KdlibError(f"There is no run of {', '.join(methods)} on {where} here.")
    order = [*DATA, "setting", "label", "init_seed"]
    return chosen.drop_duplicates("run_id").sort_values(order, kind="stable").to_dict("records")


def _is_done(row: Mapping[str, Any], maps_seed: int) -> bool:
    directory = Path(row["directory"])
    with suppress(KdlibError):
        files.read_analysis(directory / ANALYSIS_FILE)
        there = all((directory / one).exists() for one in (MAPS_FILE, ANSWERS_FILE))
        return there or not _is_shown(row, maps_seed)
    return False


def _is_shown(row: Mapping[str, Any], maps_seed: int) -> bool:
    """Whether maps and answers are kept: of a student's seed, and of teachers, whatever theirs."""
    return row["init_seed"] == maps_seed or row["label"] == "teacher"


def _analyse_run(row: Mapping[str, Any], data_root: Path | None, maps_seed: int) -> Path:
    """Calibration is measured on all images, robustness, spectra and answers on the first 2,000."""
    directory = Path(row["directory"])
    record = read_record(directory / "record.json")
    config, precision = RunConfig(**record["config"]), record["provenance"]["precision"]
    data = _test_data(data_root, **{name: getattr(config, name) for name in DATA})
    network = trained_network(config, directory.parent, len(data.classes))
    network = network.to(memory_format=torch.channels_last)
    if _is_shown(row, maps_seed):
        part = data.first(IMAGES)
        answers = predict(network, part, precision=precision).argmax(1)
        shown = tuple(pixels_of(part.first(PICTURES))) if row["label"] == "teacher" else ()
        files.save_maps(directory, attention_maps_of(network, data))
        files.save_answers(directory, Answers(part.labels, answers, data.classes, shown))
    source = provenance(config, "cpu", precision, data.fingerprint)
    source["versions"]["torchmetrics"] = version("torchmetrics")
    analysis = {
        "schema_version": 1, "run_id": config.run_id, "config_hash": config.config_hash,
        "images": min(IMAGES, len(data)),
        "calibration": calibration(predict(network, data, precision=precision), data.labels),
        "robustness": robustness(network, data, precision),
        "spectra": mean_spectra(network, data), "provenance": source,
    }  # fmt: skip
    if data.foreground is not None:
        cost = removal(network, config, data, data_root, precision=precision)
        analysis["objects"] = of_objects(network, data) | cost
    return files.write_analysis(directory, analysis)


@lru_cache(maxsize=1)
def _test_data(data_root: Path | None, dataset: str, test_size: int | None, **of: Any) -> ImageData:
    """The test set; kept for the next run, which is likely to be on it too."""
    return load_data(dataset, "test", size=test_size, data_root=data_root, **of)


def pixels_of(data: ImageData) -> Tensor:
    """Images (N, 3, H, W) uint8, all in memory; of photographs the middle."""
    images = data.images
    return images if isinstance(images, Tensor) else cast("Photographs", images).centres()


def _chunks(data: ImageData) -> Iterator[tuple[ImageData, Tensor]]:
    """The first 2,000 images, some at a time, with their positions."""
    for positions in torch.arange(min(IMAGES, len(data))).split(CHUNK):
        yield data.part(int(positions[0]), int(positions[-1]) + 1), positions


def attention_maps_of(network: nn.Module, data: ImageData) -> AttentionMaps:
    """Maps, and answers, for the images of :func:`shown_positions`."""
    positions = shown_positions(data.labels, len(data.classes))
    pieces = [data.part(place, place + 1) for place in positions]
    maps = [attention_on(network, piece) for piece in pieces]
    return AttentionMaps(
        images=tuple(pixels_of(piece)[0] for piece in pieces),
        stages=tuple(_as_bytes(torch.cat(stage)) for stage in zip(*maps, strict=True)),
        positions=tuple(positions),
        labels=tuple(data.classes[piece.labels[0]] for piece in pieces),
        predicted=tuple(data.classes[predict(network, piece).argmax()] for piece in pieces),
    )


def shown_positions(labels: Tensor, classes: int, count: int = SHOWN) -> list[int]:
    """The first image, if any, of each of ``count`` classes that lie evenly among all."""
    wanted = dict.fromkeys(place * classes // count for place in range(count))
    found = ((labels == one).nonzero().flatten().tolist() for one in wanted)
    return [places[0] for places in found if places]


def _as_bytes(maps: Tensor) -> Tensor:
    """Each map (n, h, w) scaled to 0..255; a flat one becomes 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    scaled = (maps - low) / (high - low).masked_fill(high == low, 1)
    return (255 * scaled).round().to(torch.uint8)


def calibration(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Does confidence say how often a network is right? (Guo et al. 2017, arXiv 1706.04599).

    Of logits (N, K) and labels (N,): ``ece``, the expected calibration error, 0..1; ``count``,
    ``confidence`` and ``accuracy`` of each of 15 equally wide bins of confidence (means, ``None``
    where a bin is empty).
    """
    from torchmetrics.functional.classification import multiclass_calibration_error  # 10 s

    probabilities = logits.double().softmax(1).clamp(max=LARGEST)
    ece = multiclass_calibration_error(probabilities, labels, logits.shape[1], n_bins=BINS)
    confidence, predicted = probabilities.max(1)
    edges = torch.linspace(0, 1, BINS + 1)
    place = torch.bucketize(confidence.float(), edges, right=True) - 1
    count = torch.bincount(place, minlength=BINS).tolist()
    means = {}
    for name, one in {"confidence": confidence, "accuracy": (predicted == labels).double()}.items():
        sums = zip(torch.bincount(place, one, BINS).tolist(), count, strict=True)
        means[name] = [total / n if n else None for total, n in sums]
    return {"ece": ece.item(), "count": count, **means}


def robustness(
    network: nn.Module, data: ImageData, precision: str = "float32"
) -> dict[str, dict[str, list[float]]]:
    """Top-1 accuracy (0..1) by ``level`` of each corruption, from 0, on the first 2,000 images."""
    count, whole = min(IMAGES, len(data)), 0
    hits = {name: [0] * len(levels) for name, (levels, _) in CORRUPTIONS.items()}
    for piece, positions in _chunks(data):
        whole += _hits(network, piece, precision)
        for name, (_, corrupted) in CORRUPTIONS.items():
            for level, images in enumerate(corrupted(piece, positions)):
                hits[name][level] += _hits(network, replace(piece, images=images), precision)
    return {
        name: {"level": [0.0, *levels], "top1": [one / count for one in (whole, *hits[name])]}
        for name, (levels, _) in CORRUPTIONS.items()
    }


def _hits(network: nn.Module, data: ImageData, precision: str) -> int:
    return int((predict(network, data, precision=precision).argmax(1) == data.labels).sum())


def noisy(data: ImageData, positions: Tensor) -> Iterator[Tensor]:
    """Images with Gaussian noise added, clipped to 0..255 again."""
    whole, streams = pixels_of(data), _streams("noise", positions)
    noise = torch.stack([torch.randn(whole.shape[1:], generator=one) for one in streams])
    for sigma in NOISE:
        noised = whole.float() + 255 * sigma * noise
        yield noised.round_().clamp_(0, 255).to(torch.uint8)


def occluded(data: ImageData, positions: Tensor) -> Iterator[Tensor]:
    """Images with a square, somewhere inside, of the mean colour of the data set."""
    whole = pixels_of(data)
    places = torch.stack([torch.rand(2, generator=one) for one in _streams("occlusion", positions)])
    colour = (torch.tensor(data.mean) * 255).round().to(torch.uint8).view(1, 3, 1, 1)
    for share in OCCLUSION:
        hidden = square_masks(places, share, *whole.shape[2:])
        yield torch.where(hidden[:, None], colour, whole)


def _streams(kind: str, positions: Tensor) -> Iterator[torch.Generator]:
    """An image's harm depends on its position in the data set alone."""
    return (generator(0, "corruption", kind, place) for place in positions.tolist())


# Levels, in a unit of its own, and what gives the images (N, 3, H, W) uint8 at each level.
Corruption = tuple[tuple[float, ...], Callable[[ImageData, Tensor], Iterator[Tensor]]]
CORRUPTIONS: dict[str, Corruption] = {"noise": (NOISE, noisy), "occlusion": (OCCLUSION, occluded)}


def square_masks(places: Tensor, share: float, height: int, width: int) -> Tensor:
    """Squares of ``share`` (0..1) of the area, as far as there is room: (N, H, W) bool.

    ``places``: (N, 2) in 0..1; 0 touches the top or the left edge, 1 the opposite one.
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
    maps = (attention_on(network, piece) for piece, _ in _chunks(data))
    parts = ([radial_energy(stage).sum(0) for stage in stages] for stages in maps)
    sums = (sum(stage[1:], stage[0]) for stage in zip(*parts, strict=True))
    # A flat map has no energy to share out; those that have some share 1 each.
    return [(total / total.sum().clamp_min(1)).tolist() for total in sums]


def radial_energy(maps: Tensor) -> Tensor:
    """Share of a map's AC energy at each radial frequency: (B, H, W) -> (B, bands), float64.

    Band k, from 1 on, holds the DCT's coefficients (u, v) with ``round(sqrt(u^2 + v^2)) = k``, in
    half periods per image. The shares of a map add up to 1, those of a flat map to 0.
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
