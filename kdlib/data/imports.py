"""Bring data sets that are already on this machine into the data root."""

import gzip
import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path

from kdlib.data.fashion import FOLDER, file_names
from kdlib.data.roots import data_root, missing
from kdlib.errors import KdlibError, unknown
from kdlib.files import write_atomic

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
SHA256 = {
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
}
"""Of the files once gunzipped: Debian compresses them anew, so sums of the archives differ."""


def import_fashion(source: Path, root: Path) -> Path:
    """Copy Fashion-MNIST's four files, gunzipped, after all of them were checked.

    Raises:
        KdlibError: a file is missing, damaged, or not the one that was published.
    """
    contents = {name: _content(source, name) for name in file_names()}
    for name, content in contents.items():
        write_bytes(root / FOLDER / name, content)
    return root / FOLDER


def write_bytes(path: Path, content: bytes) -> None:
    """Atomically write bytes."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomic(path, write)


def _content(source: Path, name: str) -> bytes:
    content = _read(source, name)
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        raise KdlibError(
            f"{source / name} is not the published file: its SHA-256 is {found}, not "
            f"{SHA256[name]}. Get it again; nothing was imported."
        )
    return content


def _read(source: Path, name: str) -> bytes:
    packed, plain = source / f"{name}.gz", source / name
    if plain.exists():
        return plain.read_bytes()
    if not packed.exists():
        layout = "\n".join(f"{name} (or .gz)" for name in file_names())
        raise missing("fashion_mnist", source, layout, "install Debian's dataset-fashion-mnist")
    try:
        return gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise KdlibError(f"{packed} is damaged ({error}); nothing was imported.") from error


IMPORTS: dict[str, Callable[[Path, Path], Path]] = {
    "fashion_mnist": import_fashion,
    "fashion_scenes": import_fashion,
}


def import_dataset(name: str, source: Path | None, root: Path | None) -> Path:
    """Import a data set into the data root; returns the folder of its files.

    Args:
        name: of the data set.
        source: folder of the files; by default where Debian's package puts them.
        root: the data root, made if need be; by default the variable ``KDLIB_DATA``.

    Raises:
        KdlibError: the data set cannot be imported, or its files are missing or damaged.
    """
    if name not in IMPORTS:
        raise unknown("data set to import", name, IMPORTS)
    if root is not None:
        root.mkdir(parents=True, exist_ok=True)
    return IMPORTS[name](source or DEBIAN, data_root(root))
