"""The command line: a notebook, results, figures, ledger, exported networks, data, methods."""

import argparse
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdlib.errors import EXIT_FAILED, KdlibError, ended


# What each subcommand of the command line does.
def run_notebook(options: Namespace) -> None:
    """``kdlib run``."""
    from study.notebooks import (
        LIMIT_S,
        ExecutionError,
        execute_notebook,
        find_notebook,
        parameter_defaults,
        parse_value,
        store_outputs,
    )

    notebook = find_notebook(options.notebook)
    if options.show:
        for name, value in parameter_defaults(notebook).items():
            print(f"{name} = {value!r}")
        return
    limit = LIMIT_S if options.time_limit is None else options.time_limit
    given = {name: parse_value(value) for name, value in options.parameter}
    parameters = {**options.parameters, **given}
    try:
        if options.store:
            _refuse_parameters(parameters)
            output = store_outputs(notebook, limit)
        else:
            output = options.output or Path("runs/notebooks") / notebook.name
            output = execute_notebook(notebook, output, parameters, limit)
    except ExecutionError as error:
        print(error, file=sys.stderr)
        raise SystemExit(EXIT_FAILED) from error
    print(f"{notebook.stem}: {output}")


def _refuse_parameters(parameters: dict[str, Any]) -> None:
    if parameters:
        raise KdlibError("--store keeps the outputs of the defaults; give it no parameters.")


def show_results(options: Namespace) -> None:
    """``kdlib results``."""
    from study.pages import update_readme
    from study.records import publish
    from study.results import print_results
    from study.tuning import write_tuned

    if options.tune:
        print(f"chosen weights: {write_tuned(options.roots[0], options.tune)}")
    elif options.publish:
        published = [path for root in options.roots for path in publish(root, options.publish)]
        print(f"{len(published)} records are in {options.publish}")
    elif options.readme:
        changed = update_readme(options.readme, options.roots)
        print(f"{options.readme}: {', '.join(changed) or 'nothing'} changed")
    else:
        print_results(options.roots, options.profile, epochs=options.epochs, images=options.images)


def make_ledger(options: Namespace) -> None:
    """``kdlib ledger``."""
    from study.ledger.page import check_page, write_page

    if not options.check:
        write_page(options.to, options.roots)
        print(f"{options.to} is made from the records in {', '.join(map(str, options.roots))}")
        return
    try:
        check_page(options.to, options.roots)
    except KdlibError as error:
        print(error, file=sys.stderr)
        raise SystemExit(EXIT_FAILED) from error
    print(f"{options.to} is what the records give")


def list_methods(options: Namespace) -> None:
    """``kdlib methods``."""
    from kdlib.methods import METHODS, MODIFIERS
    from study.results import describe

    for name, method in METHODS.items():
        print(describe(name, method))
    print(f"modifiers: {', '.join('+' + name for name in MODIFIERS)} (as in dct+kd)")


def list_data(options: Namespace) -> None:
    """``kdlib data list``."""
    from kdlib.data import DATASETS

    for name, found in DATASETS.items():
        print(f"{name:16} {found.about}")


def check_data(options: Namespace) -> None:
    """``kdlib data check``."""
    from study.data_commands import check_split

    for split in ("train", "test"):
        print(check_split(options.dataset, split, options.data_root))


def cache_data(options: Namespace) -> None:
    """``kdlib data cache``."""
    from study.data_commands import cache_split

    for split in ("train", "test"):
        chosen = (options.image_size, options.data_root, options.workers)
        print(cache_split(options.dataset, split, *chosen))


def draw_figures(options: Namespace) -> None:
    """``kdlib figures``."""
    from study.figures import draw_all

    for path in draw_all(options.root, options.to):
        print(path)


def analyse_runs(options: Namespace) -> None:
    """``kdlib analyse``."""
    from study.analyses.measure import KEY_METHODS, analyse

    written = analyse(
        options.root,
        options.methods or KEY_METHODS,
        dataset=options.dataset,
        data_root=options.data_root,
        maps_seed=options.maps_seed,
        progress=sys.stderr.isatty(),
    )
    print(f"{len(written)} runs in {options.root} were analysed; those analysed before are kept")


