"""Sparse Representation Matching, SRM (Tran 2021, arXiv 2103.17012)."""
