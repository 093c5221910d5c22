"""T-RECX's published networks as TFLite, float and int8: the published accuracies at every exit of what ships."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import edgeexit
from edgeexit.bundle.bundle import Bundle
from shared_data import cifar10_test, gsc12_test_features, trecx_weights

pytest.importorskip("litert_torch", reason="converting needs litert-torch: pip install 'edgeexit[tflite-export]'")

PUBLISHED = {"resnet8": (63.30, 75.04, 86.36), "dscnn": (63.76, 81.74, 89.53, 91.92)}
SIZES = {"resnet8": 120_000, "dscnn": 70_000}
"""Bytes of the fused int8 file, at most; MLPerf Tiny's single-exit int8 networks have 96 kB and 53 kB."""


@pytest.fixture(scope="module", params=list(PUBLISHED))
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from recipes.trecx import load_trecx

    name = request.param
    module = load_trecx(trecx_weights(name))
    x, y = cifar10_test() if name == "resnet8" else gsc12_test_features()
    x = np.ascontiguousarray(x, np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    calibration, evaluated = np.sort(order[:1024]), np.sort(order[len(x) // 2 :])
    out = tmp_path_factory.mktemp(name) / "b.edgeexit"
    bundle = edgeexit.export(
        module, out, layouts=("fused", "chain"), formats=("tflite",), precisions=("fp32", "int8"), max_drop=0.05,
        data={"x": x[calibration]}, classes=y[calibration].astype(np.int64),
    )  # fmt: skip
    return name, bundle, x, y, evaluated


def accuracies(bundle: Bundle, artifact: str, x: Any, y: Any) -> list[float]:
    driver = edgeexit.load(bundle, artifact=artifact, warmup=0).driver
    rows = [[o.argmax() for o in driver.all_exits([x[i : i + 1]]).outputs] for i in range(len(x))]
    return [float(100 * (column == y).mean()) for column in np.array(rows).T]


@pytest.mark.slow
def test_float_accuracies_are_the_published_ones(network: Any) -> None:
    name, bundle, x, y, _ = network
    assert accuracies(bundle, "tflite-chain-fp32", x, y) == pytest.approx(PUBLISHED[name], abs=0.02)


@pytest.mark.slow
def test_int8_is_within_a_point_on_rows_it_was_not_calibrated_on(network: Any) -> None:
    name, bundle, x, y, rows = network
    exact, found = (accuracies(bundle, f"tflite-chain-{p}", x[rows], y[rows]) for p in ("fp32", "int8"))
    assert all(b > a - 1.0 for a, b in zip(exact, found, strict=True)), (exact, found)
    assert bundle.manifest.artifact("tflite-fused-int8").bytes < SIZES[name]
    counted = bundle.manifest.provenance["int8_kernels"]["tflite-chain-int8"]
    assert all(ran == there for ran, there in counted)
