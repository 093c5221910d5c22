"""Files and values that several tests use, made once per test run: who asks first makes them, others wait."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from edgeexit.common.locking import folder_lock

T = TypeVar("T")
_root: list[Path] = []


def share(factory: pytest.TempPathFactory) -> None:
    """Name the folder of this run, which all its processes share; `conftest.py` does."""
    base = factory.getbasetemp()
    _root[:] = [base.parent if "PYTEST_XDIST_WORKER" in os.environ else base]


def once(name: str, make: Callable[[Path], T]) -> T:
    """What `make(folder)` returned, in this process or in another one. It may write files into its folder.

    The value must survive pickling. Its files are read by other tests too: copy what a test changes.
    """
    folder = _root[0] / "once" / name
    value = folder.with_name(f"{name}.pickle")
    folder.parent.mkdir(exist_ok=True)
    with folder_lock(folder):
        if not value.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            value.write_bytes(pickle.dumps(make(folder)))
        result: T = pickle.loads(value.read_bytes())
    return result
