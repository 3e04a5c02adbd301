"""torchvision's pretrained weights by name, and what to do where they cannot be downloaded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

from torch import hub, nn
from torchvision import models

from kdlib.errors import KdlibError, unknown


@contextmanager
def fetching(build: Callable[..., nn.Module], weights: str | None) -> Iterator[None]:
    """Build inside with ``weights`` of the network that ``build`` makes; None needs none.

    Raises:
        KdlibError: no such weights for this network, or no way to download them.
    """
    valid = models.get_model_weights(build).__members__
    if weights is not None and weights not in valid:
        raise unknown(f"weights of {build.__name__}", weights, valid)
    try:
        yield
    except URLError as error:
        cache, url = Path(hub.get_dir(), "checkpoints"), valid[str(weights)].url
        text = f"Cannot download the weights '{weights}' ({error.reason}): put {url} in {cache}."
        raise KdlibError(text) from error
