"""The formulas once more, in plain numpy and scipy."""

import numpy as np
from scipy.fft import dctn
from scipy.spatial.distance import cdist
from scipy.special import huber, log_softmax, softmax
from scipy.stats import entropy, norm, zscore


def energy(features):
    return sum(channel**2 for channel in features) / len(features)


def dct_distance(student, teacher):
    spectra = [dctn(energy(features), norm="ortho") for features in (student, teacher)]
    for spectrum in spectra:
        spectrum[0, 0] = 0
    return np.linalg.norm(np.subtract(*(one / np.linalg.norm(one) for one in spectra)))


def at_distance(student, teacher):
    side = min(student.shape[-1], teacher.shape[-1])
    vectors = [pooled(energy(one)[None, None], side).ravel() for one in (student, teacher)]
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


def standardised_kd(student, teacher):
    return kd(zscore(student, axis=1), zscore(teacher, axis=1), 2.0)


def dkd(student, teacher, targets, temperature=4.0):
    found = []
    both = (softmax(logits / temperature, axis=1) for logits in (student, teacher))
    for mine, theirs, target in zip(*both, targets, strict=True):
        others = np.arange(len(mine)) != target
        binary = entropy([theirs[target], theirs[others].sum()], [mine[target], mine[others].sum()])
        found.append(temperature**2 * (binary + 8 * entropy(theirs[others], mine[others])))
    return np.array(found)


def neighbours(embedding):
    kernel = (2 - cdist(embedding, embedding, "cosine")) / 2
    np.fill_diagonal(kernel, 0)
    return kernel / kernel.sum(1, keepdims=True)


def pkt(student, teacher):
    return entropy(neighbours(teacher), neighbours(student), axis=1) / len(student)


def distances(embedding):
    found = cdist(embedding, embedding)
    return found / found[found > 0].mean()


def angles(embedding):
    """Cosines at each image; none to an image itself."""
    sides = [embedding - image for image in embedding]
    return np.array([np.nan_to_num(1 - cdist(side, side, "cosine")) for side in sides])


def rkd(student, teacher):
    apart = huber(1, distances(student) - distances(teacher)).mean(1)
    return 25 * apart + 50 * huber(1, angles(student) - angles(teacher)).mean((1, 2))


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
    losses = [mse(pooled(student, side), pooled(teacher, side)) for side in sides]
    return np.average(losses, axis=0, weights=0.5 ** np.arange(len(sides)))


def overhaul(student, teacher):
    negative = np.ma.masked_greater_equal(teacher, 0)
    margins = negative.mean((0, 2, 3), keepdims=True).filled(0)
    target = np.maximum(teacher, margins)
    return np.where((student <= target) & (target <= 0), 0, (student - target) ** 2).mean((1, 2, 3))


def nll(mean, variance, teacher):
    """Of a normal distribution, without its constant."""
    density = norm.logpdf(teacher, mean, np.sqrt(variance)[None, :, None, None])
    return -density.mean((1, 2, 3)) - np.log(2 * np.pi) / 2


def nce(critic, images):
    chance = critic / (critic + (critic.shape[1] - 1) / images)
    return -np.log(chance[:, 0]) - np.log(1 - chance[:, 1:]).sum(1)
