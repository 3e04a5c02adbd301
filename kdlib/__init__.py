"""A reproducible companion to attention-based knowledge distillation (arXiv 2205.01997).

All of this is imported from ``kdlib`` itself, and loaded when it is first asked for.

Losses, of lists of feature maps (B, C, H, W), one per stage, fine to coarse, or of logits (B, K):
    DCTLoss, dct_loss (what they compare: SpectralOptions); ATLoss, at_loss; KDLoss, kd_loss,
    dkd_loss of logits; sp_loss, pkt_loss, rkd_loss of relations between the images of a batch;
    attention_map, dct_2d: the map of a stage (B, H, W), and its transform.
Networks and data, by name, yours included:
    create_model, model_names, register_model; Output, which a network returns: logits, stages,
    embedding; pretrained, which ships trained; load_data, dataset_names.
Runs:
    RunConfig decides a run, fit trains it; read_record, trained_network, predict: what it has left;
    METHODS, register_method: methods by name, yours included.
A training loop of your own:
    FrozenTeacher; create_distiller makes a Distiller, which gives a method's named, weighted terms.
Errors:
    KdlibError: a mistake in what was given, with what is valid; DivergedError: a loss without end.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdlib.data import dataset_names, load_data
    from kdlib.distill import Distiller, FrozenTeacher, create_distiller
    from kdlib.errors import KdlibError
    from kdlib.evaluate import predict, trained_network
    from kdlib.losses.attention import ATLoss, at_loss, attention_map
    from kdlib.losses.dct import DCTLoss, SpectralOptions, dct_2d, dct_loss
    from kdlib.losses.logits import KDLoss, dkd_loss, kd_loss
    from kdlib.losses.relations import pkt_loss, rkd_loss, sp_loss
    from kdlib.methods import METHODS, register_method
    from kdlib.models import create_model, model_names, register_model
    from kdlib.models.output import Output
    from kdlib.runs import RunConfig, read_record
    from kdlib.shipped import pretrained
    from kdlib.train import fit
    from kdlib.train_state import DivergedError

__version__ = "0.1.0"
__all__ = [
    "METHODS", "ATLoss", "DCTLoss", "Distiller", "DivergedError", "FrozenTeacher", "KDLoss",
    "KdlibError", "Output", "RunConfig", "SpectralOptions", "at_loss", "attention_map",
    "create_distiller", "create_model", "dataset_names", "dct_2d", "dct_loss", "dkd_loss", "fit",
    "kd_loss", "load_data", "model_names", "pkt_loss", "predict", "pretrained", "read_record",
    "register_method", "register_model", "rkd_loss", "sp_loss", "trained_network",
]  # fmt: skip
_PLACES = {
    "losses.dct": ("DCTLoss", "SpectralOptions", "dct_2d", "dct_loss"), "errors": ("KdlibError",),
    "distill": ("Distiller", "FrozenTeacher", "create_distiller"), "models.output": ("Output",),
    "models": ("create_model", "model_names", "register_model"), "train_state": ("DivergedError",),
    "losses.attention": ("ATLoss", "at_loss", "attention_map"), "train": ("fit",),
    "losses.relations": ("pkt_loss", "rkd_loss", "sp_loss"), "data": ("dataset_names", "load_data"),
    "losses.logits": ("KDLoss", "dkd_loss", "kd_loss"), "evaluate": ("predict", "trained_network"),
    "methods": ("METHODS", "register_method"), "runs": ("RunConfig", "read_record"),
    "shipped": ("pretrained",),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load what is asked for (PEP 562), and keep it."""
    for place, names in _PLACES.items():
        if name in names:
            globals()[name] = getattr(import_module(f"kdlib.{place}"), name)
            return globals()[name]
    raise AttributeError(f"module 'kdlib' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
