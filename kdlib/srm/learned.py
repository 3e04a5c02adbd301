"""Dictionaries of finished runs."""

from pathlib import Path

from kdlib.checkpoints import load_tensors
from kdlib.distillers.sparse_options import SrmOptions
from kdlib.distillers.sparse_representation import Dictionaries
from kdlib.models.output import Shapes
from kdlib.runs import RunConfig, run_directory

PREFIX = "blocks."


def learned_dictionaries(config: RunConfig, root: Path) -> Dictionaries:
    """What a finished run of ``srm_dictionary`` learned, a block a stage of its teacher.

    Raises:
        KdlibError: there are no such weights.
    """
    tensors, _ = load_tensors(run_directory(config, Path(root)) / "weights.safetensors")
    named = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    widths = [tensor.shape[0] for name, tensor in named.items() if name.endswith(".atoms")]
    shapes = Shapes(tuple((channels, 1, 1) for channels in widths), 0)
    made = Dictionaries(shapes, SrmOptions.given(config.method_options))
    made.load_state_dict(named)
    return made.requires_grad_(False)
