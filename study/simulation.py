"""Size, power and coverage of the verdicts of ``study.inference``, on runs with known effects.

    python -m study.simulation --repeats 2000 --to benchmarks/results/verdicts.json

measures the table of docs/statistics.md. Each world has as many claims as a family and one method
more; claim k compares method k with method k - 1, so neighbours share runs. Method 0 is the plain
student and has no teacher. Accuracies come from the log-odds of a run (its method, teacher,
training set, their interactions and initialisation) and a binomial draw of the test images.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from kdlib.files import finite, write_json
from study.inference import Claim, Contrast, judge, log_odds, margin

DRAWS = 2**9


@dataclass(frozen=True)
class World:
    """True values; standard deviations are of a claim's difference, in points of accuracy.

    ``noise``: smallest and largest over the claims, of one difference between two runs, a quarter
    of its variance shared by the teachers (the training set), the rest by nothing; ``teacher``: of
    the difference over teachers; ``odd``: the last method's own teacher variation, where it is
    another. ``effects``: true differences in units of delta, one a claim.
    """

    effects: tuple[float, ...] = (0.0,) * 8
    teachers: int = 3
    samples: int = 8
    accuracy: float = 0.8
    noise: tuple[float, float] = (0.4, 1.3)
    teacher: float = 0.3
    odd: float | None = None
    images: int = 50_000

    def true(self) -> np.ndarray:
        """The true differences in log-odds."""
        return margin(float(logit(self.accuracy))) * np.array(self.effects)


def simulated_logits(world: World, random: np.random.Generator) -> np.ndarray:
    """Observed log-odds of all runs, (methods, teachers, samples); the student's rows are equal."""
    count = len(world.effects) + 1
    shape = (count, world.teachers, world.samples)
    slope = 0.01 / (world.accuracy * (1 - world.accuracy) * np.sqrt(2))
    noise = slope * np.linspace(*world.noise, count)[:, None, None]
    teacher = np.full((count, 1, 1), slope * world.teacher)
    if world.odd is not None:
        teacher[-1] = slope * world.odd
    teacher[0] = 0
    logits = logit(world.accuracy) + np.append(0, world.true().cumsum())[:, None, None]
    logits = logits + slope * random.normal(size=(1, 1, world.samples))  # shared by all methods
    logits = logits + teacher * random.normal(size=(count, world.teachers, 1))
    logits = logits + 0.5 * noise * random.normal(size=(count, 1, world.samples))
    logits = logits + 0.75**0.5 * noise * random.normal(size=shape)
    observed = log_odds(random.binomial(world.images, expit(logits)), world.images)
    observed[0] = observed[0, :1]
    return observed


def simulated_family(world: World, random: np.random.Generator) -> dict[Claim, Contrast]:
    """The contrasts of one simulated study."""
    runs = simulated_logits(world, random)
    claims = [Claim(f"claim {k}", f"m{k}", f"m{k - 1}") for k in range(1, len(runs))]
    pairs = zip(claims, runs[1:], runs[:-1], strict=True)
    return {c: Contrast(one - other, float((one + other).mean() / 2)) for c, one, other in pairs}


def simulate(world: World, repeats: int, seed: int = 0, draws: int = DRAWS) -> pd.DataFrame:
    """The judged claims of ``repeats`` simulated studies, with ``study``, ``true`` and ``effect``.

    ``true``: log-odds; ``effect``: in units of delta.
    """
    random = np.random.default_rng(seed)
    known = {"true": world.true(), "effect": world.effects}
    studies = [judge(simulated_family(world, random), draws, seed) for _ in range(repeats)]
    return pd.concat([one.assign(study=i, **known) for i, one in enumerate(studies)])


def false_words(judged: pd.DataFrame) -> pd.Series:
    """Whether each word is false of the true difference."""
    word, effect = judged["verdict"], judged["effect"].round(9)
    return (
        ((word == "better") & (effect <= 0))
        | ((word == "worse") & (effect >= 0))
        | ((word == "equivalent") & (effect.abs() >= 1))
    )


