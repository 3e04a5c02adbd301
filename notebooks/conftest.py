"""nbval's kernels get private sockets too: two started at once cannot take one port.

And stderr is not compared: progress bars differ from run to run, and are not stored.
"""

from collections.abc import Iterable
from typing import Any

import nbval.kernel
import nbval.plugin

from study.notebooks import PrivateSockets

nbval.kernel.KernelManager = PrivateSockets
_streams = nbval.plugin.transform_streams_for_comparison


def _without_stderr(outputs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return _streams(out for out in outputs if out.get("name") != "stderr")


nbval.plugin.transform_streams_for_comparison = _without_stderr
