"""Sparse Representation Matching beyond its losses: its stages, and what its atoms mean.

The losses are in :mod:`kdlib.losses.sparse_codes`, what learns from them in
:mod:`kdlib.distillers.sparse_representation`, the options in
:mod:`kdlib.distillers.sparse_options`.
"""
