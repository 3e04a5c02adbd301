"""The error of a file that is not what it was made from."""

from kdlib.errors import KdlibError


class ExportError(KdlibError):
    """An exported network does not answer as PyTorch's does, or not as well as its record says."""
