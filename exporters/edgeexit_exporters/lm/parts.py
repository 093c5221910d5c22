"""The files of a decoder artifact, in every precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import nn

from edgeexit.bundle.file_spec import FileSpec
from edgeexit.bundle.files import describe
from edgeexit.bundle.lm_spec import LmSpec
from edgeexit.bundle.manifest import Artifact
from edgeexit.errors import ModelError
from edgeexit_exporters.lm.graphs import Graphs
from edgeexit_exporters.lm.heads import EMBEDDING, npy, shortened, tied
from edgeexit_exporters.lm.quantize import PRECISIONS, head_precision, quantized
from edgeexit_exporters.onnx import serialize


@dataclass(frozen=True)
class FloatParts:
    """A decoder's graphs before quantizing."""

    graphs: Mapping[str, ir.Model]
    """By file name without its ending: stages, head, positions, exits' own heads, keys and values alone."""
    table: NDArray[np.float32]
    """The embedding `(vocab, width)`."""
    ids: Mapping[int, NDArray[np.int64]]
    """The short lists, by exit."""


def float_parts(
    graphs: Graphs,
    table: NDArray[np.float32],
    maps: Mapping[int, nn.Module],
    shown: NDArray[np.int64] | None,
    keys_values: bool,
) -> FloatParts:
    """Trace everything once.

    Args:
        graphs: of the decoder.
        table: its embedding.
        maps: exit -> what stands before its head.
        shown: tokens that early exits choose from; None = all.
        keys_values: also make the stand-ins for skipped stages; the first stage is never skipped.

    Raises:
        ModelError: torch cannot export a part.
    """
    count = len(graphs.spec.stages)
    graphs_by_name = {f"stage_{k}": graphs.stage(k) for k in range(count)}
    graphs_by_name |= {"head": graphs.head(), "positions": graphs.positions()}
    for k in range(count - 1):
        head = graphs.head(maps[k], f"exit_{k}") if k in maps else graphs_by_name["head"]
        if shown is not None:
            head = shortened(head, shown)
        if head is not graphs_by_name["head"]:
            graphs_by_name[f"exit_{k}"] = head
    if keys_values:
        graphs_by_name |= {f"kv_{k}": graphs.keys_values(k) for k in range(1, count)}
    return FloatParts(graphs_by_name, table, {} if shown is None else {k: shown for k in range(count - 1)})


def write_artifact(
    folder: Path,
    parts: FloatParts,
    spec: LmSpec,
    precision: str,
    embedding: FileSpec | None,
    progress: Callable[[str], None],
) -> Artifact:
    """Write one precision's files and describe them.

    Args:
        folder: the bundle's.
        parts: what is written.
        spec: the decoder's sizes.
        precision: of `PRECISIONS`.
        embedding: of another precision, where that one's is as good; None = write one.
        progress: called with each step's name.

    Raises:
        ModelError: a part cannot be quantized, or does not fit one file.
    """
    name, how = f"onnx-decoder-{precision}", PRECISIONS[precision]
    progress(f"writing {name}")
    contents: dict[str, bytes] = {}
    if how is None:
        models = {n: (tied(g, parts.table) if _is_head(n) else None) or g.clone() for n, g in parts.graphs.items()}
        embedding = None  # the head's file may read its weights from the one beside it
        contents[EMBEDDING] = npy(parts.table)
    else:
        models = {}
        for n, graph in parts.graphs.items():
            if n == "positions":
                models[n] = graph.clone()
                continue
            progress(f"quantizing {n} to {precision}")
            models[n] = quantized(graph, head_precision(how) if _is_head(n) else how, n)
        if embedding is None:
            contents[EMBEDDING] = npy(parts.table.astype(np.float16))
    _check_names(models)
    if shared := serialize.share_weights(list(models.values())):
        contents["weights.bin"] = shared
    contents |= {f"{n}.onnx": serialize.to_bytes(g, n) for n, g in models.items()}
    contents |= {f"exit_{k}_ids.npy": npy(ids) for k, ids in parts.ids.items()}
    files = {n: describe(f"artifacts/{name}/{n}", data) for n, data in contents.items()}
    for n, data in contents.items():
        target = folder / files[n].path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    stages = tuple(files.pop(f"stage_{k}.onnx") for k in range(len(spec.stages)))
    others = (*files.values(), *([embedding] if embedding is not None else []))
    rest = tuple(sorted(others, key=lambda f: f.path))
    return Artifact(name, "onnx", "decoder", precision, None, (1.0,) * len(stages), stages, rest)


def _check_names(models: Mapping[str, ir.Model]) -> None:
    """Weights are shared by their names: the same name must be the same weight.

    Raises:
        ModelError: it is not.
    """
    seen: dict[str, tuple[str, ir.TensorProtocol]] = {}
    for name, model in models.items():
        for weight, value in model.graph.initializers.items():
            tensor = value.const_value
            if tensor is None or isinstance(tensor, ir.ExternalTensor):
                continue
            where, other = seen.setdefault(weight, (name, tensor))
            if other is not tensor and not np.array_equal(other.numpy(), tensor.numpy()):
                raise ModelError(f"weight {weight!r} is one thing in {where} and another in {name}; please report it")


def embedding_of(artifacts: list[Artifact]) -> FileSpec | None:
    """The half-precision embedding that a quantized artifact has written already."""
    files: Any = [f for a in artifacts if a.precision != "fp32" for f in a.data if f.path.endswith(f"/{EMBEDDING}")]
    return files[0] if files else None


def _is_head(name: str) -> bool:
    return name == "head" or name.startswith("exit_")
