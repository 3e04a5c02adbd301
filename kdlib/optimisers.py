"""The optimisers that a run may ask for, by name."""

from collections.abc import Callable, Iterable

from torch import nn, optim

from kdlib.runs import RunConfig

ADAM_SECOND_BETA = 0.999
"""Decay of Adam's second moment, as nearly everybody has it; ``momentum`` is the first one's."""


def _sgd(config: RunConfig, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
    return optim.SGD(
        parameters,
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


def _adam(config: RunConfig, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
    """Weight decay is added to the gradient, as in PyTorch's Adam and the papers that use it."""
    return optim.Adam(
        parameters,
        lr=config.learning_rate,
        betas=(config.momentum, ADAM_SECOND_BETA),
        weight_decay=config.weight_decay,
    )


OPTIMISERS: dict[str, Callable[[RunConfig, Iterable[nn.Parameter]], optim.Optimizer]] = {
    "sgd": _sgd,
    "adam": _adam,
}


def create_optimiser(config: RunConfig, network: nn.Module) -> optim.Optimizer:
    """The optimiser of a run, over all parameters of ``network`` that are not frozen."""
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return OPTIMISERS[config.optimiser](config, learned)
