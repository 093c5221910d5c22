"""Readings -> a budget -> thresholds: the choice of exit follows heat, load, battery and latency."""

from edgeexit.governor.curves import DEFAULT_CURVES, Curve, read_curves
from edgeexit.governor.governor import Governor
from edgeexit.governor.ladder import Ladder, PolicyStep
from edgeexit.governor.loop import Loop
from edgeexit.governor.settings import Move, Settings

__all__ = ["DEFAULT_CURVES", "Curve", "Governor", "Ladder", "Loop", "Move", "PolicyStep", "Settings", "read_curves"]
