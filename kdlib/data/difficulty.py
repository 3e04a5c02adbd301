"""How hard scenes are: the one place where it is decided.

Every number here is part of the key of every cache, so that an edit shows in the next images.
Lengths are shares of the image's side, colours are 0 to 255.
"""

VERSION = 2
"""To be raised when the composer itself changes what it draws."""

SCALE = (0.26, 0.40)
"""Side of an object's picture."""
ROTATION = 12.0
"""Largest turn, degrees, either way."""
BRIGHTNESS = (0.85, 1.10)
"""Factor of an object's colours."""
BACKGROUND = (80.0, 170.0)
"""Each colour of the background."""
TEXTURE = 25.0
"""Largest deviation of the background's soft texture."""
CELLS = 7
"""Cells of that texture a side."""
NOISE = 5.0
"""Standard deviation of the noise of a pixel."""
JITTER = 0.7
"""How far objects stray from their grid, in cells; more of it hides more of them."""


def difficulty() -> tuple[object, ...]:
    """All of the above."""
    return VERSION, SCALE, ROTATION, BRIGHTNESS, BACKGROUND, TEXTURE, CELLS, NOISE, JITTER
