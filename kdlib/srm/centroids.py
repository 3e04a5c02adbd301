"""The dictionaries of SRM beside k-means: as many atoms, as few of them in a code."""

import warnings
from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import sparse_encode
from sklearn.preprocessing import normalize
from torch import Tensor

from kdlib.distillers.sparse_representation import SparseBlock
from kdlib.errors import KdlibError
from kdlib.losses.sparse_codes import reconstruction

ROUNDS = 100
Floats = NDArray[np.float64]


def explained(features: Floats, restored: Floats) -> float:
    """Share of the energy of features (n, D) that comes back: 1 is all, 0 is none."""
    energy = float(np.square(features).sum())
    return 1 - float(np.square(features - restored).sum()) / energy if energy else 0.0


def centroids_of(features: Tensor, count: int, seed: int = 0) -> Floats:
    """``count`` centroids (count, D) of features (n, D), by scikit-learn's k-means.

    Raises:
        KdlibError: there are fewer features than centroids.
    """
    if len(features) < count:
        raise KdlibError(f"{len(features)} pixels cannot have {count} centroids; give more pixels.")
    clusters = KMeans(count, n_init=1, max_iter=ROUNDS, random_state=seed)
    return clusters.fit(features.double().numpy()).cluster_centers_.astype(np.float64)


def codings(
    block: SparseBlock, learned_from: Tensor, held_out: Tensor
) -> list[dict[str, str | int | float]]:
    """Rows of :func:`compare_with_centroids`; none where pixels are fewer than atoms."""
    if len(learned_from) < block.atoms.shape[1]:
        return []
    table = compare_with_centroids(deepcopy(block).cpu(), learned_from, held_out)
    return table.to_dict("records")


def compare_with_centroids(
    block: SparseBlock, learned_from: Tensor, held_out: Tensor, seed: int = 0
) -> pd.DataFrame:
    """How much of held-out pixels each dictionary and each way of coding gives back.

    Both dictionaries have M atoms. SRM's own code is one product, a sigmoid and a choice of the s
    largest; a centroid's own is to be the nearest, or the mean of the s nearest. ``matching
    pursuit`` gives either dictionary the best codes: s atoms chosen one after the other, with
    coefficients by least squares, which SRM's codes are not.

    Args:
        block: a learned dictionary with sparse codes.
        learned_from: (n, D), pixels for k-means.
        held_out: (m, D), others.
        seed: of k-means.

    Returns:
        Columns ``dictionary``, ``code``, ``kept`` (atoms in a code), ``explained``.
    """
    centroids = centroids_of(learned_from, block.atoms.shape[1], seed)
    rows = [
        {"dictionary": name, "code": code, "kept": used, "explained": share}
        for name, code, used, share in _codings(block, centroids, held_out)
    ]
    return pd.DataFrame(rows)


def _codings(
    block: SparseBlock, centroids: Floats, held_out: Tensor
) -> Iterator[tuple[str, str, int, float]]:
    features, kept = held_out.double().numpy(), block.kept or block.atoms.shape[1]
    atoms = block.atoms.detach().double().T.numpy()
    yield "SRM", "its own", kept, explained(features, _by_block(block, held_out))
    nearest = {"nearest": 1, "mean of the nearest": kept}
    for code, count in nearest.items():
        yield "k-means", code, count, explained(features, _nearest(features, centroids, count))
    for name, dictionary in (("SRM", atoms), ("k-means", centroids)):
        yield (
            name,
            "matching pursuit",
            kept,
            explained(features, _pursued(features, dictionary, kept)),
        )


@torch.no_grad()
def _by_block(block: SparseBlock, pixels: Tensor) -> Floats:
    """What the block's codes give back of pixels (m, D)."""
    codes = block(pixels[:, :, None, None])
    return reconstruction(codes, block.atoms)[:, :, 0, 0].double().numpy()


def _nearest(features: Floats, centroids: Floats, count: int) -> Floats:
    """The mean of the ``count`` nearest centroids of each pixel."""
    distances = torch.cdist(torch.from_numpy(features), torch.from_numpy(centroids))
    chosen = distances.topk(count, largest=False).indices.numpy()
    return centroids[chosen].mean(axis=1)


def _pursued(features: Floats, dictionary: Floats, count: int) -> Floats:
    """Orthogonal matching pursuit with ``count`` atoms of a dictionary (M, D)."""
    unit = normalize(dictionary)
    with warnings.catch_warnings():
        # A pixel that fewer atoms give back whole takes no more of them.
        warnings.filterwarnings("ignore", message="Orthogonal matching pursuit ended prematurely")
        codes = sparse_encode(features, unit, algorithm="omp", n_nonzero_coefs=count)
    return codes @ unit
