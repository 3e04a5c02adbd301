"""A classifier together with its self-teacher, as one network."""

from torch import Tensor, nn

from kdlib.models.output import Output


class RefinedNetwork(nn.Module):
    """What a self-teacher makes of a student's stages, measured like any network.

    Args:
        student: the classifier; its own logits are not read.
        self_teacher: from the student's stages to an ``Output``.
        classes: logits beyond these, of rotated images, are left out.
    """

    def __init__(self, student: nn.Module, self_teacher: nn.Module, classes: int) -> None:
        super().__init__()
        self.student, self.self_teacher, self.classes = student, self_teacher, classes

    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, H, W), normalised -> the self-teacher's logits, refined maps, features."""
        refined = self.self_teacher(self.student(images).stages)
        return refined._replace(logits=refined.logits[:, : self.classes])
