"""Verdict on decoding: every setting simulated on recorded answers, the fastest recommended.

The table has all answers; how fast the recommended setting is on new text comes from choosing on one half of them and
measuring on the other, both ways round. What the answers cannot tell apart is called undecided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeexit.bundle.lm_spec import LmProof, proved, unproved
from edgeexit.errors import DataError
from edgeexit.lm.costs import Costs
from edgeexit.lm.model import Array
from edgeexit.lm.settings import Decoding
from edgeexit.lm.tuning.simulate import CostTable, Simulated, merged, simulate
from edgeexit.lm.tuning.traces import Trace

THRESHOLDS = (0.0, 0.3, 0.5, 0.7, 0.9)
CALM_THRESHOLDS = (0.5, 0.7, 0.9)
WORTH = 1.02
"""Speed-up over plain decoding below which no other setting is recommended."""

SPREAD = 2.0
"""Standard errors between two speeds below which the faster one is undecided."""


@dataclass(frozen=True)
class Predicted:
    """Speed-up of a setting on all recorded answers."""

    simulated: Simulated
    speedup: float
    """Its tokens per second over plain decoding's."""
    error: float | None
    """Standard error of `speedup`, from one answer to another; None = there was one answer only."""


@dataclass(frozen=True)
class DecodingVerdict:
    """The recommended setting and its expected speed-up."""

    text: str
    setting: Decoding
    """The recommended one; in `predictions` none that gives the same text is faster, but for plain decoding."""
    speedup: float
    """Expected over plain decoding: settings chosen on one half of the answers, measured on the other."""
    predictions: tuple[Predicted, ...]
    """All settings, the fastest first; lossy ones last."""
    held: bool
    """`speedup` is measured on text that settings were not chosen on; False = there was one answer only."""
    undecided: tuple[Decoding, ...] = ()
    """The fastest of every other method whose speed does not differ significantly from the recommended one's."""


