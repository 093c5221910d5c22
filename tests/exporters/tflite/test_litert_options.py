"""Fused files are opened so that `IF` plans its branches once, and answer as without."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("ai_edge_litert", reason="runs .tflite; in the extra tflite-export")

from tflite_chains import EXITS, STAGES, chain, fed, fuse_bytes, images

from edgeexit_runtimes import litert

KEPT = "experimental_preserve_all_tensors"


@pytest.mark.parametrize("precision", ["float", "int8"])
def test_a_fused_file_keeps_its_tensors_and_answers_alike(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fused.tflite"
    path.write_bytes(fuse_bytes(chain(precision), EXITS))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (planned,) = litert.LitertBackend().load(path, 1)
    monkeypatch.setattr(litert, "_PLANS_ONCE", (99, 0))
    (usual,) = litert.LitertBackend().load(path, 1)
    assert (planned.options.get(KEPT), usual.options.get(KEPT)) == (True, None)
    for image in images(8):
        for k in range(STAGES):
            thresholds = np.full(STAGES - 1, np.inf, np.float32)
            thresholds[k:] = -np.inf
            values: dict[str, NDArray[Any]] = {"exit_thresholds": thresholds, "image": fed(chain(precision), image)}
            found, expected = (r.run([values[n] for n in r.inputs]) for r in (planned, usual))
            assert found[planned.outputs.index("exit_index")].item() == k
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a, b)


def test_a_chain_is_opened_as_usual(tmp_path: Path) -> None:
    path = tmp_path / "chain.tflite"
    path.write_bytes(chain("float"))
    assert [r.options for r in litert.LitertBackend().load(path, 1)] == [{"num_threads": 1}] * STAGES


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("ai-edge-litert", "2.3.0", True),
        ("ai-edge-litert", "10.0", True),
        ("ai-edge-litert", "2.2.0", False),
        ("ai-edge-litert", "nightly", False),
        ("tflite-runtime", "2.14.0", False),
        ("tflite-runtime", "9.0", False),
    ],
)
def test_only_engines_that_keep_xnnpack(name: str, version: str, expected: bool) -> None:
    assert litert._plans_once(name, version) is expected
