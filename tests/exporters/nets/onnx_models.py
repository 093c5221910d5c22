"""Small ONNX networks for the exporter tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

CLASSES = 3


class Net:
    """Builds a model node by node."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, TensorProto] = {}

    def weight(self, name: str, *shape: int, scale: float = 0.5) -> str:
        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(
                (self.rng.standard_normal(shape) * scale).astype(np.float32), name
            )
        return name

    def ints(self, name: str, *values: int, scalar: bool = False) -> str:
        array = np.array(values[0] if scalar else values, np.int64)
        self.weights[name] = numpy_helper.from_array(array, name)
        return name

    def op(self, kind: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def head(self, feature: str, width: int, output: str) -> str:
        return self.op("MatMul", [feature, self.weight(f"head_{output}", width, CLASSES)], output)

    def model(
        self,
        inputs: dict[str, Sequence[int | str]],
        outputs: dict[str, Sequence[int | str]],
        opset: int = 18,
        types: dict[str, int] | None = None,
    ) -> onnx.ModelProto:
        kinds = types or {}
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), list(s)) for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), list(s)) for n, s in outputs.items()],
            list(self.weights.values()),
        )
        found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        onnx.checker.check_model(found, full_check=True)
        return found


def save(model: onnx.ModelProto, folder: Path, name: str = "net.onnx") -> Path:
    path = folder / name
    onnx.save(model, path)
    return path


def random_dag(draw_int, length: int, exits: int, seed: int) -> onnx.ModelProto:  # type: ignore[no-untyped-def]
    """A random network on (batch, 4) tensors: skips over any distance, shared weights, shapes read at run time.

    Args:
        draw_int: ``draw_int(low, high)``, both included.
        length: number of feature nodes.
        exits: number of exits.
        seed: of the weights.
    """
    net = Net(seed)
    features = ["x"]
    for i in range(length):
        a = features[draw_int(0, len(features) - 1)]
        b = features[draw_int(0, len(features) - 1)]
        name = f"t{i}"
        kind = draw_int(0, 6)
        if kind == 0:
            net.op("MatMul", [a, net.weight(f"w{draw_int(0, 3)}", 4, 4)], name)  # few weights: some are shared
        elif kind == 1:
            net.op("Tanh", [a], name)
        elif kind == 2:
            net.op("Add", [a, b], f"{name}_sum")
            net.op("Tanh", [f"{name}_sum"], name)
        elif kind == 3:
            net.op("Concat", [a, b], f"{name}_both", axis=1)
            net.op("MatMul", [f"{name}_both", net.weight(f"wide{draw_int(0, 1)}", 8, 4)], name)
        elif kind == 4:  # the batch size travels as a value, as exporters write reshapes
            net.op("Shape", [b], f"{name}_shape")
            net.op("Reshape", [a, f"{name}_shape"], name)
        elif kind == 5:
            net.nodes.append(helper.make_node("Split", [a], [f"{name}_l", f"{name}_r"], axis=1, num_outputs=2))
            net.op("Concat", [f"{name}_r", f"{name}_l"], name, axis=1)
        else:
            net.op("Sigmoid", [a], name)
        features.append(name)
    names = []
    for k in range(exits):
        low = 1 + k * (len(features) - 1) // exits
        feature = features[draw_int(min(low, len(features) - 1), len(features) - 1)]
        names.append(net.head(feature, 4, f"y{k}"))
        if draw_int(0, 3) == 0:  # an exit that later stages read: its tensor is a cut, too
            net.op("MatMul", [names[-1], net.weight("back", CLASSES, 4)], f"fed{k}")
            features.append(f"fed{k}")
    return net.model({"x": ["batch", 4]}, {n: ["batch", CLASSES] for n in names})
