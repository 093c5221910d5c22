"""Single-exit reference networks as plain .tflite files (MLPerf Tiny's), to compare with a bundle."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.manifest import Manifest, Port
from edgeexit.engine.layouts.ports import into, out_of

Array = NDArray[Any]
_ORDER = {4: (0, 2, 3, 1)}


@dataclass(frozen=True)
class Reference:
    """One reference network."""

    name: str
    precision: str
    bytes: int
    run: Callable[[Array], Array]
    """The network's input `(1, ...)`, channels first -> probabilities `(1, classes)`; it makes and reads integers."""


def references(folder: Path, manifest: Manifest, threads: int) -> list[Reference]:
    """Files whose input and classes are the network's, channels last; others in the folder are of other tasks."""
    from ai_edge_litert.interpreter import Interpreter

    shape = [1, *(a for a in manifest.inputs[0].shape[1:] if isinstance(a, int))]
    order = _ORDER.get(len(shape))
    shape = shape if order is None else [shape[a] for a in order]
    networks = []
    for path in sorted(folder.glob("*.tflite")):
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        classes = math.prod(a for a in manifest.exits[-1].answer.shape[1:] if isinstance(a, int))
        if len(inputs) != 1 or list(inputs[0]["shape"]) != shape or math.prod(outputs[0]["shape"]) != classes:
            continue
        interpreter.allocate_tensors()
        take, give = _port(inputs[0], order), _port(outputs[0], None)
        precision = "fp32" if take.scale is None else take.dtype
        networks.append(Reference(path.name, precision, path.stat().st_size, _call(interpreter, take, give)))
    return networks


def _port(detail: dict[str, Any], order: tuple[int, ...] | None) -> Port:
    scale, zero = detail["quantization"]
    dtype = np.dtype(detail["dtype"]).name
    return Port(detail["name"], dtype, order, *((float(scale), int(zero)) if scale else (None, None)))


def _call(interpreter: Any, take: Port, give: Port) -> Callable[[Array], Array]:
    first, last = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    before, after = into(take), out_of(give, "float32")

    def run(x: Array) -> Array:
        interpreter.set_tensor(first, before(x))
        interpreter.invoke()
        return after(interpreter.get_tensor(last))

    return run
