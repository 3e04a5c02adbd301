"""SRM, FRSKD, detectors, networks and measures, as functions of a case: to our values."""
