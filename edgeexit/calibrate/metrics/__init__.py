"""Metrics: intervals, calibration error, uncertainty."""
