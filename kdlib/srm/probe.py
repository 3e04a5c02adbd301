"""What frozen features are worth: to a linear classifier, to a dictionary and to k-means."""

import warnings
from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn, optim
from torch.nn import functional

from kdlib.data.image_data import ImageData
from kdlib.errors import KdlibError
from kdlib.evaluate import answers
from kdlib.losses.attention import working_precision
from kdlib.models.output import Output
from kdlib.srm.losses import SparseBlock

ROUNDS = 100
"""Of k-means, at most."""
Floats = NDArray[np.float64]
DECAY = 1e-4
"""Weight of half the squared weights; enough for the fit to be unique."""
STEPS = 200


def outputs(network: nn.Module, data: ImageData, **place: Any) -> Iterator[Output]:
    """A network's outputs for all images, batch by batch, see :func:`kdlib.evaluate.answers`."""
    return (output for _, (output,) in answers([network], data, **place))


def embeddings(network: nn.Module, data: ImageData, **place: Any) -> Tensor:
    """The pooled features (N, D) of all images: float32, on the CPU."""
    return torch.cat([answer.embedding.float().cpu() for answer in outputs(network, data, **place)])


def stage_pixels(
    network: nn.Module, data: ImageData, count: int, seed: int = 0, **place: Any
) -> tuple[Tensor, ...]:
    """Channel vectors (``count`` at most, D) at random pixels of each stage; float32, on CPU."""
    answers = outputs(network, data, **place)
    stages = zip(*([stage.cpu() for stage in answer.stages] for answer in answers), strict=True)
    return tuple(_drawn(torch.cat(stage), count, seed) for stage in stages)


def _drawn(features: Tensor, count: int, seed: int) -> Tensor:
    pixels = features.float().movedim(1, -1).flatten(0, 2)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
    return pixels[order[:count]]


def classifier_of(network: nn.Module) -> nn.Linear:
    """The layer that makes logits of the embedding, the last linear one; ``KdlibError`` without."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise KdlibError("The network has no linear layer, so there is no classifier to probe.")
    return layers[-1]


def fit_probe(embeddings: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression on standardised features, by L-BFGS from zero.

    Embeddings (N, D) and labels (N,) give weight (K, D) and bias (K,) for the features as they
    are, in float32: always the same, for nothing is drawn and all images are one batch. It agrees
    with scikit-learn's, but that a class that does not occur has a row too, without weight.
    """
    features = embeddings.double()
    mean, std = features.mean(0), features.std(0, correction=0)
    # A feature that never varies tells nothing; a floor would blow its rounding noise up.
    scale = torch.where(std > 1e-6 * features.abs().amax(0), 1 / std, torch.zeros_like(std))
    weight, bias = _fit((features - mean) * scale, labels, classes)
    weight = weight * scale
    return weight.float(), (bias - weight @ mean).float()


