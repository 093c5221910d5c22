"""Governor: readings -> a budget -> thresholds, so that exits follow heat, load, battery and latency."""

from edgeexit.governor.curves import DEFAULT_CURVES, BudgetCurve, read_curves
from edgeexit.governor.governor import Governor
from edgeexit.governor.ladder import Ladder, PolicyStep
from edgeexit.governor.loop import Loop
from edgeexit.governor.settings import GovernorSettings, Move

__all__ = [
    "DEFAULT_CURVES",
    "BudgetCurve",
    "Governor",
    "Ladder",
    "Loop",
    "Move",
    "PolicyStep",
    "GovernorSettings",
    "read_curves",
]
