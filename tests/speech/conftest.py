"""Bundles that hear tones."""

from __future__ import annotations

from pathlib import Path

import pytest

from speech import heard_nets


@pytest.fixture(scope="session")
def tones() -> Path:
    """Two exits, the first deaf to the high tone. Do not change it."""
    pytest.importorskip("onnxruntime", reason="an engine runs the network")
    return heard_nets.tones()


@pytest.fixture(scope="session")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for exactly 100 frames. Do not change it."""
    pytest.importorskip("onnxruntime", reason="an engine runs the network")
    return heard_nets.make(tmp_path_factory.mktemp("fixed") / "fixed.edgeexit", time=100)