def export_network(options: Namespace) -> None:
    """``kdlib export``."""
    from study.export import ExportError, Plan, export_run, report

    plan = Plan(
        format=options.format,
        to=options.to,
        threads=options.threads,
        batch_sizes=tuple(options.batch_sizes),
        rounds=options.rounds,
        measure=not options.no_measure,
    )
    shown = {"data_root": options.data_root, "progress": sys.stderr.isatty()}
    try:
        record = export_run(options.run, options.runs, plan, **shown)
    except ExportError as error:
        print(error, file=sys.stderr)
        raise SystemExit(EXIT_FAILED) from error
    print(report(record))


def import_data(options: Namespace) -> None:
    """``kdlib data import``."""
    from kdlib.data.fashion import import_dataset

    print(import_dataset(options.dataset, options.source, options.data_root))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns the exit status (2: the user's mistake, 1: a failure)."""
    return ended(lambda: _call(arguments))


def _call(arguments: Sequence[str] | None) -> None:
    options = parser().parse_args(arguments)
    options.call(options)


def parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    top = argparse.ArgumentParser(prog="kdlib", description="Attention-based distillation.")
    subparsers = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_run(subparsers)
    _add_results(subparsers)
    _add_figures(subparsers)
    _add_ledger(subparsers)
    _add_analyse(subparsers)
    _add_export(subparsers)
    _add_data(subparsers)
    methods = subparsers.add_parser(
        "methods", help="list the methods: source, formula, default weight and options"
    )
    methods.set_defaults(call=list_methods)
    return top


def _add_run(subparsers: Any) -> None:
    run = subparsers.add_parser(
        "run",
        help="execute one notebook with checked parameters",
        description="Execute one notebook in its own folder, with checked parameters.",
        epilog="example: kdlib run 05_distill -p methods '[student, dct+kd]' -p data_seed 1",
    )
    run.add_argument("notebook", help="a name such as 05_distill, or the path of a notebook")
    run.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of the notebook, its value in YAML; may be repeated",
    )
    run.add_argument(
        "--parameters",
        type=_json_object,
        default={},
        metavar="JSON",
        help="parameters as one JSON object",
    )
    run.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the executed notebook (default: runs/notebooks/NAME.ipynb)",
    )
    run.add_argument(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="for the whole notebook (default: a day)",
    )
    mode = run.add_mutually_exclusive_group()
    mode.add_argument(
        "--store",
        action="store_true",
        help="execute with the defaults; store the outputs in the notebook",
    )
    mode.add_argument(
        "--list",
        action="store_true",
        dest="show",
        help="list the notebook's parameters and their defaults",
    )
    run.set_defaults(call=run_notebook)


def _add_results(subparsers: Any) -> None:
    results = subparsers.add_parser(
        "results", help="print the results table", description="Print the results table."
    )
    results.add_argument(
        "roots",
        nargs="*",
        type=Path,
        default=[Path("records")],
        metavar="FOLDER",
        help="folders of runs or records (default: records)",
    )
    results.add_argument("--profile", help="only the runs of this profile")
    results.add_argument(
        "--epochs", type=_positive, metavar="N", help="the profile's runs cut to so many epochs"
    )
    results.add_argument(
        "--images", type=_positive, metavar="N", help="and to so many training images"
    )
    task = results.add_mutually_exclusive_group()
    task.add_argument(
        "--publish",
        type=Path,
        metavar="FOLDER",
        help="copy records and histories to FOLDER, where they are committed",
    )
    task.add_argument(
        "--tune", metavar="DATASET", help="choose each method's weight from dev-split records"
    )
    task.add_argument(
        "--readme", type=Path, metavar="FILE", help="make the tables of a README anew"
    )
    results.set_defaults(call=show_results)


def _add_figures(subparsers: Any) -> None:
    figures = subparsers.add_parser(
        "figures", help="draw every figure from records", description="Draw every figure."
    )
    figures.add_argument(
        "root",
        nargs="?",
        type=Path,
        default=Path("records"),
        metavar="FOLDER",
        help="folder of runs or records (default: records)",
    )
    figures.add_argument(
        "--to",
        type=Path,
        default=Path("figures"),
        metavar="FOLDER",
        help="where the figures go (default: figures)",
    )
    figures.set_defaults(call=draw_figures)


