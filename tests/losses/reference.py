"""The released loss (variants A and B) and AT once more, in plain numpy, one image at a time."""

import numpy as np


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


def at_distance(student, teacher):
    vectors = [energy(features).ravel() for features in (student, teacher)]
    student, teacher = (vector / np.sqrt((vector**2).sum()) for vector in vectors)
    return ((student - teacher) ** 2).mean()
