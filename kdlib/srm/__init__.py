"""Sparse Representation Matching beyond its losses: its stages, and what its atoms mean.

The losses are in :mod:`kdlib.srm.losses`, what learns from them in
:mod:`kdlib.srm.losses`, the options in
:mod:`kdlib.srm.losses`.
"""