def _add_ledger(subparsers: Any) -> None:
    ledger = subparsers.add_parser(
        "ledger",
        help="write every published number and figure beside ours",
        description="Write every published number and figure beside ours, as a page.",
    )
    ledger.add_argument(
        "roots",
        nargs="*",
        type=Path,
        default=[Path("records")],
        metavar="FOLDER",
        help="folders of runs or records (default: records)",
    )
    ledger.add_argument(
        "--to",
        type=Path,
        default=Path("LEDGER.md"),
        metavar="FILE",
        help="the page (default: LEDGER.md)",
    )
    ledger.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit with 1 if the page is not what the records give",
    )
    ledger.set_defaults(call=make_ledger)


def _add_analyse(subparsers: Any) -> None:
    analyse = subparsers.add_parser(
        "analyse",
        help="measure what trained networks show beyond their accuracy",
        description="Calibration, robustness, spectra and attention maps of finished runs, "
        "written beside their records. It goes on where it was stopped.",
    )
    add = analyse.add_argument
    add("root", type=Path, metavar="RUNS", help="folder of runs, with their weights")
    add(
        "--methods",
        nargs="+",
        metavar="METHOD",
        help="only these; 'teacher' for the networks that taught (default: the key methods)",
    )
    add("--dataset", metavar="NAME", help="only runs on this data set (default: all)")
    add("--maps-seed", type=int, default=0, metavar="SEED", help="its runs keep attention maps")
    add("--data-root", type=Path, metavar="FOLDER", help="of the real data sets")
    analyse.set_defaults(call=analyse_runs)


def _add_export(subparsers: Any) -> None:
    export = subparsers.add_parser(
        "export",
        help="write a trained student to a file that runs without kdlib",
        description="Write the network of a finished run to one file, check it against PyTorch, "
        "score and time it beside its teacher. The file takes RGB images, uint8, in batches of "
        "any size, and gives logits; what was found goes to FILE.json.",
        epilog="example: kdlib export scenes-a2-scenes_student-dct+kd-s0 --format onnx",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = export.add_argument
    add("run", type=Path, metavar="RUN", help="a run's directory, its id or how its id begins")
    add("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="of all runs")
    add("--format", default="onnx", metavar="NAME", help="onnx (onnxruntime) or torch (.pt2)")
    add("--to", type=Path, metavar="FILE", help="instead of student.onnx in the run's directory")
    add("--data-root", type=Path, metavar="FOLDER", help="of the real data sets")
    add("--threads", type=_positive, default=1, metavar="N", help="of the processor")
    sizes = {"type": _positive, "nargs": "+", "default": [1, 64], "metavar": "N"}
    add("--batch-sizes", **sizes, help="in which it is checked and timed")
    add("--rounds", type=_positive, default=30, metavar="N", help="how often each is timed")
    add("--no-measure", action="store_true", help="only write and check; no scores, no times")
    export.set_defaults(call=export_network)


def _add_data(subparsers: Any) -> None:
    data = subparsers.add_parser("data", help="list, check, import or cache data sets")
    actions = data.add_subparsers(title="actions", required=True, metavar="ACTION")
    actions.add_parser("list", help="the data sets, a line each").set_defaults(call=list_data)
    check = actions.add_parser("check", help="load a data set and tell what it holds")
    bring = actions.add_parser("import", help="bring files that are on this machine into place")
    cache = actions.add_parser(
        "cache",
        help="resize photographs once, so that epochs need not decode them",
        description="Keep the resized photographs of a data set in one file, in $KDLIB_CACHE. "
        "Interrupt and repeat at will; what changes in the data set is noticed.",
    )
    calls = {check: check_data, bring: import_data, cache: cache_data}
    for action, call in calls.items():
        action.add_argument("dataset", help="name of the data set")
        action.add_argument(
            "--data-root",
            type=Path,
            metavar="FOLDER",
            help="folder of the real data sets (default: $KDLIB_DATA)",
        )
        action.set_defaults(call=call)
    bring.add_argument(
        "--from",
        type=Path,
        dest="source",
        metavar="FOLDER",
        help="where the files lie (default: where Debian's package puts them)",
    )
    cache.add_argument(
        "--image-size",
        type=int,
        default=224,
        metavar="PIXELS",
        help="of the runs that will read it (default: 224; photographs are resized to 256/224)",
    )
    cache.add_argument(
        "--workers",
        type=_positive,
        metavar="N",
        help="threads (default: $KDLIB_WORKERS, or one a core)",
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("not a whole number from 1")
    return value


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise argparse.ArgumentTypeError("nested too deeply") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return value
