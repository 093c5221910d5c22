"""Tensors of TFLite files as the manifest describes them: ports of an artifact and cuts between its stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.manifest import Manifest, Port, TensorSpec
from edgeexit.errors import ModelError
from edgeexit_exporters.tflite.file.signatures import Tensor
from edgeexit_exporters.tflite.file.tflite_file import TfliteFile
from edgeexit_exporters.tflite.from_torch.pieces import Edge
from edgeexit_exporters.tflite.from_torch.stages import TorchStages

_NHWC = (0, 2, 3, 1)


def ports(files: Sequence[TfliteFile], stages: TorchStages, manifest: Manifest) -> tuple[Port, ...]:
    """The manifest's tensors that the files hold in another order, type or scale.

    Raises:
        ModelError: a tensor has two scales.
    """
    tensors = _by_name(files)
    images = {e.name for p in (*stages.stages, *stages.prefixes) for e in (*p.inputs, *p.outputs) if e.nhwc}
    differing = []
    for name, spec in {t.name: t for t in manifest.tensors}.items():
        t = tensors.get(name)
        if t is None:  # a fused graph calls the exits' answers `output`
            continue
        order = _NHWC if name in images else None
        if order is not None or t.scale is not None or t.dtype != spec.dtype:
            differing.append(Port(name, t.dtype, order, t.scale, t.zero_point))
    return tuple(differing)


def cuts(files: Sequence[TfliteFile], manifest: Manifest) -> tuple[TensorSpec, ...]:
    """The tensors of the files that are none of the manifest's.

    Raises:
        ModelError: a tensor has two scales.
    """
    own = {t.name for t in manifest.tensors}
    shapes: dict[str, list[tuple[int | str, ...]]] = {}
    for name, tensor in (entry for file in files for entry in file.tensors):
        shapes.setdefault(name, []).append(tensor.shape)
    specs = []
    for name, tensor in _by_name(files).items():
        axes = zip(*shapes[name], strict=True)  # with buckets, an axis of several sizes is free
        shape = tuple(a[0] if len(set(a)) == 1 else f"{name}_{k}" for k, a in enumerate(axes))
        specs += [] if name in own else [TensorSpec(name, tensor.dtype, shape)]
    return tuple(specs)


def as_file(array: NDArray[Any], edge: Edge) -> NDArray[Any]:
    """An input `(n, ...)` as the files take it: images channels last."""
    return np.ascontiguousarray(array.transpose(_NHWC) if edge.nhwc else array, edge.dtype)


def _by_name(files: Sequence[TfliteFile]) -> dict[str, Tensor]:
    """Every input and output of every signature."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in (entry for file in files for entry in file.tensors):
        before = tensors.setdefault(name, tensor)
        if (before.scale, before.zero_point) != (tensor.scale, tensor.zero_point):
            raise ModelError(f"TFLite tensor {name!r} has two scales, {before.scale} and {tensor.scale}")
    return tensors
