"""Deployed students: one file that takes images as they are decoded and gives logits."""

from kdlib.export.errors import ExportError
from kdlib.export.export import export_run
from kdlib.export.formats import FORMATS
from kdlib.export.plan import Plan

__all__ = ["FORMATS", "ExportError", "Plan", "export_run"]
