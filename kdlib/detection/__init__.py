"""A classifier teaches a detector (Guo 2021, arXiv 2106.05209): its losses, models, data."""
