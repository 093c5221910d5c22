"""A network's features at its places, for many inputs: pooled in the graph, streamed to disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeexit.errors import DataError, ModelError
from edgeexit_exporters.augment.nodes import POOLS, PREFIX, FeaturePlace, add_head, add_pooled, pooled_width
from edgeexit_exporters.onnx import measure
from edgeexit_exporters.onnx.nodes import Nodes
from edgeexit_exporters.onnx.serialize import to_bytes

__all__ = ["POOLS", "add_head", "add_pooled", "feature_name", "features", "pooled_graph", "pooled_width"]

Arrays = Mapping[str, NDArray[Any]]


def feature_name(k: int) -> str:
    """What the pooled vector of place `k` is called in the graph."""
    return f"{PREFIX}_features_{k}"


def pooled_graph(model: ir.Model, places: Sequence[FeaturePlace], pool: str = "average") -> ir.Model:
    """The network with one more output per place: its pooled features, float32 `(batch, width)`.

    Args:
        model: see `onnx_graph.read`; left as it is.
        places: where; called `feature_name(k)` in their order, after the network's own outputs.
        pool: one of `POOLS`.

    Raises:
        ModelError: see `add_pooled`.
    """
    pooled = model.clone()
    add = Nodes(pooled.graph, PREFIX)
    for k, place in enumerate(places):
        value = add.op("Identity", add_pooled(add, place, pool), name=feature_name(k))
        value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape([None, pooled_width(place, pool)])
        pooled.graph.outputs.append(value)
    return pooled


def features(
    model: ir.Model,
    places: Sequence[FeaturePlace],
    inputs: Arrays,
    folder: Path,
    *,
    pool: str = "average",
    output: str | None = None,
    batch: int = 256,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[np.memmap[Any, np.dtype[np.float32]]], NDArray[Any]]:
    """Run the network on all inputs and keep the pooled features and its answers.

    Args:
        model: see `onnx_graph.read`; left as it is.
        places: where.
        inputs: one array per input of the network, `(n, ...)`; a network whose file fixes the batch size is run in
            batches of that size.
        folder: made if missing; gets `features_0.npy`, ... and `output.npy`. Files of these names are replaced.
        pool: one of `POOLS`.
        output: which output is the answer; None = the only one.
        batch: inputs per run.
        threads: of onnxruntime; 0 = its choice.
        progress: told how many inputs are done, and how many there are.

    Returns:
        Per place, features `(n, width)` float32 on disk; and the answers `(n, ...)`, on disk, too.

    Raises:
        DataError: inputs that are missing or not of one length, or a disk without room for the features.
        ModelError: the network does not run on them, or gives another number of rows than it was given.
    """
    answer = _answer(model, output)
    arrays, n = _inputs(model, inputs)
    fixed = _fixed_batch(model)
    size = min(batch, n) if fixed is None else fixed
    if batch < 1 or size < 1:
        raise DataError(f"a batch holds 1 input or more, found {batch}")
    names = [*(feature_name(k) for k in range(len(places))), answer]
    files = [*(folder / f"features_{k}.npy" for k in range(len(places))), folder / "output.npy"]
    session = measure.session(to_bytes(pooled_graph(model, places, pool), "the network with features"), threads)
    stored: list[np.memmap[Any, Any]] = []
    for start in range(0, n, size):
        stop = min(start + size, n)
        which = np.arange(start, start + size if fixed else stop).clip(max=n - 1)  # a fixed batch is filled up
        outputs = measure.run(session, {name: a[which] for name, a in arrays.items()}, names)
        for name, a in outputs.items():
            if a.ndim < 1 or len(a) != len(which):
                raise ModelError(
                    f"{name!r} is {a.dtype}{list(a.shape)} for {len(which)} inputs: axis 0 must count inputs; "
                    "try a batch of 1"
                )
        if not stored:
            stored = _open(files, [outputs[name] for name in names], n)
        for name, rows in zip(names, stored, strict=True):
            rows[start:stop] = outputs[name][: stop - start]
        if progress is not None:
            progress(stop, n)
    for rows in stored:
        rows.flush()
    return stored[:-1], stored[-1]


def _open(files: Sequence[Path], like: Sequence[NDArray[Any]], n: int) -> list[np.memmap[Any, Any]]:
    """Files for `n` rows such as these; a full disk is found now, and not by a crash while writing."""
    folder = files[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    need, free = n * sum(a[0].nbytes for a in like), shutil.disk_usage(folder).free
    if need > free:
        raise DataError(f"{folder}: the features take {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
    return [
        np.lib.format.open_memmap(f, mode="w+", dtype=a.dtype, shape=(n, *a.shape[1:]))
        for f, a in zip(files, like, strict=True)
    ]


def _answer(model: ir.Model, output: str | None) -> str:
    own = [o.name or "" for o in model.graph.outputs]
    if output is None and len(own) != 1:
        raise ModelError(f"the network has {len(own)} outputs; name the one that answers: {', '.join(own)}")
    if output is not None and output not in own:
        raise ModelError(f"the network has no output {output!r}; it has {', '.join(own)}")
    return own[0] if output is None else output


def _inputs(model: ir.Model, inputs: Arrays) -> tuple[dict[str, NDArray[Any]], int]:
    names = [v.name or "" for v in model.graph.inputs]
    missing = [name for name in names if name not in inputs]
    if missing:
        raise DataError(f"no array for the network's input {missing[0]!r}; given are {', '.join(inputs) or 'none'}")
    arrays = {name: inputs[name] for name in names}
    lengths = {name: len(a) if a.ndim else 0 for name, a in arrays.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise DataError(f"inputs must be of one length, at least 1; found {lengths}")
    return arrays, next(iter(lengths.values()))


def _fixed_batch(model: ir.Model) -> int | None:
    """The batch size that the file fixes, if it does."""
    sizes = [v.shape[0] for v in model.graph.inputs if v.shape is not None and len(v.shape)]
    return next((size for size in sizes if isinstance(size, int)), None)
