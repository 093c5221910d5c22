"""EdgeExit: multi-exit neural networks that really stop early on the device.

::

    import edgeexit

    engine = edgeexit.load("digits.edgeexit")
    decision = engine.run(x)  # Decision(exit=0, output=..., score=0.98, reason="confident", ...)

`load` needs numpy and one engine library; `export` needs the workstation extras.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeexit.bundle import Bundle
from edgeexit.decision import Batch, Decision
from edgeexit.engine import Engine, load
from edgeexit.errors import (
    BackendMissing,
    BundleError,
    DataError,
    EdgeExitError,
    ExportMismatch,
    Infeasible,
    ModelError,
    PolicyError,
)
from edgeexit.policy import OperatingPoint, Patience, Policy, Threshold, fixed_exit
from edgeexit.replay import Records, replay

if TYPE_CHECKING:
    from edgeexit_exporters import export

__version__ = "0.1.0"

__all__ = [
    # the two doorways
    "export",
    "load",
    # what they give
    "Batch",
    "Bundle",
    "Decision",
    "Engine",
    # policies
    "OperatingPoint",
    "Patience",
    "Policy",
    "Threshold",
    "fixed_exit",
    # recorded outputs
    "Records",
    "replay",
    # errors
    "BackendMissing",
    "BundleError",
    "DataError",
    "EdgeExitError",
    "ExportMismatch",
    "Infeasible",
    "ModelError",
    "PolicyError",
]


def __getattr__(name: str) -> Any:
    if name == "export":  # the exporter brings onnx along; it is imported when asked for
        try:
            from edgeexit_exporters import export
        except ImportError as e:
            raise BackendMissing(f"exporting needs the workstation extras ({e}): pip install 'edgeexit[export]'") from e
        return export
    raise AttributeError(f"module 'edgeexit' has no attribute {name!r}")
