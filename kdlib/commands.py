"""What each subcommand of the command line does.

Each imports what it needs when it is called, so that ``--help`` and ``run`` start at once.
"""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from kdlib.endings import EXIT_FAILED
from kdlib.errors import KdlibError


def run_notebook(options: Namespace) -> None:
    """``kdlib run``."""
    from kdlib import execute

    notebook = execute.find_notebook(options.notebook)
    if options.show:
        for name, value in execute.parameter_defaults(notebook).items():
            print(f"{name} = {value!r}")
        return
    limit = execute.LIMIT_S if options.time_limit is None else options.time_limit
    given = {name: execute.parse_value(value) for name, value in options.parameter}
    parameters = {**options.parameters, **given}
    try:
        if options.store:
            _refuse_parameters(parameters)
            output = execute.store_outputs(notebook, limit)
        else:
            output = options.output or Path("runs/notebooks") / notebook.name
            output = execute.execute_notebook(notebook, output, parameters, limit)
    except execute.ExecutionError as error:
        print(error, file=sys.stderr)
        raise SystemExit(EXIT_FAILED) from error
    print(f"{notebook.stem}: {output}")


def _refuse_parameters(parameters: dict[str, Any]) -> None:
    if parameters:
        raise KdlibError("--store keeps the outputs of the defaults; give it no parameters.")


def show_results(options: Namespace) -> None:
    """``kdlib results``."""
    from kdlib.readme import update_readme
    from kdlib.results import print_results, publish
    from kdlib.tuning import write_tuned

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
    from kdlib.ledger.page import check_page, write_page

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
    from kdlib.distillers import METHODS, MODIFIERS
    from kdlib.method_table import describe

    for name, method in METHODS.items():
        print(describe(name, method))
    print(f"modifiers: {', '.join('+' + name for name in MODIFIERS)} (as in dct+kd)")


def list_data(options: Namespace) -> None:
    """``kdlib data list``."""
    from kdlib.data import about, dataset_names

    for name in dataset_names():
        print(f"{name:16} {about(name)}")


def check_data(options: Namespace) -> None:
    """``kdlib data check``."""
    from kdlib.data import checks

    for split in ("train", "test"):
        print(checks.check_split(options.dataset, split, options.data_root))


def cache_data(options: Namespace) -> None:
    """``kdlib data cache``."""
    from kdlib.data import checks

    for split in ("train", "test"):
        chosen = (options.image_size, options.data_root, options.workers)
        print(checks.cache_split(options.dataset, split, *chosen))


def draw_figures(options: Namespace) -> None:
    """``kdlib figures``."""
    from kdlib.figures import draw_all

    for path in draw_all(options.root, options.to):
        print(path)


def analyse_runs(options: Namespace) -> None:
    """``kdlib analyse``."""
    from kdlib.analyses.batch import KEY_METHODS, analyse

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
    from kdlib.export import ExportError, Plan, export_run
    from kdlib.export.report import report

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
    from kdlib.data.imports import import_dataset

    print(import_dataset(options.dataset, options.source, options.data_root))
