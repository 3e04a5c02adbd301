"""The mean of a contrast over teachers and training sets: a crossed mixed model and its bootstrap.

Difference = mean + teacher + sample + rest, the last three random, normal and independent, for a
complete table (teachers, samples) of paired differences. Effects that both methods share cancel, so
*teacher* and *sample* are the variation of the contrast itself, and its error includes both. The
components are REML's, in closed form (tests compare statsmodels' MixedLM); p values and intervals
come from a parametric bootstrap of the mean over its error.

Three teachers leave two degrees of freedom: one contrast alone cannot tell a teacher variance of 0
from one as large as the rest, and a bootstrap that trusts such an estimate finds differences two to
four times as often as it says. So the ratios of teacher and of sample variance to the rest are also
averaged over the contrasts that are judged together, and no contrast uses less (of the teachers':
than one standard error above the mean). This assumes that the ratios of a family are much alike;
``study.simulation`` shows what holds where they are not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any

import numpy as np
from scipy import optimize
from scipy.special import gammaincinv, ndtr
from scipy.stats import qmc

POWER, DRAWS = 0.8, 2**13
ROUNDING = 1e-18  # variances of log-odds below this are rounding


def mean_squares(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean squares of teachers, samples and rest of a table (T, S), and their degrees of freedom.

    One teacher or one sample leaves that mean square and the rest 0 with 0 degrees of freedom.
    """
    teachers, samples = differences.shape
    rows = differences.mean(1, keepdims=True) - differences.mean()
    columns = differences.mean(0, keepdims=True) - differences.mean()
    rest = differences - differences.mean() - rows - columns
    sums = np.array([samples * (rows**2).sum(), teachers * (columns**2).sum(), (rest**2).sum()])
    freedom = np.array([teachers - 1, samples - 1, (teachers - 1) * (samples - 1)])
    squares = sums / np.maximum(freedom, 1)
    return np.where(squares < ROUNDING, 0.0, squares), freedom


def expected_squares(
    squares: np.ndarray, freedom: np.ndarray, least: tuple[float, float] = (1.0, 1.0)
) -> np.ndarray:
    """REML estimates of the expected mean squares, (3, ...), in closed form (Thompson 1962).

    Variances are not negative, so the residual is the smallest; what violates this is pooled. The
    teachers' and the samples' are at least ``least`` times the residual.
    """
    weights = freedom.reshape(3, *[1] * (squares.ndim - 1))
    pools = [
        (squares[one] * weights[one]).sum(0) / max(freedom[one].sum(), 1)
        for one in ([2], [0, 2], [1, 2], [0, 1, 2])
    ]
    residual = reduce(np.minimum, pools)
    effects = (np.maximum(squares[i], least[i] * residual) for i in (0, 1))
    return np.stack([*effects, residual])


@dataclass(frozen=True)
class Fit:
    """The fitted mean of a contrast; ``errors``, (draws,): bootstrapped standard error / its own.

    Mean and squares are independent, so the bootstrap's mean is integrated exactly: the tail of t
    is the mean over draws of a normal one. This makes p smooth and symmetric in the sign.
    """

    difference: float
    error: float
    squares: np.ndarray
    errors: np.ndarray

    def tail(self, bound: float) -> float:
        """Probability that t exceeds ``bound`` if the true mean is 0."""
        return float(ndtr(-bound * self.errors).mean())

    def p_difference(self) -> float:
        """Two-sided p of no difference; NaN without an estimate of the error."""
        if self.error == 0:
            return 1.0 if self.difference == 0 else np.nan
        return 2 * self.tail(abs(self.difference) / self.error)

    def p_equivalence(self, delta: float) -> float:
        """TOST: p of a true difference of ``delta`` (> 0) or more in either direction."""
        if self.error == 0:
            return 0.0 if self.difference == 0 else np.nan
        return self.tail((delta - abs(self.difference)) / self.error)

    def critical(self, level: float) -> float:
        """The |t| that is exceeded with probability ``level``; infinite if none is."""
        return _root(lambda bound: level - 2 * self.tail(bound))

    def interval(self, level: float) -> tuple[float, float]:
        """Both ends at confidence 1 - ``level``; the error must be known, or the runs identical."""
        if self.error == 0:
            return (0.0, 0.0) if self.difference == 0 else (np.nan, np.nan)
        half = self.critical(level) * self.error
        return self.difference - half, self.difference + half

    def resolvable(self, level: float) -> float:
        """The true difference that a test at ``level`` finds with probability 80 %."""
        bound = self.critical(level) * self.errors
        return self.error * _root(lambda true: float(ndtr(true - bound).mean()) - POWER)


def _root(rising: Callable[[float], float]) -> float:
    high = 4.0
    while not rising(high) >= 0:
        high *= 2
        if high > 1e9:
            return np.inf
    return float(optimize.brentq(rising, 0.0, high))


def fit(
    differences: np.ndarray,
    shares: tuple[float, float] = (0.0, 0.0),
    draws: int = DRAWS,
    seed: int = 0,
) -> Fit:
    """Fit a table (T, S); ``shares``: least ratios of teacher and sample variance to the rest."""
    squares, freedom = mean_squares(differences)
    teachers, samples = differences.shape
    least = 1 + shares[0] * samples, 1 + shares[1] * teachers
    own = expected_squares(squares, freedom, least)
    drawn = expected_squares(own[:, None] * _mean_chi(tuple(freedom), draws, seed), freedom, least)
    variance = _of_mean(own)
    errors = np.sqrt(_of_mean(drawn) / variance) if variance > 0 else np.ones(1)
    mean = float(differences.mean())
    mean = 0.0 if variance == 0 and mean**2 < ROUNDING else mean
    return Fit(mean, float(np.sqrt(variance / differences.size)), own, errors)


@cache
def _mean_chi(freedom: tuple[int, ...], draws: int, seed: int) -> np.ndarray:
    """Draws of chi squared over its degrees of freedom (0 of 0), evenly spread (Sobol, scrambled).

    So spread, 2 ** 13 draws give critical values to four digits; independent ones would to two.
    """
    even = qmc.Sobol(len(freedom), rng=seed).random(draws).T
    return np.array(
        [2 * gammaincinv(f / 2, u) / f if f else 0 * u for f, u in zip(freedom, even, strict=True)]
    )


def _of_mean(squares: np.ndarray) -> Any:
    return squares[0] + squares[1] - squares[2]


def family_shares(tables: Sequence[np.ndarray]) -> tuple[float, float]:
    """Teacher and sample variance, over that of the rest, of a family of tables; 0 or more.

    Means over the tables that tell them; of the teachers' one standard error more.
    """
    found = []
    for table in tables:
        squares, freedom = mean_squares(table)
        if freedom[2] > 2 and squares[2] > 0:
            ratios = squares[:2] / squares[2] * (freedom[2] - 2) / freedom[2]  # F's mean: f / (f-2)
            found.append((ratios - 1) / table.shape[::-1])
    if not found:
        return 0.0, 0.0
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / max(len(found) - 1, 1) ** 0.5
    return max(0.0, float(mean[0] + error[0])), max(0.0, float(mean[1]))
