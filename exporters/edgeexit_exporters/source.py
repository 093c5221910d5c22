"""What can be exported: any ONNX file, or any torch module (`torch_source`), brought to one form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeexit.errors import ModelError
from edgeexit.files import sha256
from edgeexit.manifest import DTYPES, TensorSpec
from edgeexit_exporters import measure, onnx_graph
from edgeexit_exporters.inputs import InputSpec, make_spec
from edgeexit_exporters.join import JoinedExit, Joint, RawExit, join

if TYPE_CHECKING:
    from torch import nn

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Quantized:
    """How a network was quantised; see `quantize`."""

    precision: str
    """int8 or int8-dynamic."""
    kept: tuple[str, ...] = ()
    """Nodes that were left in float on purpose."""


@dataclass(frozen=True)
class Source:
    """A multi-exit network ready for surgery, with the untouched original to compare with."""

    model: ir.Model
    """One graph that computes every exit."""
    joint: Joint
    """Its exits, shallow to deep."""
    inputs: tuple[InputSpec, ...]
    raw_reference: Callable[[Arrays], dict[str, NDArray[Any]]]
    """Inputs -> the tensors of `joint.raw`, computed by the source model itself."""
    provenance: Mapping[str, Any]
    module: nn.Module | None = None
    """The torch module; None = an ONNX file."""
    quantized: Quantized | None = None
    """None = it is as the user gave it."""

    @property
    def exits(self) -> tuple[JoinedExit, ...]:
        return self.joint.exits

    @property
    def tensors(self) -> tuple[str, ...]:
        """What all exits give."""
        return tuple(n for e in self.exits for n in e.outputs)

    def reference(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Inputs -> what every exit gives, by name: the source model's own outputs, joined in numpy."""
        return self.joint.answers(self.raw_reference(arrays))


def from_onnx(
    path: Path | str,
    exits: Sequence[str] | None,
    inputs: Sequence[InputSpec] = (),
    scores: Sequence[str] | None = None,
    outputs: str = "auto",
    single: bool = False,
    lengths: Sequence[str] | None = None,
) -> Source:
    """A multi-output ONNX file; needs no torch.

    Args:
        path: the ``.onnx`` file.
        exits: tensor names, shallow to deep, ``a+b`` for heads that answer together; None = the file's outputs in
            their order.
        inputs: specs whose example sizes are used for free axes, by input name.
        scores: tensors of learned scores, one per exit; None = none.
        outputs: see `join`.
        single: the file's only output is the answer of a network without further exits.
        lengths: tensors that count valid positions, one per exit or one for all; None = none.

    Raises:
        ModelError: see `onnx_graph.read` and `join`; or fewer than two exits where none are named.
    """
    path = Path(path)
    model = onnx_graph.read(path)
    names = list(exits) if exits else [o.name or "" for o in model.graph.outputs]
    if single and len(names) > 1:
        raise ModelError(
            f"{path}: {len(names)} outputs ({', '.join(names[:6])}); name the answer with --output, or, if these are "
            "exits, use `edgeexit export --exits`"
        )
    if len(names) < 2 and not exits and not single:
        raise ModelError(
            f"{path}: one exit only ({', '.join(names)}); name at least two tensors of the graph with --exits. "
            "A single-exit network needs exits attached and trained first"
        )
    raw = _raw_exits(names, scores, lengths, set(onnx_graph.values(model.graph)))
    joint = join(model, raw, outputs)
    specs = tuple(_input(v, path, inputs) for v in model.graph.inputs)
    original = onnx.load(path)  # untouched by our passes: the reference must not share our mistakes

    def reference(arrays: Arrays) -> dict[str, NDArray[Any]]:
        return measure.all_values(original, [n for e in raw for n in e.tensors], arrays)

    return Source(
        model,
        joint,
        specs,
        reference,
        {"source": path.name, "source_sha256": sha256(path), "onnx": onnx.__version__},
    )


def _raw_exits(
    names: Sequence[str], scores: Sequence[str] | None, lengths: Sequence[str] | None, known: set[str]
) -> list[RawExit]:
    if scores is not None and len(scores) != len(names):
        raise ModelError(f"{len(scores)} learned scores for {len(names)} exits: name one tensor per exit")
    if lengths is not None and len(lengths) not in (1, len(names)):
        raise ModelError(f"{len(lengths)} lengths for {len(names)} exits: name one tensor per exit, or one for all")
    counts = [None] * len(names) if lengths is None else list(lengths) * (len(names) // len(lengths))
    found = []
    for k, name in enumerate(names):
        heads = [name] if name in known else [part.strip() for part in name.split("+")]
        found.append(RawExit(name, tuple(heads), None if scores is None else scores[k], counts[k]))
    return found


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
