"""From recorded exit outputs to operating points: thresholds and temperatures.

numpy and the standard library only.
"""

from edgeexit.calibrate.choose import calibrate
from edgeexit.calibrate.search.candidates import CandidateFamily
from edgeexit.calibrate.search.front import ParetoFront, Point
from edgeexit.calibrate.search.pareto import pareto, patience_path
from edgeexit.calibrate.temperature import fit_temperature, fit_temperatures

__all__ = [
    "CandidateFamily",
    "ParetoFront",
    "Point",
    "calibrate",
    "fit_temperature",
    "fit_temperatures",
    "pareto",
    "patience_path",
]
