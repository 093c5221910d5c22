"""Comparison of a decoder's files with the torch module: stages with and without a cache, heads, the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeexit.bundle.manifest import Check
from edgeexit.engine.inputs import relative_error
from edgeexit.errors import ExportMismatch
from edgeexit.lm.cache import Cache
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.positions import mask
from edgeexit_exporters.lm.source import Decoder

TOLERANCE = 1e-4
NEW, PAST = (1, 2, 5), (0, 1, 7)
"""Numbers of new and of earlier positions that are tried."""

Array = NDArray[np.float32]
_See = Callable[[int, Array, Tensor, str], None]


def compare(
    lm: LanguageModel,
    model: Decoder,
    ids: Sequence[int],
    maps: Mapping[int, nn.Module],
    tolerance: float | None = TOLERANCE,
) -> Check:
    """Compare an artifact with the module that it was made of.

    Args:
        lm: the artifact.
        model: the module.
        ids: at least `max(NEW) + max(PAST)` tokens, or as many as the context holds.
        maps: stage -> what stands before its head.
        tolerance: largest error, as a fraction of a tensor's largest number; None = only measured.

    Raises:
        ExportMismatch: an error above it; names file and sizes.
    """
    errors = [0.0] * lm.count

    def see(k: int, actual: Array, expected: Tensor, what: str) -> None:
        error = relative_error(actual, expected.numpy())
        errors[k] = max(errors[k], error)
        if tolerance is not None and not error <= tolerance:
            raise ExportMismatch(
                f"{lm.artifact}: {what} differs from the torch module by {error:.1e} of its largest number, "
                f"tolerance {tolerance:.0e}"
            )

    tried = [(t, p) for t in NEW for p in PAST if t + p <= min(len(ids), lm.spec.context)]
    with torch.no_grad():
        for new, past in tried:
            _parts(lm, model, ids[: past + new], past, maps, see)
        most = max(t + p for t, p in tried)
        whole = model.head(model.hidden(torch.tensor([ids[:most]]))[-1])[0]
    cache, hidden = Cache(lm.spec), lm.embed(ids[:most])
    for k in range(lm.count):
        hidden = lm.run_stage(k, hidden, cache)
    see(lm.count - 1, lm.logits(hidden), whole, f"the chain of all stages over {most} tokens")
    return Check(tolerance if tolerance is not None else 0.0, tuple(errors), len(tried) + 1)


def _parts(
    lm: LanguageModel, model: Decoder, ids: Sequence[int], past: int, maps: Mapping[int, nn.Module], see: _See
) -> None:
    """Each stage on the module's own hidden states, its head and its stand-in keys and values."""
    where = f"with {len(ids) - past} new tokens after {past}"
    spec = lm.spec
    held = [torch.zeros(len(ids), 1, spec.kv_heads, spec.head_dim) for _ in range(2 * spec.layers)]
    if past:
        _, rows = model.block(
            0, spec.layers, model.embed(torch.tensor([ids[:past]])), held, *_about(model, 0, past, len(ids))
        )
        for room, row in zip(held, rows, strict=True):
            room[:past] = row
    hidden = model.embed(torch.tensor([ids[past:]]))
    at, turn, look = _about(model, past, len(ids), len(ids))
    for k in range(lm.count):
        layers = spec.layers_of(k)
        first, last = layers[0], layers[-1] + 1
        own = held[2 * first : 2 * last]
        cache = _filled(lm, k, own, past)
        expected, rows = model.block(first, last, hidden, own, at, turn, look)
        see(k, lm.run_stage(k, hidden.numpy(), cache), expected, f"stage_{k} {where}")
        for actual, row in zip(cache.past(k), rows, strict=True):
            see(k, actual[past:], row, f"keys and values of stage_{k} {where}")
        if k in lm.parts.keys_values:
            cache = _filled(lm, k, own, past)
            lm.fill(k, hidden.numpy(), cache)
            for actual, row in zip(cache.past(k), model.keys_values(first, last, hidden, turn), strict=True):
                see(k, actual[past:], row, f"kv_{k} {where}")
        logits = model.head(maps[k](expected) if k in maps else expected)[0]
        shown = lm.exit_ids(k)
        logits = logits if shown is None else logits[:, torch.from_numpy(shown)]
        see(k, lm.exit_logits(k, expected.numpy()), logits, f"the head of exit {k} {where}")
        hidden = expected


def _about(model: Decoder, start: int, end: int, rows: int) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """Inputs of `block` for positions start..end-1: their rows, cosines and sines, and the attention mask."""
    at = torch.arange(start, end)
    return at, model.turn(at[None]), torch.from_numpy(mask(start, len(at), rows))


def _filled(lm: LanguageModel, k: int, rows: Sequence[Tensor], past: int) -> Cache:
    cache = Cache(lm.spec)
    if past:
        cache.put(k, [r[:past].numpy() for r in rows])
    return cache
