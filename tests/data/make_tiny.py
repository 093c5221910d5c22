"""Makes the tiny bundle the device-side tests run: `python tests/data/make_tiny.py` (needs the export extras).

Three exits over two fully connected stages and a skip across both cuts, 4 inputs, 3 classes; seeded weights, so
that the bundle comes out the same.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import edgeexit
from edgeexit.records.classification import Records

OUT = Path(__file__).parent / "tiny.edgeexit"


def model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array((rng.standard_normal(shape) * 0.8).astype(np.float32), name)

    weights = [weight("w0", 4, 8), weight("w1", 8, 8), weight("w2", 8, 8)] + [weight(f"h{k}", 8, 3) for k in range(3)]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a0"]),
        helper.make_node("Relu", ["a0"], ["f0"]),
        helper.make_node("MatMul", ["f0", "h0"], ["y0"]),
        helper.make_node("MatMul", ["f0", "w1"], ["a1"]),
        helper.make_node("Relu", ["a1"], ["f1"]),
        helper.make_node("MatMul", ["f1", "h1"], ["y1"]),
        helper.make_node("MatMul", ["f1", "w2"], ["a2"]),
        helper.make_node("Add", ["a2", "f0"], ["s2"]),
        helper.make_node("Relu", ["s2"], ["f2"]),
        helper.make_node("MatMul", ["f2", "h2"], ["y2"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info(f"y{k}", TensorProto.FLOAT, ["batch", 3]) for k in range(3)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def main() -> None:
    from edgeexit.calibrate.on_bundle import calibrate_artifact

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tiny.onnx")
        onnx.save(model(), path)
        bundle = edgeexit.export(path, OUT, labels=["a", "b", "c"], overwrite=True)
    x = np.random.default_rng(1).standard_normal((400, 4)).astype(np.float32)
    for artifact in ("onnx-fused-fp32", "onnx-chain-fp32"):
        engine = edgeexit.load(bundle, artifact=artifact)
        bundle, _ = calibrate_artifact(
            engine, {"x": x}, None, data={"file": "random"}, budget=0.7, name=f"half-{engine.artifact.layout}"
        )
    assert isinstance(engine.record({"x": x[:2]}), Records)


if __name__ == "__main__":
    main()