def covered(judged: pd.DataFrame, kind: str = "") -> pd.Series:
    """Whether the 95 % interval, or the ``family``'s, holds the true difference."""
    low, high = (judged[f"log_odds_{kind}{end}"] for end in ("low", "high"))
    return (low <= judged["true"]) & (judged["true"] <= high)


def rates(judged: pd.DataFrame) -> dict[str, float]:
    """Percentages of claims (``any`` and ``family``: of studies); median resolvable difference."""
    found = judged.assign(
        false=false_words(judged), outside=~covered(judged, "family_"), covered=covered(judged)
    )
    wrong = (judged["p_difference"] <= 0.05)[judged["true"] == 0]
    words = judged["verdict"].value_counts(normalize=True)
    return {
        "p <= 5 % at 0": 100 * wrong.mean() if len(wrong) else np.nan,
        "any false word": 100 * found.groupby("study")["false"].any().mean(),
        "95 % covers": 100 * found["covered"].mean(),
        "family covers": 100 - 100 * found.groupby("study")["outside"].any().mean(),
        **{word: 100 * words.get(word, 0.0) for word in ("better", "worse", "equivalent")},
        "resolvable": judged["resolvable"].median(),
    }


# Worlds of the documentation: effects in units of delta, alternating so that accuracy stays.
MARGIN, MIXED, DOUBLE = (1.0, -1.0) * 4, (0.0, 1.0, 0.0, -1.0) * 2, (2.0, -2.0) * 4
WORLDS = {
    "no difference": World(),
    "no difference, teachers equal": World(teacher=0.0),
    "no difference, teachers 0.6 points": World(teacher=0.6),
    "no difference, 90 % accuracy": World(accuracy=0.9),
    "no difference, one method 0.9 points": World(odd=0.9),
    "no difference, 16 claims": World((0.0,) * 16),
    "no difference, one claim alone": World((0.0,)),
    "delta": World(MARGIN),
    "half 0, half delta": World(MIXED),
    "twice delta": World(DOUBLE),
}


def at_resolvable(judged: pd.DataFrame, world: World) -> World:
    """The world with each claim's difference as large as ``judged`` calls resolvable (median)."""
    least = judged.groupby("text", sort=False)["resolvable"].median()
    least /= judged["delta_points"].mean()
    signs = np.resize([1.0, -1.0], len(least))
    return replace(world, effects=tuple(least * signs))


def simulated_rates(
    repeats: int, teachers: int = 3, samples: int = 8, draws: int = DRAWS
) -> Iterator[tuple[str, dict[str, float]]]:
    """Each world's name and :func:`rates`; the last has effects of the resolvable size."""
    worlds = {k: replace(one, teachers=teachers, samples=samples) for k, one in WORLDS.items()}
    first = next(iter(worlds))
    for seed, (name, world) in enumerate(worlds.items()):
        judged = simulate(world, repeats, seed, draws)
        if name == first:
            planned = at_resolvable(judged, world)
        yield name, rates(judged)
    yield "resolvable", rates(simulate(planned, repeats, len(worlds), draws))


def main() -> None:
    """Print each world's rates as soon as they are there, and write all of them to a file."""
    parser = argparse.ArgumentParser(description="Size, power and coverage of the verdicts.")
    usual = {"repeats": 2000, "teachers": 3, "samples": 8, "draws": DRAWS}
    for name, value in usual.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--to", type=Path)
    given = vars(parser.parse_args())
    path, rows = given.pop("to"), []
    for world, found in simulated_rates(**given):
        rows.append({"world": world, "rates": {name: round(one, 2) for name, one in found.items()}})
        print(json.dumps(rows[-1]), flush=True)
    if path:
        write_json(path, finite({**given, "rows": rows}))


if __name__ == "__main__":
    main()
