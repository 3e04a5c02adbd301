"""Commands whose work needs PyTorch: it is loaded when they work, and not for their help."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from study.arguments import USUAL, Plan, Words


def analyse(
    root: Path, *, methods: Words = None, dataset: str | None = None, maps_seed: int = 0,
    data_root: Path | None = None,
) -> None:  # fmt: skip
    """Analyse the finished runs of a folder that were tested on a test set.

    Args:
        root: folder of runs, with their weights.
        methods: only these; 'teacher' for the networks that taught; by default the key methods.
        dataset: only runs on this data set.
        maps_seed: its runs keep attention maps and answers.
        data_root: folder of the real data sets; by default $KDLIB_DATA.
    """
    from study.analyses import measure

    measure.analyse(
        root, methods=methods, dataset=dataset, maps_seed=maps_seed, data_root=data_root
    )


def export(
    run: Path, *, runs: Path = Path("runs"), plan: Annotated[Plan, Parameter("*")] = USUAL,
    data_root: Path | None = None,
) -> None:  # fmt: skip
    """Write a student's file and what was found of it; print that.

    Args:
        run: a run's directory, its id or how its id begins.
        runs: folder of all runs.
        plan: what to write and to measure.
        data_root: folder of the real data sets; by default $KDLIB_DATA.
    """
    from study import export as made

    try:
        record = made.export_run(run, runs, plan, data_root)
    except made.ExportError as error:
        raise SystemExit(str(error)) from error
    print(made.report(record))


def verify(
    *run: Path, root: Path = Path("records"), runs: Path | None = None,
    data_root: Path | None = None, within: float = 0.01,
) -> int:  # fmt: skip
    """Make runs again here from their records, and compare every number but times.

    Args:
        run: a run's directory, its id, or how its id begins.
        root: folder of records or runs, in which ids are looked for.
        runs: folder of trained runs; teachers and earlier runs that it has are not made again.
        data_root: folder of the real data sets; by default $KDLIB_DATA.
        within: the largest difference that counts as close, of any measure.
    """
    from study import verify as verifying

    return verifying.verify(run, root, runs, data_root, within)
