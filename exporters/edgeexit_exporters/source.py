"""What can be exported: any ONNX file, or any torch module (`torch_source`), brought to one form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeexit.errors import ModelError
from edgeexit.files import sha256
from edgeexit.manifest import DTYPES, TensorSpec
from edgeexit_exporters import measure, onnx_graph
from edgeexit_exporters.inputs import InputSpec, make_spec

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Source:
    """A multi-exit network ready for surgery, with the untouched original to compare with."""

    model: ir.Model
    """One graph that computes every exit."""
    exits: tuple[str, ...]
    """Tensor names, shallow to deep."""
    inputs: tuple[InputSpec, ...]
    reference: Callable[[Arrays], list[NDArray[Any]]]
    """Inputs -> every exit's output, computed by the source model itself."""
    provenance: Mapping[str, Any]


def from_onnx(path: Path | str, exits: Sequence[str] | None, inputs: Sequence[InputSpec] = ()) -> Source:
    """A multi-output ONNX file; needs no torch.

    Args:
        path: the ``.onnx`` file.
        exits: tensor names, shallow to deep; None = the file's outputs in their order.
        inputs: specs whose example sizes are used for free axes, by input name.

    Raises:
        ModelError: see `onnx_graph.read`; or fewer than two exits.
    """
    path = Path(path)
    model = onnx_graph.read(path)
    names = list(exits) if exits else [o.name or "" for o in model.graph.outputs]
    if len(names) < 2:
        raise ModelError(
            f"{path}: one exit only ({', '.join(names)}); name at least two tensors of the graph with --exits. "
            "A single-exit network needs exits attached and trained first"
        )
    specs = tuple(_input(v, path, inputs) for v in model.graph.inputs)
    original = onnx.load(path)  # untouched by our passes: the reference must not share our mistakes

    def reference(arrays: Arrays) -> list[NDArray[Any]]:
        found = measure.all_values(original, names, arrays)
        return [found[n] for n in names]

    return Source(
        model,
        tuple(names),
        specs,
        reference,
        {"source": path.name, "source_sha256": sha256(path), "onnx": onnx.__version__},
    )


def _input(value: ir.Value, path: Path, given: Sequence[InputSpec]) -> InputSpec:
    name = value.name or ""
    if value.shape is None or value.dtype is None:
        raise ModelError(f"{path}: input {name!r} states no type or shape; state them in the source model")
    dtype = {"FLOAT": "float32", "DOUBLE": "float64"}.get(value.dtype.name, value.dtype.name.lower())
    if dtype not in DTYPES:
        raise ModelError(f"{path}: input {name!r} is {dtype}; supported are {', '.join(DTYPES)}")
    axes: list[int | str] = []
    for k, dim in enumerate(value.shape):
        if isinstance(dim, int):
            axes.append(dim)
        else:
            axes.append(str(dim.value) if dim.value is not None else ("batch" if k == 0 else f"{name}_{k}"))
    known = next((g for g in given if g.tensor.name == name), None)
    sizes = dict(known.sizes) if known is not None else {}
    if known is not None:  # `--input image:float32[batch,time=100]` may name the axes as it likes
        for a, b in zip(axes, known.tensor.shape, strict=False):
            if isinstance(a, str) and isinstance(b, str) and b in known.sizes:
                sizes[a] = known.sizes[b]
    return make_spec(TensorSpec(name, dtype, tuple(axes)), sizes)
