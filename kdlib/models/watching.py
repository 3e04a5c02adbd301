"""See what a method of someone else's class is given and returns, without changing the class."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple


class Call(NamedTuple):
    """One call of a watched method.

    Attributes:
        given: its arguments by name, whether they were given by position or by name.
        result: what it returned.
    """

    given: dict[str, Any]
    result: Any


@contextmanager
def watched(owner: object, method: str) -> Iterator[list[Call]]:
    """Note every call of a method as long as the context is open; after it, all is as before.

    For torchvision's detectors, which hand their matching to a method of their own and return
    sums only. Nothing stays on the object, so that no graph of a step outlives it.

    Args:
        owner: the object; of an ``nn.Module``, ``forward`` can be watched too.
        method: name of the method.

    Yields:
        The calls, in their order.
    """
    calls: list[Call] = []
    original, own = getattr(owner, method), vars(owner).get(method)
    signature = inspect.signature(original)

    @wraps(original)
    def noting(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        calls.append(Call(dict(signature.bind(*args, **kwargs).arguments), result))
        return result

    setattr(owner, method, noting)  # on the object: it hides the class's method
    try:
        yield calls
    finally:
        delattr(owner, method)
        if own is not None:  # it hid the class's method before
            setattr(owner, method, own)
