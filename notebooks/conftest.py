"""nbval's kernels get private sockets too: two started at once cannot take one port."""

import nbval.kernel

from kdlib.execute import PrivateSockets

nbval.kernel.KernelManager = PrivateSockets
