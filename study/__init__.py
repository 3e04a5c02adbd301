"""The evidence: profiles and jobs, records, tables, statistics, figures, pages, commands."""

from pathlib import Path
from typing import Any

from kdlib.errors import KdlibError

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def of_clone(folder: Path) -> Path:
    """A folder that the study reads and that only the repository has; else a KdlibError."""
    if not folder.is_dir():
        raise KdlibError(
            f"There is no {folder.name}/ beside the installed study: it belongs to the repository. "
            "Clone that and install it in place: python -m pip install --editable '.[notebooks]'"
        )
    return folder


def named(file: str) -> dict[str, Any]:
    """What a YAML file of the study names, such as ``names.yaml``."""
    import yaml

    return yaml.safe_load((Path(__file__).parent / file).read_text(encoding="utf-8"))
