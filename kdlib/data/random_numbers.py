"""Random numbers that are a function of an image's index: no state, no order, no batch size."""

import numpy as np
from numpy.typing import NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seed: int, indices: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """``count`` uniform numbers in [0, 1) for each image, (B, count).

    SplitMix64 (Steele 2014, doi 10.1145/2660193.2660195) over the triple (seed, index, draw).
    """
    with np.errstate(over="ignore"):
        streams = _mix(np.uint64(seed) + indices.astype(np.uint64) * GOLDEN)
        draws = np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
        bits = _mix(streams[:, None] + draws[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) / 2.0**53


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
