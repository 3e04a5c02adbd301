"""How well objects are found: COCO's average precision and the errors that cost it.

``DetectionMarks`` collects what a detector finds, batch after batch;
:mod:`kdlib.detection.evaluation` and :mod:`kdlib.detection.error_types` measure it.
"""
