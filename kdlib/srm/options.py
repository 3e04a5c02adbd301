"""The options of SRM, and the runs that an SRM student starts from."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from kdlib.errors import kindly

if TYPE_CHECKING:
    from kdlib.runs import RunConfig

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]


@kindly("option of SRM")
@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class SrmOptions:
    """Options of SRM; the defaults are those of its paper on CIFAR-100.

    ``release`` says whether the pixels' cross-entropy takes the codes for logits, as released, or
    what they are the sigmoid of. The student's first ``classifier`` is ``fresh``, that of every
    student of its seed, or the linear ``probe`` of the initialised features (the paper's two-step
    variant). ``init_optimiser`` is what trains the initialisation: ``adam`` as released, with its
    own rate, or the ``run``'s own optimiser with the run's rate and schedule.
    """

    mu: Positive = 2.0  # atoms for each channel of the teacher
    sparsity: Share = 0.02  # of the atoms a code keeps, at least one; narrow stages need 0.05
    dictionary_epochs: Annotated[int, Field(gt=0)] = 100
    dictionary_rate: Positive = 1e-3  # of Adam, at first
    dictionary_steps: Sequence[float] = (0.1, 0.7)  # shares after which it falls to a tenth
    targets: Literal["global-local", "local", "global"] = "global-local"  # labels of the student
    release: bool = True
    init_share: Share = 0.444  # of a student's epochs; 160 of 360 as published
    init_optimiser: Literal["adam", "run"] = "adam"
    init_rate: Positive = 1e-3  # of Adam, at first
    init_steps: Sequence[float] = (30 / 160, 130 / 160)  # as dictionary_steps
    classifier: Literal["fresh", "probe"] = "fresh"

    def atoms(self, channels: int) -> int:
        """Atoms M of a stage with so many channels."""
        return max(1, int(self.mu * channels))

    def kept(self, atoms: int) -> int:
        """Atoms s that a pixel's code keeps of so many."""
        return max(1, int(self.sparsity * atoms))


OF_DICTIONARY = ("mu", "sparsity", "dictionary_rate", "dictionary_steps")
OF_INITIALISATION = (
    *OF_DICTIONARY, "dictionary_epochs", "targets", "release", "init_optimiser", "init_rate",
    "init_steps",
)  # fmt: skip


def initialisation_of(run: "RunConfig") -> "RunConfig":
    """The run that an ``srm`` run, with or without KD, goes on from; each has an epoch at least."""
    share = SrmOptions(**run.method_options).init_share
    epochs = max(1, min(run.epochs - 1, round(share * run.epochs)))
    return _stage(run, "srm_init", OF_INITIALISATION, epochs=epochs)


def initialisation_on_logits(run: "RunConfig") -> "RunConfig":
    """The same of an ``srm_logits`` run."""
    return initialisation_of(replace(run, method_options={**run.method_options, "release": False}))


def dictionary_of(run: "RunConfig") -> "RunConfig":
    """The run that learns the dictionaries of a run's teacher: one for all students and seeds."""
    return _stage(
        run,
        "srm_dictionary",
        OF_DICTIONARY,
        epochs=SrmOptions(**run.method_options).dictionary_epochs,
        student=run.teacher,
        start=None,
        learning_rate=run.teacher_learning_rate or run.learning_rate,
        teacher_learning_rate=None,
        data_seed=run.teacher_seed,
        init_seed=run.teacher_seed,
    )


def _stage(run: "RunConfig", method: str, options: tuple[str, ...], **own: Any) -> "RunConfig":
    """A run with its own options; its one term does not depend on the weights of others'."""
    blank = type(run)()
    own |= {n: getattr(blank, n) for n in ("weight", "ce_weight", "kd_weight", "temperature")}
    given = {name: value for name, value in run.method_options.items() if name in options}
    return replace(run, method=method, method_options=given, **own)
