"""What the fields of a run may be, as far as it can be told without data or networks."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from kdlib.errors import KdlibError, quoted, shown, unknown
from kdlib.kinds import check_kind
from kdlib.tasks import TASKS

CHOICES = {
    "precision": ("float32", "bfloat16", "auto"),
    "schedule": ("one_cycle", "step", "constant"),
    "split": ("train", "dev"),
    "optimiser": ("sgd", "adam"),
    "task": tuple(TASKS),
}
NAMES = ("dataset", "teacher", "student", "method")
ABOVE_0 = ("learning_rate", "temperature", "teacher_learning_rate", "gradient_clip")
FROM_1 = (
    "attentions", "image_size", "train_size", "test_size", "epochs", "teacher_epochs",
    "batch_size", "milestones", "crop_size",
)  # fmt: skip
FROM_0 = ("distractors", "data_seed", "init_seed", "teacher_seed")
WEIGHTS = ("weight", "ce_weight", "kd_weight", "momentum", "weight_decay")
LARGEST = 2**63 - 1
"""Of a whole number, where arrays and random streams can still count with it."""
LIMITS: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (ABOVE_0, lambda number: number > 0, "greater than 0"),
    (FROM_1, lambda number: number >= 1, "1 or more"),
    ((*FROM_0, *WEIGHTS), lambda number: number >= 0, "0 or more"),
    (("momentum",), lambda number: number < 1, "less than 1"),
    ((*FROM_1, *FROM_0), lambda number: number <= LARGEST, f"at most {LARGEST}"),
)


def check_values(values: Mapping[str, Any], annotations: Mapping[str, Any]) -> None:
    """Refuse values of another kind than their annotations', unknown names, and odd numbers.

    Raises:
        KdlibError: names the field, its value and what is valid.
    """
    for name, annotation in annotations.items():
        check_kind(name, values[name], annotation)
    for name, valid in CHOICES.items():
        if values[name] not in valid:
            raise unknown(name, values[name], valid)
    for name in NAMES:
        _check_name(name, values[name])
    _check_numbers(values)
    _check_json("method_options", values["method_options"])


def _check_name(field: str, name: str) -> None:
    """Names are parts of that of a run's directory: none may lead out of it."""
    if not re.fullmatch(r"[\w.+-]{1,80}", name, re.ASCII):
        raise KdlibError(
            f"{field} is {quoted(name)}; a name has 1 to 80 letters, digits and . _ + - alone."
        )


def _check_numbers(values: Mapping[str, Any]) -> None:
    for names, holds, words in LIMITS:
        for name in names:
            for number in _numbers(values[name]):
                if not holds(number):
                    raise KdlibError(f"{name} is {shown(number)}; it must be {words}.")


def _numbers(value: Any) -> tuple[float, ...]:
    """Those of a field: none, one or several."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _check_json(field: str, value: Any) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise KdlibError(
            f"{field} is {shown(value)}; give numbers, texts, lists and mappings of these "
            f"({shown(str(error))})."
        ) from error
