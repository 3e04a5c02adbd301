"""Bringing a data set that is on this machine into place: checked, then whole or not at all."""

import gzip
import hashlib
import zlib
from functools import partial
from pathlib import Path

from kdlib.data.fashion import FOLDER
from kdlib.data.roots import chosen_root
from kdlib.errors import KdlibError, unknown
from kdlib.files import write_atomic

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
IMPORTABLE = ("fashion_mnist", "fashion_scenes")
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""Of the unpacked files. torchvision publishes MD5 sums of the authors' gzipped files, which
Debian's differ from: its packaging drops name and time from their headers. With these put back
the sums are torchvision's, so the content is the published one (a test does just that)."""


def import_dataset(dataset: str, source: Path | None = None, data_root: Path | None = None) -> str:
    """Check the Fashion-MNIST files in a folder and unpack them to where loaders look.

    Args:
        dataset: ``fashion_mnist`` or ``fashion_scenes``; they share their files.
        source: folder of the four files, plain or gzipped; ``None`` for that of Debian's package
            ``dataset-fashion-mnist``.
        data_root: the folder of data sets, made if need be; ``None`` reads ``KDLIB_DATA``.

    Returns:
        A sentence that says what was done.

    Raises:
        KdlibError: a file is missing or is not the published one, or the place cannot be written.
    """
    if dataset not in IMPORTABLE:
        raise unknown("data set to import", dataset, IMPORTABLE)
    target = chosen_root(data_root) / FOLDER
    contents = {name: _published(_find(source or DEBIAN, name), name) for name in SHA256}
    try:
        for name, content in contents.items():
            write_atomic(target / name, partial(_write, content))
    except OSError as error:
        raise KdlibError(f"{target} cannot be written to ({error}).") from error
    return f"{dataset}: {len(contents)} files checked and unpacked into {target}"


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _find(source: Path, name: str) -> Path:
    for path in (source / name, source / f"{name}.gz"):
        if path.is_file():
            return path
    files = "\n".join(f"  {source / name} (or .gz)" for name in SHA256)
    raise KdlibError(
        f"{source / name} is missing. Expected:\n{files}\n"
        "Give their folder by --from FOLDER, or: sudo apt-get install dataset-fashion-mnist"
    )


def _published(path: Path, name: str) -> bytes:
    """Content of a file, unpacked, if it is the published one."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise KdlibError(f"{path} cannot be read ({error}).") from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        raise KdlibError(
            f"{path} is not the published file: the SHA-256 of its content is {found}, "
            f"expected {SHA256[name]}."
        )
    return content
