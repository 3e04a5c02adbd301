"""Records of SRM as tables, for notebook 09: dictionaries, probes, and runs by their options."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from kdlib.srm.losses import SrmOptions
from study.records import find_records

SWITCHES = ("targets", "release", "classifier")
GRID = ("mu", "sparsity")


def dictionary_table(*roots: Path) -> pd.DataFrame:
    """A row for each stage of each dictionary: what it was learned with, how well it describes.

    Columns: ``run_id``, ``dataset``, ``split``, ``teacher``, ``mu``, ``sparsity``, ``stage`` (1
    is the finest) and those of :meth:`kdlib.srm.probe.StageTally.summary`. Empty if no
    dictionary was learned.
    """
    return pd.DataFrame(
        {**own, **{name: value for name, value in stage.items() if name != "codings"}}
        for own, stage in _stages(roots)
    )


def coding_table(*roots: Path) -> pd.DataFrame:
    """A row for each way of coding that a recorded dictionary was compared with.

    Columns: as :func:`dictionary_table` up to ``stage``, then those of
    :func:`kdlib.srm.probe.compare_with_centroids`. Empty if no record has such a comparison.
    """
    return pd.DataFrame(
        {**own, **coding} for own, stage in _stages(roots) for coding in stage.get("codings", [])
    )


def _stages(roots: tuple[Path, ...]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for record in _of_method("srm_dictionary", roots):
        for number, stage in enumerate(record["dictionary"]["stages"], 1):
            yield {**_identity(record), "stage": number}, stage


def probe_table(*roots: Path) -> pd.DataFrame:
    """A row for each initialised student: its options, and the accuracy of its linear probe."""
    return pd.DataFrame(
        {
            **_identity(record),
            **{name: record["config"][name] for name in ("student", "init_seed")},
            "top1": record["results"]["top1"],
        }
        for record in _of_method("srm_init", roots)
    )


def _of_method(method: str, roots: tuple[Path, ...]) -> Iterator[dict[str, Any]]:
    return (one for one in find_records(*roots).values() if one["config"]["method"] == method)


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    config = record["config"]
    named = {name: config[name] for name in ("dataset", "split", "teacher")}
    return {"run_id": record["run_id"], **named, **_options(config["method_options"])}


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    options = asdict(SrmOptions(**given))
    return {name: options[name] for name in (*GRID, *SWITCHES)}


def shares_of(table: pd.DataFrame) -> pd.DataFrame:
    """Energy explained: a row a dictionary and way of coding, a column a stage.

    Args:
        table: of :func:`coding_table`, of one run.
    """
    return table.pivot_table("explained", ["dictionary", "code"], "stage", sort=False)


def read_codings(shares: pd.DataFrame) -> str:
    """At which stages SRM's codes, and then its atoms, do better than k-means."""
    own, centroids = shares.loc[("SRM", "its own")], shares.xs("k-means", level="dictionary")
    nearest = centroids.drop("matching pursuit").max()
    pursuit = shares.xs("matching pursuit", level="code")
    better = [str(stage) for stage in shares if own[stage] > nearest[stage]]
    also = [str(stage) for stage in shares if pursuit[stage]["SRM"] > pursuit[stage]["k-means"]]
    return (
        f"SRM's own codes explain more than the better code of the centroids at {len(better)} of "
        f"{shares.shape[1]} stages ({', '.join(better) or 'none'}). With the same search for "
        f"codes, its atoms are the better dictionary at {len(also)} ({', '.join(also) or 'none'})."
    )


def grid_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean top-1 of SRM alone by ``mu`` (rows) and ``sparsity``; all else at its default."""
    own = _alone(runs)
    return own[own["switch"] == "default"].pivot_table("top1", *GRID)


def switches_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Top-1 of SRM alone with one of its switches changed, beside its defaults.

    Only runs with the most frequent size of dictionaries and codes count.

    Returns:
        Rows are seeds, columns ``default`` and each switch that was tried, such as
        ``targets local``.
    """
    own = _alone(runs)
    if own.empty:
        return pd.DataFrame()
    mu, sparsity = own.groupby(list(GRID)).size().idxmax()
    usual = own[(own["mu"] == mu) & (own["sparsity"] == sparsity)]
    return usual.pivot_table("top1", "init_seed", "switch")


def _alone(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs of SRM without KD, with a column for each of its options, and ``switch``.

    Args:
        runs: rows of :func:`study.records.load_records`; those of other methods are left out.
    """
    own = runs[runs["method"] == "srm"].reset_index(drop=True)
    options = [_options(json.loads(text)) for text in own["method_options"]]
    found = pd.DataFrame(options, columns=[*GRID, *SWITCHES])
    return own.join(found).assign(switch=[_changed(one) for one in options])


def _changed(options: Mapping[str, Any]) -> str:
    """The switches that are not at their defaults, in words."""
    plain = asdict(SrmOptions())
    found = [f"{name} {options[name]}" for name in SWITCHES if options[name] != plain[name]]
    return ", ".join(found).replace("False", "no").replace("True", "yes") or "default"