def settings(exits: int, draft: int, costs: Costs) -> list[Decoding]:
    """Settings to simulate: early exits with 1..draft drafts and some thresholds, prompt lookup, del, lossy ones."""
    candidates = [Decoding()]
    for e in range(exits - 1):
        for k in range(1, draft + 1):
            candidates += [Decoding("speculative", exit=e, draft=k, threshold=t) for t in THRESHOLDS]
    for k in {min(k, draft) for k in (2, 4, 8)}:
        candidates += [Decoding("lookup", draft=k, ngram=g) for g in (2, 3)]
    if exits > 1:
        candidates.append(Decoding("del", draft=draft))
        repairs = (True,) if np.isnan(costs.fills[1:]).any() else (False, True)
        for e in sorted({0, exits // 2}):
            candidates += [Decoding("calm", exit=e, threshold=t, repair=r) for t in CALM_THRESHOLDS for r in repairs]
        if exits > 2:
            candidates += [Decoding("skip", exit=exits // 2)]
    return candidates


def decide(
    traces: Sequence[Trace],
    costs: Costs,
    *,
    draft: int = 8,
    proof: LmProof | None = None,
    progress: Callable[[int, int], None] = lambda i, n: None,
) -> DecodingVerdict:
    """Simulate every setting and choose.

    Args:
        traces: recorded answers.
        costs: this device's.
        draft: longest draft to try.
        proof: of the artifact; None = not tested.
        progress: called with settings done and in total.

    Raises:
        DataError: nothing recorded.
    """
    if not traces:
        raise DataError("no recorded text to decide on")
    draft = min(draft, costs.block - 1)
    cost_tables = [CostTable(t, costs) for t in traces]
    tried = settings(costs.exits, max(draft, 1), costs) if draft >= 1 else [Decoding()]
    runs = []
    for i, setting in enumerate(tried):
        runs.append(_Run([simulate([cost_table], setting) for cost_table in cost_tables]))
        progress(i + 1, len(tried))
    plain = runs[0]
    runs.sort(key=lambda r: (r.setting.lossy, r.seconds.sum()))  # stable, so that of equals plain decoding is first
    predictions = tuple(Predicted(r.whole, _speedup(plain, r), _error(plain, r)) for r in runs)
    exact = [r for r in runs if not r.setting.lossy]
    best, expected = exact[0], _expected(plain, exact)
    rivals = [r for r in _firsts(exact) if r.setting.method != best.setting.method]
    findings = _Findings(predictions, expected, tuple(r.setting for r in rivals if not _tells(plain, best, r)))
    return DecodingVerdict(*_words(findings, proof), predictions, len(cost_tables) > 1, findings.undecided)


class _Run:
    """A setting's seconds, answer by answer; the answers are those of plain decoding for every setting."""

    def __init__(self, parts: Sequence[Simulated]) -> None:
        self.setting = parts[0].setting
        self.seconds = np.array([p.seconds for p in parts])
        self.whole = merged(parts)


@dataclass(frozen=True)
class _Findings:
    predictions: tuple[Predicted, ...]
    expected: float
    undecided: tuple[Decoding, ...]

    def of(self, setting: Decoding) -> Predicted:
        return next(p for p in self.predictions if p.simulated.setting == setting)


def _firsts(runs: Sequence[_Run]) -> list[_Run]:
    """The first of every method."""
    return list({r.setting.method: r for r in reversed(runs)}.values())


def _speedup(plain: _Run, run: _Run) -> float:
    return float(plain.seconds.sum() / run.seconds.sum())


def _without(plain: _Run, run: _Run) -> Array:
    """`(answers,)` the speed-up without each answer in turn."""
    left: Array = (plain.seconds.sum() - plain.seconds) / (run.seconds.sum() - run.seconds)
    return left


def _spread(left: Array) -> float:
    """Jackknife standard error."""
    return float(np.sqrt((len(left) - 1) * np.mean((left - left.mean()) ** 2)))


def _error(plain: _Run, run: _Run) -> float | None:
    return _spread(_without(plain, run)) if len(run.seconds) > 1 else None


def _tells(plain: _Run, fast: _Run, slow: _Run) -> bool:
    """Test whether one is significantly faster: by more than `SPREAD` errors of the difference, answer by answer."""
    gain = _speedup(plain, fast) - _speedup(plain, slow)
    if len(fast.seconds) < 2:
        return gain >= WORTH - 1
    return gain > SPREAD * _spread(_without(plain, fast) - _without(plain, slow))


def _expected(plain: _Run, runs: Sequence[_Run]) -> float:
    """The speed-up of choosing the fastest: chosen on every second answer, measured on the others, and vice versa."""
    count = len(plain.seconds)
    if count < 2:
        return _speedup(plain, runs[0])
    even = np.arange(count) % 2 == 0
    seconds = 0.0
    for fold in (even, ~even):
        chosen = min(runs, key=lambda r: r.seconds[fold].sum())
        seconds += float(chosen.seconds[~fold].sum())
    return float(plain.seconds.sum() / seconds)


def _words(findings: _Findings, proof: LmProof | None) -> tuple[str, Decoding, float]:
    exact = [p for p in findings.predictions if not p.simulated.setting.lossy]
    best, setting = exact[0], exact[0].simulated.setting
    other = next((p for p in exact if p.simulated.setting.method != "greedy"), None)
    if setting.method == "greedy" or best.speedup < WORTH:
        why = "nothing else to use" if other is None else f"the best, {_speed(other)} as fast"
        return f"leave it off: plain decoding is not beaten ({why})", Decoding(), 1.0
    if findings.expected < WORTH or any(s.method == "greedy" for s in findings.undecided):
        return (
            f"undecided, so leave it off: the best, {_speed(best)} as fast as plain decoding, and these answers do not "
            "tell whether it is faster; more prompts do", Decoding(), 1.0,
        )  # fmt: skip
    rivals = [_speed(findings.of(s)) for s in findings.undecided]
    if rivals:
        text = (
            f"undecided between {_speed(best)} plain decoding, and {'; '.join(rivals)}: use the first "
            f"({findings.expected:.2f} times expected)"
        )
    else:
        text = f"use {setting}: {findings.expected:.2f} times plain decoding"
    if setting.method == "lookup" and not {"speculative", "del"} & {s.method for s in findings.undecided}:
        second = next((p for p in exact if p.simulated.setting.method in ("speculative", "del")), None)
        if second is not None:
            text += f" (the best by exits: {_speed(second)})"
    if not proved(proof, setting.block):
        text += f"; its text may differ from plain decoding's: {unproved(proof, setting.block)}"
        text += _within(findings.predictions, proof)
    return text, setting, findings.expected


def _speed(prediction: Predicted) -> str:
    error = "" if prediction.error is None else f" ± {prediction.error:.2f}"
    return f"{prediction.simulated.setting}, {prediction.speedup:.2f}{error} times"


def _within(predictions: Sequence[Predicted], proof: LmProof | None) -> str:
    """The best of the settings that the proof covers."""
    drafting = (p for p in predictions if not p.simulated.setting.lossy and p.simulated.setting.block > 1)
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
