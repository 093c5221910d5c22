"""Shared by all tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

_TESTS = Path(__file__).parent
_PLACES = (_TESTS / "device" / "data", _TESTS / "data")
"""In the repository; and in the wheel test, where this file is copied beside the device-side tests."""


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The bundle that `device/make_tiny.py` made: 3 exits, 4 inputs, 3 classes. Do not change it."""
    return next(p for p in _PLACES if p.is_dir()) / "tiny.edgeexit"


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(tiny, tmp_path / "tiny.edgeexit"))
