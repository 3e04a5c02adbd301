"""The command line: each function is a command, and its signature is what the command takes."""

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from kdlib.errors import KdlibError, ended, quoted, shown, unknown
from study.arguments import USUAL, Count, Flag, Pairs, Plan, Words
from study.data_commands import cache_dataset, check_dataset, clean_cache, import_dataset

RECORDS, FIGURES, LEDGER = Path("records"), Path("figures"), Path("LEDGER.md")

QUIET: Any = {"result_action": "return_value", "version_flags": (), "help_format": "markdown"}
QUIET |= {"suppress_keyboard_interrupt": False}  # which is told, by whoever runs a command
QUIET |= {"default_parameter": Parameter(json_list=False, json_dict=False)}  # words are words

app = App("kdlib", help="Attention-based distillation.", **QUIET)
data = App("data", help="List, check, import or cache data sets.", **QUIET)
app.command(data)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (2: the user's mistake, 1: a failure)."""

    def command() -> int:
        found = called(app, arguments)
        return found if isinstance(found, int) else 0

    return ended(command)


def json_object(text: str) -> dict[str, Any]:
    """The mapping that a text in JSON holds; a KdlibError if it holds none."""
    with suppress(ValueError, RecursionError):
        if isinstance(value := json.loads(text), dict):
            return value
    raise KdlibError(f"{quoted(text)} is not a JSON object, such as '{{\"epochs\": 3}}'.")


def called(program: App, arguments: Sequence[str] | None) -> Any:
    """Run a command; words that it does not take are a :class:`KdlibError`."""
    first = next(iter(sys.argv[1:] if arguments is None else arguments), "-")
    if not first.startswith("-") and first not in (commands := [*program]):
        raise unknown("command", first, [name for name in commands if not name.startswith("-")])
    try:
        return program(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise KdlibError(f"{error} See --help.") from error


@app.command
def run(
    notebook: str, *, parameter: Pairs = (), parameters: str = "{}", output: Path | None = None,
    time_limit: float = 24 * 3600, store: Flag = False,
    list_: Annotated[bool, Parameter("--list", negative=())] = False,
    attempt: int = 0, gpus: int = 0,
) -> int | None:  # fmt: skip
    """Execute one notebook in its own folder, with checked parameters.

    Example: kdlib run 05_distill -p methods '[student, dct+kd]' -p data_seed 1

    Args:
        notebook: a name such as 05_distill, or the path of a notebook.
        parameter: name and value, in YAML, of one of its parameters; may be repeated.
        parameters: parameters as one JSON object.
        output: the executed notebook; by default runs/notebooks/NAME.ipynb.
        time_limit: seconds for the whole notebook.
        store: execute with the defaults, and store the outputs in the notebook.
        list_: list the notebook's parameters and their defaults; execute nothing.
        attempt: which try of a batch's job this is, as workflow/Snakefile counts them.
        gpus: of a batch's job; locked for it alone.
    """
    from study import notebooks

    found = notebooks.find_notebook(notebook)
    given, names = json_object(parameters), [name for name, _ in parameter]
    if twice := [name for name in names if name in given or names.count(name) > 1]:
        raise KdlibError(f"Parameter '{shown(twice[0])}' is given twice; give it once.")
    given |= {name: notebooks.parse_value(text) for name, text in parameter}
    if list_:
        defaults = notebooks.parameter_defaults(found).items()
        return print("\n".join(f"{name} = {value!r}" for name, value in defaults))
    if store and given:
        raise KdlibError("--store keeps the outputs of the defaults; give it no parameters.")
    target = output or Path("runs/notebooks") / found.name
    if attempt:
        from study.jobs import run_once

        return run_once(found, target, given, attempt, time_limit, gpus)
    try:
        if store:
            done = notebooks.store_outputs(found, time_limit)
        else:
            done = notebooks.execute_notebook(found, target, given, time_limit)
    except notebooks.ExecutionError as error:
        raise SystemExit(str(error)) from error
    return print(f"{found.stem}: {done}")


@app.command
def results(
    *roots: Path, profile: str | None = None, epochs: Count | None = None,
    images: Count | None = None, full: Flag = False, publish: Path | None = None,
    tune: str | None = None, readme: Path | None = None,
) -> None:  # fmt: skip
    """Print what the study found, else all tables; or do what one of the last three says.

    Args:
        roots: folders of runs or records; by default records.
        profile: only the runs of this profile.
        epochs: the profile's runs cut to so many epochs.
        images: and to so many training images.
        full: every table and every verdict too.
        publish: seal records and histories in this folder, where they are committed; with
            --profile, only those of its runs, and of what these need.
        tune: choose each method's weight on this data set from dev-split records.
        readme: make the tables of this README, and of the pages beside it, anew.
    """
    chosen = roots or (RECORDS,)
    if sum(task is not None for task in (publish, tune, readme)) > 1:
        raise KdlibError("Give one of --publish, --tune and --readme.")
    if tune:
        from study.tuning import write_tuned

        print(f"chosen weights: {write_tuned(chosen[0], tune)}")
    elif publish:
        from study.profiles import finished
        from study.records import publish as copied

        done = [copied(root, publish, profile and finished(profile, root)) for root in chosen]
        print(f"{sum(map(len, done))} records are in {publish}")
    elif readme:
        if not (readme.name == "README.md" and readme.is_file()):
            says = "is not the README.md that the pages lie beside; give that."
            raise KdlibError(f"--readme {quoted(str(readme))} {says}")
        from study.pages import update_readme

        print(f"{readme}: {', '.join(update_readme(readme, chosen)) or 'nothing'} changed")
    else:
        from study.pages import found
        from study.results import print_results

        told = "" if profile else found(chosen, full)
        if profile or full or not told:
            print_results(list(chosen), profile, epochs=epochs, images=images)
        print(told)


@app.command
def study(parts: str = "", *, fresh: str = "") -> None:
    """Tell how many runs of each part of the study there are, in runs and in records.

    The parts that lack some are printed, for make study.

    Args:
        parts: names, such as 'tune confirm'; by default all.
        fresh: parts of which the committed runs do not count.
    """
    from study.parts import tell

    print(*tell(parts, fresh, Path("runs"), RECORDS))


@app.command
def figures(root: Path = RECORDS, *, to: Path = FIGURES) -> None:
    """Draw every figure from records.

    Args:
        root: folder of runs or records.
        to: where the figures go.
    """
    from study.figures import draw_all

    for path in draw_all(root, to):
        print(path)


@app.command
def ledger(*roots: Path, to: Path = LEDGER, check: Flag = False) -> None:
    """Write every published number and figure beside ours, as a page.

    Args:
        roots: folders of runs or records; by default records.
        to: the page.
        check: write nothing; exit with 1 if the page is not what the records give.
    """
    from kdlib.files import write_text
    from study.ledger.page import check_page, pages

    chosen = roots or (RECORDS,)
    if not check:
        for path, text in pages(to, chosen).items():
            write_text(path, text)
        print(f"{to} is made from the records in {', '.join(map(str, chosen))}")
        return
    try:
        check_page(to, chosen)
    except KdlibError as error:
        raise SystemExit(str(error)) from error
    print(f"{to} is what the records give")


@app.command
def methods(name: str | None = None) -> None:
    """List the methods: default weight, formula and source.

    Args:
        name: of one method, whose options are listed too.
    """
    from kdlib.methods import METHODS, MODIFIERS, method_of

    for one in [name] if name else METHODS:
        method = method_of(one)
        weight = f"weight {method.weight:g}" if method.build else ""
        print(f"{one:15} {method.source}\n{'':15} {method.formula}\n{'':15} {weight}".rstrip())
    if name:
        options = ", ".join(map("{0[0]} {0[1]}".format, method_of(name).options.items()))
        print(f"{'':15} options: {options or 'none'}")
    print(f"modifiers: {', '.join('+' + word for word in MODIFIERS)} (as in dct+kd)")


# Commands whose work needs PyTorch: it is loaded when they work, and not for their help.
@app.command
def analyse(
    root: Path, *, methods: Words = None, dataset: str | None = None, maps_seed: int = 0,
    data_root: Path | None = None,
) -> None:  # fmt: skip
    """Measure what trained networks show beyond their accuracy.

    Calibration, robustness, spectra and attention maps of finished runs, written beside their
    records. It goes on where it was stopped.

    Args:
        root: folder of runs, with their weights.
        methods: only these; 'teacher' for the networks that taught; by default the key methods.
        dataset: only runs on this data set.
        maps_seed: its runs keep attention maps and answers.
        data_root: folder of the real data sets; by default $KDLIB_DATA.
    """
    from study.analyses import KEY_METHODS, measure

    measure.analyse(root, methods or KEY_METHODS, dataset, maps_seed, data_root)


@app.command
def export(
    run: Path, *, runs: Path = Path("runs"), plan: Annotated[Plan, Parameter("*")] = USUAL,
    data_root: Path | None = None,
) -> None:  # fmt: skip
    """Write a trained student to a file that runs without kdlib.

    The file is checked against PyTorch, scored and timed beside its teacher. It takes RGB images,
    uint8, in batches of any size, and gives logits; what was found goes to FILE.json.

    Example: kdlib export scenes-a2-scenes_student-dct+kd-s0 --format onnx

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


@app.command
def verify(
    *run: Path, root: Path = RECORDS, runs: Path | None = None, data_root: Path | None = None,
    within: float = 0.01,
) -> int:  # fmt: skip
    """Make runs again here from their records, and compare every number but times.

    Without a RUN, those in --runs are compared as they are, as far as they have a record.

    The exit status is 0 if all have the same bits, 3 if some are only the same within a tolerance,
    1 if one differs. What differs in the conditions is told.

    Args:
        run: a run's directory, its id, or how its id begins.
        root: folder of records or runs, in which ids are looked for.
        runs: folder of trained runs; teachers and earlier runs that it has are not made again.
        data_root: folder of the real data sets; by default $KDLIB_DATA.
        within: the largest difference that counts as close, of any measure.
    """
    from study import verify as verifying

    return verifying.verify(run, root, runs, data_root, within)


@data.command(name="list")
def data_list() -> None:
    """The data sets, a line each."""
    from kdlib.data import DATASETS

    for name, found in DATASETS.items():
        print(f"{name:16} {found.about}")


data.command(check_dataset, name="check")
data.command(import_dataset, name="import")
data.command(cache_dataset, name="cache")
data.command(clean_cache, name="clean")
