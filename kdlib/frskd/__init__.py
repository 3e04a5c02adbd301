"""FRSKD: feature refinement by a self-teacher (Ji 2021, arXiv 2103.08273)."""
