"""Buckets: a few fixed sizes of a free axis, such as the time of speech, in one TFLite file.

Every size has its own signatures; weights are stored once. An input runs in the smallest that holds it, padded: so a
network must answer among padding as it does alone (which the export asks it), and say how much of its answer is valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgeexit.bundle.manifest import Manifest
from edgeexit.errors import ModelError
from edgeexit_exporters.analysis.answers import SourceAnswer
from edgeexit_exporters.source.inputs import InputSpec, length_inputs, make_inputs
from edgeexit_exporters.source.source import Source
from edgeexit_exporters.tflite.convert import convert_pieces
from edgeexit_exporters.tflite.file.tflite_file import TfliteFile
from edgeexit_exporters.tflite.from_torch.stages import TorchStages, divide

CHAIN_ONLY = (
    "files by buckets have layout chain alone, one graph per stage and size: a fused graph would have to hold and nest "
    "those of every size, and prefixes repeat the weights for every exit"
)


def bucket_axis(source: Source, manifest: Manifest, sizes: Sequence[int], precisions: Sequence[str]) -> str:
    """The free axis that buckets are of.

    Raises:
        ModelError: there is none or more than one, the network cannot be padded, or a size that it does not take.
    """
    free = list(dict.fromkeys(a for s in source.inputs for a in s.tensor.shape[1:] if isinstance(a, str)))
    if len(free) != 1:
        raise ModelError(
            f"--buckets are sizes of the one free axis of the inputs, and there are {len(free)} ({', '.join(free)}): "
            "give the others fixed sizes with --input"
        )
    if list(length_inputs(source.inputs).values()) != free or any(e.lengths is None for e in manifest.exits):
        raise ModelError(
            "--buckets pad the input, so the network must be told how much of it is not padding (an input x_lens of "
            "whole numbers (batch,) beside x) and say how much of its answer is not (`lengths` of its exits)"
        )
    least = manifest.min_sizes.get(free[0], 1)
    if small := [n for n in sizes if n < least]:
        raise ModelError(f"bucket {small[0]}: the network takes at least {least} along axis {free[0]!r}")
    if ranged := [p for p in precisions if p in ("int8", "int16x8")]:
        raise ModelError(
            f"precision {ranged[0]} with --buckets: ranges would be read from padding too, and each size would get "
            "scales of its own; choose fp32, int8-dynamic or weight-only"
        )
    return free[0]


def divide_buckets(source: Source, axis: str, sizes: Sequence[int]) -> list[TorchStages]:
    """The stages at every size. Raises as `divide`."""
    assert source.module is not None
    return [
        divide(
            source.module, [_fixed(s, axis, n) for s in source.inputs], source.exits, source.joint.kinds, source.picks
        )
        for n in sizes
    ]


def convert_buckets(by_size: Sequence[TorchStages], axis: str, sizes: Sequence[int]) -> TfliteFile:
    """One file with the signatures `time_00100_stage_0`, ... Raises as `convert_chain`."""
    pieces = [
        replace(piece, name=f"{axis}_{size:05d}_{piece.name}")
        for size, stages in zip(sizes, by_size, strict=True)
        for piece in stages.stages
    ]
    return convert_pieces(pieces, by_size[0].name)


def bucket_answers(
    source: Source, manifest: Manifest, answers: Sequence[SourceAnswer], axis: str, sizes: Sequence[int]
) -> list[SourceAnswer]:
    """What the files are compared with: single inputs that fit; at every size, one shorter, and half of it padding."""
    places = [(s.tensor.name, s.tensor.shape.index(axis)) for s in source.inputs if axis in s.tensor.shape]
    fitting = [a for a in answers if a.batch == 1 and all(a.inputs[n].shape[k] <= max(sizes) for n, k in places)]
    least = manifest.min_sizes.get(axis, 1)
    for size in sizes:
        whole = make_inputs(source.inputs, 1, seed=size, free={axis: size})
        half = {n: np.full_like(whole[n], max(least, size // 2)) for n in length_inputs(source.inputs)}
        shorter = make_inputs(source.inputs, 1, seed=size, free={axis: max(size - 1, least)})
        fitting += [SourceAnswer(x, source.reference(x), 1) for x in (whole, {**whole, **half}, shorter)]
    return fitting


def _fixed(spec: InputSpec, axis: str, size: int) -> InputSpec:
    shape = tuple(size if a == axis else a for a in spec.tensor.shape)
    return replace(spec, tensor=replace(spec.tensor, shape=shape), sizes={})
