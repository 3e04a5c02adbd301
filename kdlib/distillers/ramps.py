"""How the weight of a method's term grows while it warms up: functions of its share, 0 to 1."""

import math

STEEPNESS = 5.0


def linear(share: float) -> float:
    """From 0 to 1, as ReviewKD and DKD have it."""
    return share


def bell(share: float) -> float:
    """``exp(-5 (1 - t)^2)``: from nearly 0 to 1, slowly at both ends (Laine 2017, 1610.02242)."""
    return math.exp(-STEEPNESS * (1 - share) ** 2)
