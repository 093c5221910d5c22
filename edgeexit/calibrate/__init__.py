"""Calibration: operating points (thresholds, temperatures) from recorded exit outputs.

numpy and the standard library only.
"""

from edgeexit.calibrate.choose import calibrate
from edgeexit.calibrate.families import candidate_family
from edgeexit.calibrate.search.family import CandidateFamily, PolicyFamily
from edgeexit.calibrate.search.front import ParetoFront, Point
from edgeexit.calibrate.search.pareto import pareto
from edgeexit.calibrate.search.patience import patience_front
from edgeexit.calibrate.spec import CalibrationSpec, Target
from edgeexit.calibrate.temperature import fit_temperature, fit_temperatures

__all__ = [
    "CalibrationSpec",
    "CandidateFamily",
    "ParetoFront",
    "Point",
    "PolicyFamily",
    "Target",
    "calibrate",
    "candidate_family",
    "fit_temperature",
    "fit_temperatures",
    "pareto",
    "patience_front",
]
