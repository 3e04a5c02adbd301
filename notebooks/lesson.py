"""What the notebooks of the course share: pictures with alternative text, and checks of exercises.

From any folder, the solutions' too: ``from notebooks import lesson``.
"""

import io

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import interpolate


def show(figure: Figure, alt: str) -> None:
    """Display a figure as a PNG, with ``alt`` as its alternative text, and close it."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100, bbox_inches="tight")
    plt.close(figure)
    display(Image(png.getvalue(), alt=alt))


def overlay(axes: Axes, image: Tensor, attention: Tensor, title: str = "") -> None:
    """Draw a map (h, w), each cell from its least to its largest value, over an image (3, H, W)."""
    axes.imshow(image.permute(1, 2, 0).float().mean(2), cmap="gray")
    cells = interpolate(attention[None, None].float(), size=image.shape[1:], mode="nearest")
    axes.imshow(cells[0, 0], cmap="inferno", alpha=0.6)
    axes.set(title=title, xticks=[], yticks=[])


def check(function, *cases: tuple, hint: str, tolerance: float = 1e-5) -> None:
    """Print in one line whether a reader's function is correct.

    A case is ``(arguments, expected)``: a tuple of arguments, or the only one. Numbers, lists and
    tensors may differ by ``tolerance``, relative or absolute. Whatever the function does, nothing
    is raised: *Run all* goes on.
    """
    print(f"{function.__name__}: {_verdict(function, cases, hint, tolerance)}")


def _verdict(function, cases: tuple, hint: str, tolerance: float) -> str:
    for number, (given, expected) in enumerate(cases, 1):
        arguments = given if isinstance(given, tuple) else (given,)
        try:
            got = function(*arguments)
            same = _same(got, expected, tolerance)
        except Exception as error:
            return f"case {number} raises {type(error).__name__}: {error}. Hint: {hint}"
        if got is None or got is ...:
            return f"not written yet. Hint: {hint}"
        if not same:
            wrong = f"got {_brief(got)}, expected {_brief(expected)}"
            return f"wrong in case {number}: {wrong}. Hint: {hint}"
    return "correct"


def _array(value: object) -> np.ndarray:
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)


def _same(got: object, expected: object, tolerance: float) -> bool:
    one, other = _array(got), _array(expected)
    if got is None or got is ... or one.shape != other.shape:
        return False
    if other.dtype.kind in "iufc":
        return bool(np.allclose(one, other, tolerance, tolerance, equal_nan=True))
    return bool((one == other).all())


def _brief(value: object) -> str:
    """A value in a few words; of a large tensor its shape and its first numbers."""
    array = _array(value)
    text = np.array2string(array.ravel()[:6] if array.ndim else array, precision=4)
    shape = f" (shape {list(array.shape)}, first 6 values)" if array.size > 6 else ""
    return " ".join(text.split()) + shape
