"""Manifest of a language model's bundle: exits, stages and their costs per token."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from edgeexit.bundle.lm_spec import LmSpec
from edgeexit.bundle.manifest import Artifact, ExitSpec, Manifest, StageSpec, TensorSpec
from edgeexit.lm.positions import POSITION_INPUTS
from edgeexit.version import __version__
from edgeexit_exporters.lm.source import LmSource


def manifest_of(
    source: LmSource,
    spec: LmSpec,
    name: str,
    maps: Mapping[int, nn.Module],
    shown: NDArray[np.int64] | None,
    artifacts: Sequence[Artifact],
) -> Manifest:
    """The manifest of a decoder's bundle, without checks and proofs.

    Args:
        source: the decoder.
        spec: its stages and sizes.
        name: of the bundle.
        maps: exit -> what stands before its head.
        shown: tokens that early exits choose from; None = all.
        artifacts: of the bundle.
    """
    hidden = TensorSpec("hidden", "float32", ("batch", "tokens", spec.width))
    # cache_position comes with the cache's own tensors, which are not the manifest's either
    turn = [TensorSpec(n, "float32", ("batch", "tokens", 1, spec.head_dim)) for n in POSITION_INPUTS[:2]]
    mask = TensorSpec(POSITION_INPUTS[2], "float32", ("batch", 1, 1, "tokens", "rows"))
    layers = [_macs(layer) for layer in source.model.layers]
    weights = [sum(p.numel() for p in layer.parameters()) for layer in source.model.layers]
    rest = sum(p.numel() for p in source.module.parameters()) - sum(weights)
    exits, stages = [], []
    last = len(spec.stages) - 1
    for k, layer in enumerate(spec.stages):
        classes = spec.vocab if shown is None or k == last else len(shown)
        answer = TensorSpec(f"logits_{k}", "float32", ("batch", "tokens", classes))
        head = classes * spec.width + (_macs(maps[k]) if k in maps else 0)
        total = sum(layers[:layer]) + head
        exits.append(ExitSpec(f"layer_{layer}", (answer,), "logits", total, total))
        own = sum(weights[i] for i in spec.layers_of(k)) + (rest if k == 0 else 0)
        handed = [f"hidden_{k}"] if k < last else []
        stages.append(
            StageSpec(
                ("hidden" if k == 0 else f"hidden_{k - 1}", *POSITION_INPUTS[:3]), (answer.name, *handed),
                sum(layers[i] for i in spec.layers_of(k)), own, 4 * own, 4 * spec.width if handed else 0,
            )
        )  # fmt: skip
    return Manifest(
        name,
        "language-model",
        "dynamic",
        (hidden, *turn, mask),
        tuple(exits),
        tuple(stages),
        tuple(replace(hidden, name=f"hidden_{k}") for k in range(last)),
        tuple(artifacts),
        provenance={
            **source.provenance, **({"notices": list(source.notices)} if source.notices else {}),
            "torch": torch.__version__, "onnxruntime": onnxruntime.__version__,
            "python": platform.python_version(), "edgeexit": __version__,
        },
        lm=spec,
    )  # fmt: skip


def _macs(module: nn.Module) -> int:
    """Of one token, without the products of attention: every matrix is used once."""
    return sum(p.numel() for p in module.parameters() if p.ndim == 2)
