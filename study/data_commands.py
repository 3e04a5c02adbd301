"""The commands `kdlib data check`, `cache`, `clean` and `import`; PyTorch is imported within."""

import hashlib
import shutil
import time
import zlib
from collections import defaultdict
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated

from cyclopts import Parameter

from kdlib.data import dataset_names, listed, load_data, tasks_of
from kdlib.errors import KdlibError, check_known, unknown
from study import named
from study.arguments import Count

All = Annotated[bool, Parameter("--all", negative=())]
CHECKED, SHOWN = 64, 6  # images of a split that are read; class names that are shown
PUBLISHED = named("published.yaml")
SHA256 = PUBLISHED["sha256"]


def check_dataset(dataset: str, *, data_root: Path | None = None, all_: All = False) -> None:
    """Load a data set, read some of its images, and tell what it holds.

    Args:
        dataset: name of the data set.
        data_root: folder of the real data sets; by default $KDLIB_DATA.
        all_: read all of its images, which of photographs takes a while.
    """
    tasks = tasks_of(dataset)[:1] if dataset in dataset_names() else ("classification",)
    if dataset == "voc":  # those whose lists are there
        from kdlib.data.image_data import checked_root
        from kdlib.frskd.voc import LISTS

        lists = checked_root(data_root) / "VOCdevkit" / "VOC2007" / "ImageSets"
        there = tuple(task for task, folder in LISTS.items() if (lists / folder).is_dir())
        tasks = there or ("segmentation",)
    for split in ("train", "test"):
        for task in tasks:
            print(_checked(dataset, split, task, data_root, all_))


def _checked(name: str, split: str, task: str, data_root: Path | None, every: bool) -> str:
    from tqdm import tqdm

    from kdlib.data.batches import Batches
    from kdlib.detection.batches import DetectionBatches

    published = PUBLISHED["counts"].get(task, {}).get(name)
    # Scenes would be composed.
    whole = every or published is not None or name in listed() or name == "voc"
    data = load_data(name, split, size=None if whole else CHECKED, data_root=data_root, task=task)
    few = data if every else data.first(CHECKED)
    detected = task == "detection"
    batches = DetectionBatches(few, 8) if detected else Batches(few, 8)
    for _ in tqdm(batches.in_order(), f"{name}, {split}", len(batches), unit_scale=8, delay=1):
        pass
    read = len(few if hasattr(data.images, "read") else data)  # tensors are checked as a whole
    images, classes = f"{read:,} of {len(data):,} images read", f"{len(data.classes):,} classes"
    if published is not None:
        images += f" (published: {published[split == 'test']:,})"
        classes += f" (published: {published[2]:,})"
    if data.objects is not None:
        images += f", {len(data.objects.kinds):,} objects"
    counts = f"{images}, {classes}" if whole else f"{read:,} images made, {classes}"
    names = ", ".join([*data.classes[:SHOWN], *["..."] * (len(data.classes) > SHOWN)])
    return f"{name}, {split}{', objects' * detected}: {counts} ({names})"


def cache_dataset(
    dataset: str, *, image_size: Count = 224, workers: Count | None = None,
    data_root: Path | None = None,
) -> None:  # fmt: skip
    """Resize photographs once, so that epochs need not decode them.

    They are kept in $KDLIB_CACHE, a file each. Interrupt and repeat at will; what changes in the
    data set is noticed.

    Args:
        dataset: name of the data set.
        image_size: of the runs that will read it; photographs are resized to 256/224 of it.
        workers: threads; by default $KDLIB_WORKERS, or one a core.
        data_root: folder of the real data sets; by default $KDLIB_DATA.
    """
    if dataset not in dataset_names():
        raise unknown("data set", dataset, listed())
    if dataset not in listed():
        raise KdlibError(
            f"'{dataset}' needs no cache of photographs: it is held in memory, or made once and "
            f"kept. Those that can have one: {', '.join(listed())}."
        )
    from kdlib.data.photographs import Resized, worker_count

    for split in ("train", "test"):
        start = time.perf_counter()
        source = Resized(resolve_name(listed()[dataset]), split, image_size, data_root)
        folder = source.build(workers or worker_count())
        size = sum(path.stat().st_size for path in folder.glob("[!.]*.safetensors")) / 1e9
        seconds, count = time.perf_counter() - start, len(source.listing.names)
        print(
            f"{dataset}, {split}: {count:,} photographs, {size:.2f} GB, {seconds:.0f} s: {folder}"
        )


def clean_cache(*kinds: str) -> None:
    """List what the cache keeps, kind by kind, and remove the kinds that are given.

    Runs make again what they need. Nothing should run meanwhile.

    Args:
        kinds: such as answers and stages, which teachers gave; by default nothing is removed.
    """
    from kdlib.files import cache_root

    held = defaultdict[str, list[Path]](list)
    for path in cache_root().glob("[!.]*"):
        held[path.name.partition("-")[0]].append(path)
    for kind in kinds:
        check_known("kind of cache", kind, held)
    for kind, paths in sorted(held.items()):
        found = [file for path in paths for file in (path, *path.rglob("*")) if file.is_file()]
        size = sum(file.stat().st_size for file in found) / 1e6
        for path in paths if kind in kinds else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        print(f"{kind}: {len(found):,} files, {size:,.1f} MB{', removed' * (kind in kinds)}")
    print(cache_root())


DEBIAN = Path("/usr/share/datasets/fashion-mnist")
IMPORTABLE = ("fashion_mnist", "fashion_scenes")


def import_dataset(
    dataset: str, *, source: Annotated[Path | None, Parameter("--from")] = None,
    data_root: Path | None = None,
) -> None:  # fmt: skip
    """Check the four files of Fashion-MNIST, plain or gzipped, and unpack them into place.

    Args:
        dataset: fashion_mnist or fashion_scenes, which share their files.
        source: where the files lie; by default where Debian's package puts them.
        data_root: folder of the real data sets, made if need be; by default $KDLIB_DATA.
    """
    check_known("data set to import", dataset, IMPORTABLE)
    from kdlib.data.fashion import FOLDER
    from kdlib.data.image_data import checked_root
    from kdlib.files import write_atomic

    target = checked_root(data_root, exists=False) / FOLDER
    contents = {name: _published(source or DEBIAN, name) for name in SHA256}
    try:
        for name, content in contents.items():
            write_atomic(target / name, partial(Path.write_bytes, data=content))
    except OSError as error:
        raise KdlibError(f"{target} cannot be written to ({error}).") from error
    print(f"{dataset}: {len(contents)} files checked and unpacked into {target}")


def _published(source: Path, name: str) -> bytes:
    """Content of a file, unpacked, if it is the published one."""
    from kdlib.data.fashion import unpacked

    path = source / name
    try:
        content = unpacked(path)
    except FileNotFoundError as error:
        files = "\n".join(f"  {source / name} (or .gz)" for name in SHA256)
        raise KdlibError(
            f"{path} is missing. Expected:\n{files}\n"
            "Give their folder by --from FOLDER, or: sudo apt-get install dataset-fashion-mnist"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise KdlibError(f"{path} (or .gz) cannot be read ({error}).") from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        raise KdlibError(
            f"{path} is not the published file: the SHA-256 of its content is {found}, "
            f"expected {SHA256[name]}."
        )
    return content
