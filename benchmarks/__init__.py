"""What this machine takes, measured when asked for; ``results`` holds what was found."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"
