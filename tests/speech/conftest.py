"""Bundles that hear tones."""

from __future__ import annotations

from pathlib import Path

import pytest

from speech.heard_nets import make


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two exits, the first deaf to the high tone. Do not change it."""
    pytest.importorskip("onnxruntime", reason="an engine runs the network")
    return make(tmp_path_factory.mktemp("tones") / "tones.edgeexit")


@pytest.fixture(scope="session")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for exactly 100 frames. Do not change it."""
    pytest.importorskip("onnxruntime", reason="an engine runs the network")
    return make(tmp_path_factory.mktemp("fixed") / "fixed.edgeexit", time=100)
