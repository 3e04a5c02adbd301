"""Refuse wrong arguments of ``make`` before anything is installed or trained.

It runs before the environment exists, so it needs nothing but the standard library. Names of
methods, modifiers and data sets are those of the registries, which need nothing more either.
"""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from kdlib.data import DATASETS  # noqa: E402
from kdlib.errors import KdlibError, check_known, shown  # noqa: E402
from kdlib.methods import METHODS, MODIFIERS, parse_method  # noqa: E402

VARIABLES = (
    "PROFILE", "DATASET", "METHODS", "SEEDS", "EPOCHS", "IMAGES", "DATA_ROOT", "PARTS", "FRESH",
    "JOBS", "EXECUTOR", "PYTHON",
)  # fmt: skip
OLDEST, NEWEST = (3, 11), (3, 13)


def main(arguments: list[str], given: Mapping[str, str]) -> int:
    """Check the variables that make was given, by name in ``UNKNOWN`` or in words, and by value.

    With ``--valid`` alone, print the valid names instead.
    """
    try:
        if arguments == ["--valid"]:
            print_valid()
            return 0
        check_version(sys.version_info[:2])
        check_variables([*arguments, *given.get("UNKNOWN", "").split()])
        for variable, valid in named().items():
            if value := given.get(variable):
                check_known(variable, value, valid)
        for variable in ("PARTS", "FRESH"):
            for part in words(given.get(variable, "")):
                check_known(f"part in {variable}", part, parts())
        check_methods(words(given.get("METHODS", "")))
        check_seeds(words(given.get("SEEDS", "")))
        check_number("EPOCHS", given.get("EPOCHS", ""))
        check_number("IMAGES", given.get("IMAGES", ""), 2)
        check_data_root(given.get("DATA_ROOT", ""))
        check_jobs(given.get("JOBS", ""))
    except KdlibError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def words(text: str) -> list[str]:
    """Items of a comma- or space-separated list."""
    return text.replace(",", " ").split()


def profiles() -> list[str]:
    """Names of the profiles."""
    return sorted(path.stem for path in (ROOT / "profiles").glob("[!.]*.yaml"))


def parts() -> list[str]:
    """Names of the study's parts."""
    return [name.removeprefix("study_") for name in profiles() if name.startswith("study_")]


def named() -> dict[str, list[str]]:
    """The names that a variable may have; jobs run here, or as a profile of Snakemake's says."""
    found = (ROOT / "workflow" / "profiles").glob("[!.]*/config.yaml")
    executors = ["local", *sorted(path.parent.name for path in found)]
    return {"PROFILE": profiles(), "DATASET": [*DATASETS], "EXECUTOR": executors}


def print_valid() -> None:
    """Print the names that the variables may have."""
    for variable, valid in named().items():
        print(f"valid {variable}:", ", ".join(valid))
    print("valid PARTS and FRESH:", ", ".join(parts()))
    print("valid METHODS:", ", ".join(METHODS))
    print("               each, where it has a loss of its own, with +" + " +".join(MODIFIERS))


def check_version(version: tuple[int, ...]) -> None:
    """Refuse a Python that the pinned packages do not support."""
    if not OLDEST <= tuple(version) <= NEWEST:
        found, oldest, newest = (".".join(map(str, v)) for v in (version, OLDEST, NEWEST))
        raise KdlibError(
            f"This is Python {found}; {oldest} to {newest} is needed. "
            f"Name another with: make PYTHON=python{newest}"
        )


def check_variables(overrides: Iterable[str]) -> None:
    """Refuse a variable that the Makefile does not read, such as a misspelt one."""
    for word in overrides:
        check_known("variable", word.partition("=")[0].rstrip(":+?"), VARIABLES)


def check_methods(methods: Iterable[str]) -> None:
    """Refuse what is no method, or has a modifier that it does not take."""
    for method in methods:
        check_known("method in METHODS", method.partition("+")[0], METHODS)
        try:
            parse_method(method)
        except KdlibError as error:
            raise KdlibError(f"METHODS has '{shown(method)}'. {error}") from error


def check_seeds(seeds: Iterable[str]) -> None:
    """Refuse a seed that is not a whole number of 0 or more."""
    for seed in seeds:
        if not (seed.isascii() and seed.isdigit()):
            raise KdlibError(
                f"SEEDS has '{shown(seed)}'; valid: whole numbers from 0, as in SEEDS=0,1,2."
            )


def check_number(name: str, value: str, least: int = 1) -> None:
    """Refuse a variable that is given and not a whole number of ``least`` or more."""
    if value and not _is_whole(value, least):
        raise KdlibError(f"{name} is '{shown(value)}'; valid: a whole number from {least}.")


def check_data_root(folder: str) -> None:
    """Refuse a folder that does not exist."""
    if folder and not os.path.isdir(os.path.expanduser(folder)):  # noqa: PTH111, PTH112 - any text
        raise KdlibError(
            f"DATA_ROOT is '{shown(folder)}', which is not a folder; give one that exists."
        )


def check_jobs(jobs: str) -> None:
    """Refuse a number of jobs that is neither ``all`` nor a whole number of 1 or more."""
    if jobs and jobs != "all" and not _is_whole(jobs, 1):
        raise KdlibError(f"JOBS is '{shown(jobs)}'; valid: all, or a whole number from 1.")


def _is_whole(text: str, least: int) -> bool:
    return text.isascii() and text.isdigit() and (len(text) > 9 or int(text) >= least)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
