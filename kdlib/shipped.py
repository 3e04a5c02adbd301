"""Trained networks that ship with kdlib, by name; ``tools/build_weights.py`` makes their files."""

from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from torch import nn

from kdlib.errors import check_known
from kdlib.files import check_identity, load_tensors, load_weights
from kdlib.models import create_model
from kdlib.runs import RunConfig

HERE = Path(__file__).parent
FOLDER = HERE / "weights" if (HERE / "weights").is_dir() else HERE.parent / "weights"
MEND = "Put the shipped file back: git checkout HEAD -- weights, or install kdlib again."


def pretrained_names() -> list[str]:
    """Names that :func:`pretrained` knows."""
    found = (path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.safetensors"))
    return sorted(name.removesuffix(".safetensors") for name in found)


def card(name: str) -> dict[str, Any]:
    """What a shipped network's file says of it: run, configuration, data, accuracy, precision."""
    check_known("pretrained network", name, pretrained_names())
    path = FOLDER / f"{name}.safetensors"
    facts = load_tensors(path, MEND)[1]
    check_identity(path, facts, {"network": name}, MEND)
    return facts


def pretrained(name: str, **options: Any) -> nn.Module:
    """A trained network that ships with kdlib, such as ``scenes/teacher``: float32, in eval mode.

    ``options`` of :func:`kdlib.models.create_model`: those of detectors are no weights. An unknown
    name, or a file that is damaged or another network's, is a ``KdlibError``.
    """
    facts, path = card(name), FOLDER / f"{name}.safetensors"
    config, classes = RunConfig(**facts["config"]), facts["classes"]
    if config.method == "srm_dictionary":  # describes a network, and answers nothing
        blocks = resolve_name("kdlib.srm.stages:blocks_of")
        return blocks(load_tensors(path)[0], config.method_options).eval()
    network = create_model(config.student, classes, **options)
    load_weights(network, path, classes, {"network": name})
    return network.eval()
