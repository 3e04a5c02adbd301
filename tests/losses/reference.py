"""The formulas once more, in plain numpy and scipy."""

import numpy as np
from scipy.fft import dctn
from scipy.spatial.distance import cdist
from scipy.special import log_softmax, softmax
from scipy.stats import entropy, norm, zscore


def energy(features):
    channels, height, width = features.shape
    total = np.zeros((height, width))
    for channel in range(channels):
        total += features[channel] ** 2
    return total / channels


def released_descriptor(features, variant):
    attention = energy(features)
    attention = (attention - attention.min()) / (attention.max() - attention.min())
    attention = attention - attention.mean()
    size = attention.shape[0]
    wave = np.exp(-2j * np.pi * np.outer(np.arange(size), np.arange(size)) / size)
    spectrum = (wave @ attention @ wave).real
    if variant == "A":
        spectrum = np.abs(spectrum)
        return (spectrum - spectrum.min()) / spectrum.max()
    return (spectrum - spectrum.min()) / (spectrum.max() - spectrum.min())


def released_distance(student, teacher, variant):
    difference = released_descriptor(student, variant) - released_descriptor(teacher, variant)
    return np.sqrt((difference**2).sum())


def dct_distance(student, teacher):
    spectra = [dctn(energy(features), norm="ortho") for features in (student, teacher)]
    for spectrum in spectra:
        spectrum[0, 0] = 0
    return np.linalg.norm(np.subtract(*(one / np.linalg.norm(one) for one in spectra)))


def at_distance(student, teacher):
    vectors = [energy(features).ravel() for features in (student, teacher)]
    student, teacher = (vector / np.sqrt((vector**2).sum()) for vector in vectors)
    return ((student - teacher) ** 2).mean()


def pooled(features, side):
    """Means of blocks: (B, C, N, N) -> (B, C, side, side)."""
    count, channels, size, _ = features.shape
    block = size // side
    return features.reshape(count, channels, side, block, side, block).mean((3, 5))


def kd(student, teacher, temperature=4.0):
    mine, theirs = (log_softmax(logits / temperature, axis=1) for logits in (student, teacher))
    return temperature**2 * (np.exp(theirs) * (theirs - mine)).sum(1)


def standardised_kd(student, teacher, temperature=2.0):
    return kd(zscore(student, axis=1), zscore(teacher, axis=1), temperature)


def dkd(student, teacher, targets, target_weight=1.0, other_weight=8.0, temperature=4.0):
    found = []
    for mine, theirs, target in zip(
        *(softmax(z / temperature, axis=1) for z in (student, teacher)), targets, strict=True
    ):
        others = np.arange(len(mine)) != target
        binary = entropy([theirs[target], theirs[others].sum()], [mine[target], mine[others].sum()])
        rest = entropy(theirs[others], mine[others])
        found.append(temperature**2 * (target_weight * binary + other_weight * rest))
    return np.array(found)


def neighbours(embedding):
    kernel = (2 - cdist(embedding, embedding, "cosine")) / 2
    np.fill_diagonal(kernel, 0)
    return kernel / kernel.sum(1, keepdims=True)


def pkt(student, teacher):
    pairs = zip(neighbours(student), neighbours(teacher), strict=True)
    return np.array([entropy(theirs, mine) / len(student) for mine, theirs in pairs])


def huber(difference):
    size = np.abs(difference)
    return np.where(size < 1, size**2 / 2, size - 0.5)


def distances(embedding):
    found = cdist(embedding, embedding)
    return found / found[found > 0].mean()


def angles(embedding):
    count = len(embedding)
    found = np.zeros((count, count, count))
    for j, i, k in np.ndindex(found.shape):
        one, two = embedding[i] - embedding[j], embedding[k] - embedding[j]
        size = np.linalg.norm(one) * np.linalg.norm(two)
        found[j, i, k] = one @ two / size if size else 0
    return found


def rkd(student, teacher, distance_weight=25.0, angle_weight=50.0):
    apart = huber(distances(student) - distances(teacher)).mean(1)
    turned = huber(angles(student) - angles(teacher)).mean((1, 2))
    return distance_weight * apart + angle_weight * turned


def similarity(features):
    flat = features.reshape(len(features), -1)
    gram = flat @ flat.T
    return gram / np.linalg.norm(gram, axis=1, keepdims=True)


def sp(student, teacher):
    return ((similarity(student) - similarity(teacher)) ** 2).mean(1)


def mse(student, teacher):
    side = min(student.shape[-1], teacher.shape[-1])
    return ((pooled(student, side) - pooled(teacher, side)) ** 2).mean((1, 2, 3))


def hcl(student, teacher):
    size = student.shape[-1]
    sides = [size, *(side for side in (4, 2, 1) if side < size)]
    weights = 0.5 ** np.arange(len(sides))
    losses = [mse(pooled(student, side), pooled(teacher, side)) for side in sides]
    return (weights[:, None] * losses).sum(0) / weights.sum()


def overhaul(student, teacher):
    margins = [
        channel[channel < 0].mean() if (channel < 0).any() else 0.0
        for channel in teacher.transpose(1, 0, 2, 3).reshape(teacher.shape[1], -1)
    ]
    target = np.maximum(teacher, np.reshape(margins, (1, -1, 1, 1)))
    squares = np.where((student <= target) & (target <= 0), 0, (student - target) ** 2)
    return squares.mean((1, 2, 3))


def nll(mean, variance, teacher):
    """Of a normal distribution, without its constant."""
    density = norm.logpdf(teacher, mean, np.sqrt(variance)[None, :, None, None])
    return -density.mean((1, 2, 3)) - np.log(2 * np.pi) / 2


def nce(critic, images):
    noise = (critic.shape[1] - 1) / images
    chance = critic / (critic + noise)
    return -np.log(chance[:, 0]) - np.log(1 - chance[:, 1:]).sum(1)
