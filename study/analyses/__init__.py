"""What trained networks show beyond their accuracy, measured once and kept beside their records.

Weights are not committed, so all that needs them is measured where they lie (:mod:`.batch`) and
written as ``analysis.json``, a small file of its own; figures and notebooks read that
(:mod:`.files`). A measure a room: :mod:`.calibration`, :mod:`.robustness` under
:mod:`.corruptions`, :mod:`.spectra` of attention maps, and the :mod:`.maps` themselves.
"""
