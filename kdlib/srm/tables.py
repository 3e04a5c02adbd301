"""Records of SRM as tables: its dictionaries, its probes, and runs by their options."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from kdlib.distillers.sparse_options import SrmOptions
from kdlib.records import find_records

SWITCHES = ("targets", "release", "classifier")
GRID = ("mu", "sparsity")


def dictionary_table(*roots: Path) -> pd.DataFrame:
    """A row for each stage of each dictionary: what it was learned with, how well it describes.

    Columns: ``run_id``, ``dataset``, ``split``, ``teacher``, ``mu``, ``sparsity``, ``stage`` (1
    is the finest) and those of :meth:`kdlib.srm.quality.StageTally.summary`. Empty if no
    dictionary was learned.
    """
    rows = [
        {**_identity(record), "stage": number, **_but(stage, "codings")}
        for record in _of_method("srm_dictionary", roots)
        for number, stage in enumerate(record["dictionary"]["stages"], 1)
    ]
    return pd.DataFrame(rows)


def coding_table(*roots: Path) -> pd.DataFrame:
    """A row for each way of coding that a recorded dictionary was compared with.

    Columns: as :func:`dictionary_table` up to ``stage``, then those of
    :func:`kdlib.srm.centroids.compare_with_centroids`. Empty if no record has such a comparison.
    """
    rows = [
        {**_identity(record), "stage": number, **coding}
        for record in _of_method("srm_dictionary", roots)
        for number, stage in enumerate(record["dictionary"]["stages"], 1)
        for coding in stage.get("codings", [])
    ]
    return pd.DataFrame(rows)


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


def probe_table(*roots: Path) -> pd.DataFrame:
    """A row for each initialised student: its options, and the accuracy of its linear probe."""
    rows = [
        {**_identity(record), "student": record["config"]["student"],
         "init_seed": record["config"]["init_seed"], "top1": record["results"]["top1"]}
        for record in _of_method("srm_init", roots)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _of_method(method: str, roots: tuple[Path, ...]) -> Iterator[dict[str, Any]]:
    for record in find_records(*roots).values():
        if record["config"]["method"] == method:
            yield record


def _but(entries: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if key != name}


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    config = record["config"]
    named = {name: config[name] for name in ("dataset", "split", "teacher")}
    return {"run_id": record["run_id"], **named, **_options(config["method_options"])}


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    options = asdict(SrmOptions.given(given))
    return {name: options[name] for name in (*GRID, *SWITCHES)}


def with_options(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs of SRM, with a column for each of its options, its default where none was given.

    Args:
        runs: rows of :func:`kdlib.run_table.load_records`; those of other methods are left out.
    """
    own = runs[runs["method"].isin(["srm", "srm+kd"])].reset_index(drop=True)
    options = pd.DataFrame([_options(json.loads(text)) for text in own["method_options"]])
    return own.join(options)


def grid_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean top-1 of SRM alone by ``mu`` (rows) and ``sparsity``; all else at its default."""
    return _alone(runs, SWITCHES).pivot_table("top1", *GRID)


def switches_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Top-1 of SRM alone with one of its switches changed, beside its defaults.

    Only runs with the most frequent size of dictionaries and codes count.

    Returns:
        Rows are seeds, columns ``default`` and each switch that was tried, such as
        ``targets local``.
    """
    own = _alone(runs, ())
    if own.empty:
        return pd.DataFrame()
    mu, sparsity = own.groupby(list(GRID)).size().idxmax()
    own = own[(own["mu"] == mu) & (own["sparsity"] == sparsity)]
    return own.assign(switch=[_changed(row) for row in own.to_dict("records")]).pivot_table(
        "top1", "init_seed", "switch"
    )


def _alone(runs: pd.DataFrame, at_default: tuple[str, ...]) -> pd.DataFrame:
    own = with_options(runs[runs["method"] == "srm"])
    for name in at_default if len(own) else ():
        own = own[own[name] == getattr(SrmOptions(), name)]
    return own if len(own) else pd.DataFrame(columns=[*GRID, "top1"])


def _changed(row: Mapping[str, Any]) -> str:
    """The switches of a run that are not at their defaults, in words."""
    plain = SrmOptions()
    found = [f"{n} {row[n]}" for n in SWITCHES if row[n] != getattr(plain, n)]
    return ", ".join(found).replace("False", "no").replace("True", "yes") or "default"
