"""A reproducible companion to attention-based knowledge distillation (arXiv 2205.01997)."""

__version__ = "0.1.0"
