"""torchvision's pretrained weights by name, and what to do where they cannot be downloaded."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from urllib.error import URLError

from torch import hub, nn
from torchvision import models

from kdlib.errors import KdlibError, unknown

FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@contextmanager
def fetching(build: Callable[..., nn.Module], weights: str | None) -> Iterator[None]:
    """Build inside with ``weights`` of the network that ``build`` makes; None needs none.

    torchvision's files are pickles, and a file that is there is taken without a look at its hash:
    inside, they are read as weights alone, and no code in them is run.

    Raises:
        KdlibError: no such weights for this network, no way to download them, or a file in their
            place that is something else.
    """
    valid = models.get_model_weights(build).__members__
    if weights is not None and weights not in valid:
        raise unknown(f"weights of {build.__name__}", weights, valid)
    cache = Path(hub.get_dir(), "checkpoints")
    try:
        with _weights_only():
            yield
    except URLError as error:
        url = valid[str(weights)].url
        text = f"Cannot download the weights '{weights}' ({error.reason}): put {url} in {cache}."
        raise KdlibError(text) from error
    except (UnpicklingError, EOFError) as error:
        text = f"{cache} holds a file that is no weights '{weights}'; delete it, and run again."
        raise KdlibError(text) from error


@contextmanager
def _weights_only() -> Iterator[None]:
    """Let ``torch.load`` read nothing but tensors, whatever its caller asks for."""
    before = os.environ.get(FORCED)
    os.environ[FORCED] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FORCED]
        else:
            os.environ[FORCED] = before
