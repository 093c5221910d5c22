"""EdgeExit: multi-exit neural networks that really stop early on the device.

::

    import edgeexit

    engine = edgeexit.load("digits")
    decision = engine.run(engine.examples()[0])  # Decision(exit=0, output=..., score=0.98, reason="confident", ...)

`load` opens a bundle, by its path or, for those inside the package, by its name. It follows the bundle's default
operating point, which `edgeexit calibrate` stores; `Engine.policy_source` says which it is, and `exit=-1` asks for the
last exit. It needs numpy and one engine library; `export` and `augment` need the workstation extras.

Public names are stated in ``__init__.pyi`` and loaded when first used (docs/decisions/lazy-front-door.md).
"""

from __future__ import annotations

from typing import Any

from edgeexit.common.lazy import lazy_names
from edgeexit.version import __version__ as __version__

_load, __dir__, __all__ = lazy_names(__name__)


def __getattr__(name: str) -> Any:
    try:
        return _load(name)
    except ImportError as e:
        if name in __all__:
            raise
        from edgeexit.errors import BackendMissing

        raise BackendMissing(f"exporting needs the workstation extras ({e}): pip install 'edgeexit[export]'") from e
