"""EdgeExit: multi-exit neural networks that really stop early on the device.

::

    import edgeexit

    engine = edgeexit.load("digits.edgeexit")
    decision = engine.run(x)  # Decision(exit=0, output=..., score=0.98, reason="confident", ...)

`load` follows the bundle's default operating point, which `edgeexit calibrate` stores; `Engine.policy_source` says
which it is, and `exit=-1` asks for the last exit. It needs numpy and one engine library; `export` and `augment` need
the workstation extras. Names are loaded when first used (docs/decisions/lazy-front-door.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeexit.version import __version__ as __version__

if TYPE_CHECKING:
    from edgeexit.bench.profile import use_profile
    from edgeexit.bundle.bundle import Bundle
    from edgeexit.calibrate.on_device import solve_budget
    from edgeexit.engine.decision import BatchDecision, Decision
    from edgeexit.engine.engine import Engine
    from edgeexit.engine.loading import load
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
    from edgeexit.policy.operating_point import OperatingPoint
    from edgeexit.policy.policies import Patience, Policy, Threshold, fixed_exit
    from edgeexit.records.classification import Records, replay
    from edgeexit_exporters import export as export
    from edgeexit_exporters.augment.flow import augment as augment

__all__ = [
    # the doorway; its other half, `export` and `augment`, stays out: a star import would need the exporter's libraries
    "load",
    # what they give
    "BatchDecision",
    "Bundle",
    "Decision",
    "Engine",
    # policies
    "OperatingPoint",
    "Patience",
    "Policy",
    "Threshold",
    "fixed_exit",
    "solve_budget",
    "use_profile",
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

_WORKSTATION = {"export": "edgeexit_exporters", "augment": "edgeexit_exporters.augment.flow"}
"""Doorways that bring onnx along, so that `import *` leaves them out."""
_HOMES = {
    "edgeexit.engine.engine": ("Engine",),
    "edgeexit.engine.loading": ("load",),
    "edgeexit.bundle.bundle": ("Bundle",),
    "edgeexit.engine.decision": ("BatchDecision", "Decision"),
    "edgeexit.policy.operating_point": ("OperatingPoint",),
    "edgeexit.policy.policies": ("Patience", "Policy", "Threshold", "fixed_exit"),
    "edgeexit.calibrate.on_device": ("solve_budget",),
    "edgeexit.bench.profile": ("use_profile",),
    "edgeexit.records.classification": ("Records", "replay"),
    "edgeexit.errors": (
        "BackendMissing",
        "BundleError",
        "DataError",
        "EdgeExitError",
        "ExportMismatch",
        "Infeasible",
        "ModelError",
        "PolicyError",
    ),
}


def __getattr__(name: str) -> Any:
    import importlib

    if name in _WORKSTATION:
        try:
            return getattr(importlib.import_module(_WORKSTATION[name]), name)
        except ImportError as e:
            from edgeexit.errors import BackendMissing

            raise BackendMissing(f"exporting needs the workstation extras ({e}): pip install 'edgeexit[export]'") from e
    for module, names in _HOMES.items():
        if name in names:
            found = getattr(importlib.import_module(module), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module 'edgeexit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_WORKSTATION})
