"""What all methods share: labels and KD read the same logits, in float32."""

import torch

from kdlib.data.batches import Batch
from kdlib.distill import Distiller, TeacherOutput
from kdlib.models.output import Output

CLASSES = 16


def test_gradients_of_labels_and_kd_add_up_in_float32():
    stream = torch.Generator().manual_seed(0)
    mine, theirs = (5 * torch.randn(32, CLASSES, generator=stream) for _ in range(2))
    nothing = torch.zeros(32, 1)
    labels = torch.arange(32) % CLASSES
    batch = Batch(torch.zeros(32, 3, 1, 1), labels, labels)
    distiller = Distiller(
        "kd", None, weight=0.0, ce_weight=1.0, kd_weight=1.0, temperature=4.0, gate=False
    )
    gradients = []
    for precision in (torch.bfloat16, torch.float32):
        logits = mine.bfloat16().to(precision).requires_grad_()
        teacher = TeacherOutput(theirs, (), nothing)
        terms = distiller(Output(logits, (), nothing), teacher, batch)
        torch.stack(list(terms.values())).sum().backward()
        gradients.append(logits.grad)
    assert torch.equal(gradients[0], gradients[1].bfloat16())
