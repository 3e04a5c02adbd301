"""KD_cls: a classifier's answer to an object's crop, taught to a detector's class scores.

Source: Guo, Alvarez, Salzmann 2021, arXiv 2106.05209, section 3.1. A row is a *positive*: an anchor
or a proposal that is matched to an object, together with the classifier's logits for that object's
crop. Detectors of torchvision have C + 1 outputs, of which number 0 is the background.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from kdlib.losses.numeric import divide, working_precision


def softmax_recognition(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """``T^2 KL(softmax(z_t / T) || softmax(z_s / T))`` of (P, C + 1) and (P, C) -> (P,).

    The teacher knows no background, so its probability of that is 0. For SSD and Faster R-CNN
    (equation 2). No gradient reaches the teacher.
    """
    told = functional.softmax(_softened(teacher.detach(), temperature), dim=-1)
    answer = functional.log_softmax(_softened(student, temperature), dim=-1)
    divergence = functional.kl_div(answer, functional.pad(told, (1, 0)), reduction="none")
    return temperature**2 * divergence.sum(-1)


def sigmoid_recognition(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """``kl-ce``: the sigmoids of each network, divided by their sum, compared by ``T^2 KL``.

    (P, C + 1), (P, C) -> (P,). For RetinaNet, whose classes do not compete, so that the background
    has no score of its own. No gradient reaches the teacher.
    """
    told = _shares(_softened(teacher.detach(), temperature))
    answer = _shares(_softened(student[:, 1:], temperature))
    divergence = functional.kl_div(answer.log(), told, reduction="none")
    return temperature**2 * divergence.sum(-1)


def binary_recognition(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """``kl-bce``: ``T^2 KL`` of yes and no to each class, averaged over classes.

    (P, C + 1), (P, C) -> (P,). The paper swaps yes and no for the object's own class, which changes
    the terms' names and not their sum. No gradient reaches the teacher.
    """
    told = _softened(teacher.detach(), temperature)
    answer = _softened(student[:, 1:], temperature)
    yes, no = told.sigmoid(), (-told).sigmoid()
    # Logarithms of sigmoids, not of probabilities: a sure answer is no infinity.
    divergence = yes * (functional.logsigmoid(told) - functional.logsigmoid(answer))
    divergence = divergence + no * (functional.logsigmoid(-told) - functional.logsigmoid(-answer))
    return temperature**2 * divergence.mean(-1)


RECOGNITION: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "softmax": softmax_recognition,
    "kl_ce": sigmoid_recognition,
    "kl_bce": binary_recognition,
}
"""Forms of KD_cls by name; the first is for detectors with a softmax, the others with sigmoids."""


def _softened(logits: Tensor, temperature: float) -> Tensor:
    return working_precision(logits) / temperature


def _shares(logits: Tensor) -> Tensor:
    """Sigmoids over their sum, each at least the smallest that has a finite logarithm."""
    scores = logits.sigmoid()
    return divide(scores, scores.sum(-1, keepdim=True)).clamp_min(1e-12)
