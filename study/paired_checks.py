"""Two checks beside the mixed model: paired t with moderated variance, and the sign-flip test.

Both take one value a training set, the mean difference over teachers, so a run that several
differences share is counted once. They speak of these teachers alone.
"""

import numpy as np
from scipy import optimize
from scipy.special import digamma, polygamma


def prior_variance(variances: np.ndarray, freedom: np.ndarray) -> tuple[float, float]:
    """Degrees of freedom and variance of limma's prior (Smyth 2004, section 6.2); all > 0.

    The degrees of freedom are infinite if the variances scatter no more than by chance.
    """
    half = freedom / 2
    logs = np.log(variances) - digamma(half) + np.log(half)
    excess = np.var(logs, ddof=1) - polygamma(1, half).mean() if len(logs) > 1 else 0.0
    if excess <= 0:
        return np.inf, float(np.exp(logs.mean()))
    found = optimize.brentq(lambda log: np.log(polygamma(1, np.exp(log)) / excess), -35, 35)
    prior = np.exp(found)
    return 2 * prior, float(np.exp(logs.mean() + digamma(prior) - np.log(prior)))


def moderated_variances(
    variances: np.ndarray, freedom: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Variances (n,) shrunk towards their prior, and degrees of freedom, at most those of all.

    A variance of 0, or without degrees of freedom, has no part in the prior.
    """
    known = (freedom > 0) & (variances > 0)
    if not known.any():
        return variances, freedom.astype(float)
    more, prior = prior_variance(variances[known], freedom[known])
    weight = 1.0 if np.isinf(more) else more / (more + freedom)
    own = np.where(freedom > 0, variances, 0.0)
    return weight * prior + (1 - weight) * own, np.minimum(more + freedom, freedom[known].sum())


def sign_flip_p(values: np.ndarray, draws: int = 50_000, seed: int = 0) -> float:
    """Two-sided p of a mean of 0: exact for up to 14 values, else of random flips."""
    n, random = len(values), np.random.default_rng(seed)
    exact = n <= 14
    bits = (
        np.arange(2**n)[:, None] >> np.arange(n) if exact else random.integers(2, size=(draws, n))
    )
    sums = np.abs((2 * (bits & 1) - 1) @ values)
    extreme = int((sums >= abs(values.sum()) * (1 - 1e-9)).sum())
    return extreme / 2**n if exact else (extreme + 1) / (draws + 1)
