"""Lazy public names of a package: its stub states them once, and each is imported when it is first used.

``__init__.pyi`` holds ordinary imports (`from home import Name as Name`), which type checkers read as they are.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package with an ``__init__.pyi``.

    `__all__` leaves out names whose home is another top-level package, as a star import would need its libraries.
    """
    module = sys.modules[package]
    homes = _homes(module)
    listed = [name for name, home in homes.items() if home.partition(".")[0] == package.partition(".")[0]]

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(module, name, value)
        return value

    return load, lambda: sorted({*vars(module), *homes}), listed


def _homes(package: ModuleType) -> dict[str, str]:
    """Public name -> the module that holds it, in the stub's order."""
    loader: Any = package.__loader__  # reads inside a .zip, too
    stub = loader.get_data(os.path.join(package.__path__[0], "__init__.pyi"))
    imports = (s for s in ast.parse(stub).body if isinstance(s, ast.ImportFrom) and s.module)
    return {a.name: s.module or "" for s in imports for a in s.names if not a.name.startswith("_")}
