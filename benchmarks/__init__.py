"""Speeds, measured side by side in one process: ratios hold where single times do not."""
