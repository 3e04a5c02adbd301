"""How well objects are found: COCO's average precision and the errors that cost it.

:class:`~kdlib.detection.marks.DetectionMarks` collects what a detector finds, batch after batch;
:mod:`kdlib.detection.average_precision` and :mod:`kdlib.detection.error_types` measure it.
"""