def _fit(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    weight = features.new_zeros(classes, features.shape[1], requires_grad=True)
    bias = features.new_zeros(classes, requires_grad=True)
    optimiser = optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = functional.linear(features, weight, bias)
        value = functional.cross_entropy(logits, labels) + DECAY / 2 * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return weight.detach(), bias.detach()


@torch.no_grad()
def install(network: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Make a probe (K, D), (K,) the classifier of a network."""
    layer = classifier_of(network)
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)


class StageTally:
    """How well one stage's dictionary describes features, batch after batch."""

    def __init__(self, block: SparseBlock) -> None:
        self.block = block
        self.images = 0
        self.energy = self.error = 0.0
        self.used = torch.zeros(block.atoms.shape[1], dtype=torch.bool)

    def add(self, features: Tensor) -> None:
        """Count features (B, D, H, W)."""
        self.images += len(features)
        per_image = working_precision(features).square().mean(dim=(1, 2, 3))
        self.energy += per_image.double().sum().item()
        self.error += self.block.errors(features).double().sum().item()
        self.used |= (self.block(features) > 0).flatten(0, 2).any(0).cpu()

    def summary(self) -> dict[str, Any]:
        """Sizes; mean squares of features and of errors; share explained; atoms never kept.

        ``explained`` is 1 where all comes back, and negative where errors exceed the features.
        """
        channels, atoms = self.block.atoms.shape
        return {
            "channels": channels,
            "atoms": atoms,
            "kept": self.block.kept or atoms,
            "energy": self.energy / self.images,
            "error": self.error / self.images,
            "explained": 1 - self.error / self.energy if self.energy else 0.0,
            "dead_atoms": int((~self.used).sum()),
        }


@torch.no_grad()
def dictionary_quality(
    blocks: Iterable[SparseBlock], teacher: nn.Module, data: ImageData, **place: Any
) -> list[dict[str, Any]]:
    """The summary of each stage's dictionary over all images; ``place`` as of ``outputs``."""
    tallies = [StageTally(block) for block in blocks]
    for answer in outputs(teacher, data, **place):
        for tally, stage in zip(tallies, answer.stages, strict=True):
            tally.add(stage)
    return [tally.summary() for tally in tallies]


def compare_with_centroids(
    block: SparseBlock, learned_from: Tensor, held_out: Tensor, seed: int = 0
) -> list[dict[str, Any]]:
    """How much of held-out pixels each dictionary and each way of coding gives back.

    SRM's dictionary, and M centroids of the pixels ``learned_from`` (n, D), are tried on others
    (m, D). SRM's own code is one product, a sigmoid and a choice of the s largest; a centroid's own
    is to be the nearest, or the mean of the s nearest. ``matching pursuit`` gives either dictionary
    the best codes: s atoms chosen one after the other, with coefficients by least squares. A row
    has ``dictionary``, ``code``, ``kept`` (atoms in a code), ``explained``.
    """
    block, features = deepcopy(block).cpu().requires_grad_(False), held_out.double().numpy()
    kept, atoms = block.kept or block.atoms.shape[1], block.atoms.double().T.numpy()
    centroids = centroids_of(learned_from, len(atoms), seed)
    own = block.restored(held_out[:, :, None, None])[:, :, 0, 0].double().numpy()
    restored = {
        ("SRM", "its own", kept): own,
        ("k-means", "nearest", 1): _nearest(features, centroids, 1),
        ("k-means", "mean of the nearest", kept): _nearest(features, centroids, kept),
        ("SRM", "matching pursuit", kept): _pursued(features, atoms, kept),
        ("k-means", "matching pursuit", kept): _pursued(features, centroids, kept),
    }
    return [
        {"dictionary": name, "code": code, "kept": used, "explained": explained(features, values)}
        for (name, code, used), values in restored.items()
    ]


def explained(features: Floats, restored: Floats) -> float:
    """Share of the energy of features (n, D) that comes back: 1 is all, 0 is none."""
    energy = float(np.square(features).sum())
    return 1 - float(np.square(features - restored).sum()) / energy if energy else 0.0


def centroids_of(features: Tensor, count: int, seed: int = 0) -> Floats:
    """Centroids (count, D) of features (n, D), by k-means; ``KdlibError`` if ``count`` > n."""
    from sklearn.cluster import KMeans

    if len(features) < count:
        raise KdlibError(f"{len(features)} pixels cannot have {count} centroids; give more pixels.")
    clusters = KMeans(count, n_init=1, max_iter=ROUNDS, random_state=seed)
    return clusters.fit(features.double().numpy()).cluster_centers_.astype(np.float64)


def _nearest(features: Floats, centroids: Floats, count: int) -> Floats:
    """The mean of the ``count`` nearest centroids of each pixel."""
    distances = torch.cdist(torch.from_numpy(features), torch.from_numpy(centroids))
    return centroids[distances.topk(count, largest=False).indices.numpy()].mean(axis=1)


def _pursued(features: Floats, dictionary: Floats, count: int) -> Floats:
    """Orthogonal matching pursuit with ``count`` atoms of a dictionary (M, D)."""
    from sklearn.decomposition import sparse_encode
    from sklearn.preprocessing import normalize

    unit = normalize(dictionary)
    with warnings.catch_warnings():
        # A pixel that fewer atoms give back whole takes no more of them.
        warnings.filterwarnings("ignore", message="Orthogonal matching pursuit ended prematurely")
        codes = sparse_encode(features, unit, algorithm="omp", n_nonzero_coefs=count)
    return codes @ unit
