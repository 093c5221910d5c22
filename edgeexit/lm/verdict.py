"""Which way of decoding to use here: all settings simulated, the best chosen on one half of the text and told on the
other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeexit.errors import DataError
from edgeexit.lm.bits import Trace
from edgeexit.lm.costs import Costs
from edgeexit.lm.setting import Setting
from edgeexit.lm.simulate import Sheet, Simulated, simulate
from edgeexit.lm.spec import LmProof, proved, unproved

THRESHOLDS = (0.0, 0.3, 0.5, 0.7, 0.9)
CALM_THRESHOLDS = (0.5, 0.7, 0.9)
WORTH = 1.02
"""Times plain decoding's speed below which nothing is worth the trouble."""


@dataclass(frozen=True)
class Predicted:
    """A setting, on text that it was not chosen on."""

    simulated: Simulated
    speedup: float
    """Its tokens per second over plain decoding's."""
    design: float
    """The same on the half that settings were chosen on."""


@dataclass(frozen=True)
class Verdict:
    """What to do."""

    text: str
    setting: Setting
    speedup: float
    predictions: tuple[Predicted, ...]
    """All settings, the fastest (on the design half) first; lossy ones last."""
    held: bool
    """Whether the speeds are on text that settings were not chosen on; False = there was one answer only."""


def settings(exits: int, draft: int, costs: Costs) -> list[Setting]:
    """What is tried: every early exit with drafts of 1..draft and some thresholds, prompt lookup, del, lossy ones."""
    found = [Setting()]
    for e in range(exits - 1):
        for k in range(1, draft + 1):
            found += [Setting("speculative", exit=e, draft=k, threshold=t) for t in THRESHOLDS]
    for k in {min(k, draft) for k in (2, 4, 8)}:
        found += [Setting("lookup", draft=k, ngram=g) for g in (2, 3)]
    if exits > 1:
        found.append(Setting("del", draft=draft))
        repairs = (True,) if np.isnan(costs.fills[1:]).any() else (False, True)
        for e in sorted({0, exits // 2}):
            found += [Setting("calm", exit=e, threshold=t, repair=r) for t in CALM_THRESHOLDS for r in repairs]
        if exits > 2:
            found += [Setting("skip", exit=exits // 2)]
    return found


def decide(
    traces: Sequence[Trace],
    costs: Costs,
    *,
    draft: int = 8,
    proof: LmProof | None = None,
    progress: Callable[[int, int], None] = lambda i, n: None,
) -> Verdict:
    """Simulate everything and choose.

    Args:
        traces: recorded answers; every second one is kept for the speeds that are told.
        costs: this device's.
        draft: longest draft to try.
        proof: of the artifact; None = nobody looked.
        progress: told settings done and all.

    Raises:
        DataError: nothing recorded.
    """
    if not traces:
        raise DataError("no recorded text to decide on")
    draft = min(draft, costs.block - 1)
    sheets = [Sheet(t, costs) for t in traces]
    design, told = sheets[::2], sheets[1::2] or sheets
    tried = settings(costs.exits, max(draft, 1), costs) if draft >= 1 else [Setting()]
    base_design, base_told = simulate(design, Setting()), simulate(told, Setting())
    found = []
    for i, setting in enumerate(tried):
        chosen_on, b = simulate(design, setting), simulate(told, setting)
        gain = chosen_on.tokens_per_second / base_design.tokens_per_second
        found.append(Predicted(b, b.tokens_per_second / base_told.tokens_per_second, gain))
        progress(i + 1, len(tried))
    found.sort(key=lambda p: (p.simulated.setting.lossy, -p.design))
    best = next(p for p in found if not p.simulated.setting.lossy)
    return Verdict(*_words(best, found, proof), tuple(found), len(sheets) > 1)


def _words(best: Predicted, found: Sequence[Predicted], proof: LmProof | None) -> tuple[str, Setting, float]:
    setting = best.simulated.setting
    if setting.method == "greedy" or best.speedup < WORTH:
        other = (p for p in found if p.simulated.setting.method != "greedy" and not p.simulated.setting.lossy)
        first = next(other, None)
        why = "nothing else to use"
        if first is not None:
            why = f"the best, {first.simulated.setting}, {first.speedup:.2f} times as fast"
        return f"leave it off: plain decoding is not beaten ({why})", Setting(), 1.0
    told = f"use {setting}: {best.speedup:.2f} times plain decoding"
    if setting.method == "lookup":
        exits = (p for p in found if p.simulated.setting.method in ("speculative", "del"))
        second = next(exits, None)
        if second is not None:
            told += f" (the best by exits: {second.simulated.setting}, {second.speedup:.2f} times)"
    if not proved(proof, setting.block):
        told += f"; its text may differ from plain decoding's: {unproved(proof, setting.block)}"
        told += _within(found, proof)
    return told, setting, best.speedup


def _within(found: Sequence[Predicted], proof: LmProof | None) -> str:
    """The best of the settings that the proof covers."""
    drafting = (p for p in found if not p.simulated.setting.lossy and p.simulated.setting.block > 1)
    first = next((p for p in drafting if proved(proof, p.simulated.setting.block)), None)
    return "" if first is None else f". Within the proof: {first.simulated.setting}, {first.speedup:.2f} times"


def break_even(costs: Costs, exit: int, speed: float = 1.0, draft: int = 8) -> float | None:
    """The share of an exit's guesses that must be right for `speed` times plain decoding, by the best draft length.

    Takes guesses as independent. None = not even if all were right.
    """
    seconds = costs.rounds(costs.middle, min(draft, costs.block - 1))[exit]
    share = np.linspace(0, 1, 1001)[:, None]
    tokens = np.cumsum(share ** np.arange(len(seconds)), axis=1)
    gain = (tokens / seconds)[:, 1:].max(1) * seconds[0]
    enough = np.flatnonzero(gain >= speed)
    return float(share[enough[0], 0]) if len(enough) else None
