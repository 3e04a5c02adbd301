"""What a method with layers of its own must know before it meets a batch."""

from dataclasses import dataclass

from torch import Tensor

from kdlib.errors import KdlibError
from kdlib.losses.attention import aligned
from kdlib.models.output import Shapes


@dataclass(frozen=True)
class Pair:
    """A student and a teacher, by their shapes, and the data that they meet."""

    student: Shapes
    given: Shapes | None  # the teacher, if any
    labels: Tensor  # (N,), of the whole training set, in the order of Batch.indices
    batch_size: int  # of full batches
    seed: int  # of draws during training
    classes: int  # the student's logits
    pixels: int | None = None  # height and width of the logits in segmentation

    @property
    def teacher(self) -> Shapes:
        """The teacher's shapes; a KdlibError where there is no teacher."""
        if self.given is None:
            raise KdlibError("This method is made for a teacher; name one, not teacher='none'.")
        return self.given

    @property
    def channels(self) -> list[tuple[int, int]]:
        """Student's and teacher's channels of each pair of stages that are compared."""
        pairs = aligned(self.student.stages, self.teacher.stages)
        return [(mine[0], theirs[0]) for mine, theirs in pairs]
