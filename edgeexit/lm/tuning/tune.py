"""Tuning of decoding on this device: exit quality, traces, measured costs, simulated speeds, verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeexit.bundle.lm_spec import LmProof
from edgeexit.common.environment import environment
from edgeexit.errors import DataError
from edgeexit.lm.costs import Costs
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.tuning.measure_costs import measure
from edgeexit.lm.tuning.simulate import Simulated
from edgeexit.lm.tuning.traces import Quality, Trace, quality, record
from edgeexit.lm.tuning.verdict import DecodingVerdict, Predicted, break_even, decide

Tell = Callable[[str, int, int], None]
"""Called with the phase, steps done and steps in total."""


@dataclass(frozen=True)
class Exit:
    """One exit: quality on the text, and on the model's own answers."""

    quality: Quality
    own: float
    """Share of its guesses that are right in recorded answers: the acceptance of its drafts."""
    needed: float | None
    """Share that makes drafts as fast as plain decoding; None = not even all of them, or it is the last exit."""
    best: Predicted | None
    """Its fastest speculative setting on the answers; None = none, or it is the last exit."""


@dataclass(frozen=True)
class TuningResult:
    """Quality of the exits, verdict and costs."""

    exits: tuple[Exit, ...]
    verdict: DecodingVerdict
    costs: Costs
    traces: tuple[Trace, ...]
    proof: LmProof | None
    environment: dict[str, Any]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON, without the recorded answers."""
        verdict = self.verdict
        return {
            "verdict": verdict.text,
            "setting": asdict(verdict.setting),
            "speedup": verdict.speedup,
            "held_out": verdict.held,
            "undecided": [asdict(s) for s in verdict.undecided],
            "proof": None if self.proof is None else self.proof.to_dict(),
            "exits": [
                {
                    **asdict(e.quality),
                    "own_agreement": e.own,
                    "break_even": e.needed,
                    "best": None if e.best is None else _row(e.best),
                }
                for e in self.exits
            ],
            "settings": [_row(p) for p in verdict.predictions],
            "answers": len(self.traces),
            "tokens": sum(t.n for t in self.traces),
            "costs": self.costs.to_dict(),
            "environment": self.environment,
            "seconds": self.seconds,
        }


def tune(
    model: LanguageModel,
    ids: Sequence[int],
    *,
    prompts: int = 12,
    prompt_tokens: int = 64,
    max_tokens: int = 128,
    draft: int = 8,
    quality_tokens: int = 4096,
    costs: Costs | None = None,
    n: int = 15,
    tell: Tell = lambda what, i, n: None,
) -> TuningResult:
    """Measure costs, record traces, and simulate every setting.

    Args:
        model: on this device, with its threads.
        ids: `(n,)` text of the kind that will be used.
        prompts: cut from it at equal distances; the model answers each.
        prompt_tokens, max_tokens: of every prompt and answer.
        draft: longest draft to try.
        quality_tokens: largest part of the text for perplexity and agreement.
        costs: this device's; None = measured now.
        n: rounds of that measurement.
        tell: progress.

    Raises:
        DataError: too little text, unknown tokens, costs of another artifact, impossible numbers.
    """
    started = time.perf_counter()
    starts = sample_prompts(model, ids, prompts, prompt_tokens)
    if max_tokens < 1 or quality_tokens < 2:
        raise DataError(f"answers of {max_tokens} tokens, quality over {quality_tokens}: need at least one, and two")
    if costs is None:
        block = min(draft + 1, model.spec.context - 1)
        costs = measure(model, block, n=n, progress=lambda i, of: tell("timing", i, of))
    else:
        costs.check(model, min(draft + 1, costs.block))
    part = list(ids[: max(quality_tokens, 2)])
    window = min(model.spec.context, len(part) - 1)
    qualities = quality(model, part, context=window, progress=lambda i, of: tell("reading", i, of))
    traces = record(model, starts, max_tokens, progress=lambda i, of: tell("answering", i, of))
    verdict = decide(traces, costs, draft=draft, proof=model.proof, progress=lambda i, of: tell("simulating", i, of))
    agree = np.concatenate([t.agree for t in traces]).mean(0)
    last = model.count - 1
    exits = tuple(
        Exit(
            q,
            float(agree[k]),
            None if k == last or draft < 1 else break_even(costs, k, draft=draft),
            next((p for p in verdict.predictions if p.simulated.setting.exit == k and _speculates(p.simulated)), None),
        )
        for k, q in enumerate(qualities)
    )
    where = environment(model.engine, model.threads)
    return TuningResult(exits, verdict, costs, tuple(traces), model.proof, where, time.perf_counter() - started)


def sample_prompts(model: LanguageModel, ids: Sequence[int], prompts: int, tokens: int) -> list[list[int]]:
    """Cut prompts from a text, at equal distances.

    Raises:
        DataError: too little text, no room for an answer, unknown tokens, or none asked for.
    """
    if prompts < 1 or tokens < 1:
        raise DataError(f"{prompts} prompts of {tokens} tokens: need at least one of each")
    if tokens >= model.spec.context:
        raise DataError(f"prompts of {tokens} tokens leave no room for an answer in the context {model.spec.context}")
    if len(ids) < prompts * tokens:
        raise DataError(
            f"{prompts} prompts of {tokens} tokens need a text of {prompts * tokens} tokens; it has {len(ids)}: "
            "give more text, or fewer or shorter prompts"
        )
    model.check_ids(ids)
    places = np.linspace(0, len(ids) - tokens, prompts).astype(int)
    bos = [] if model.spec.bos is None else [model.spec.bos]
    return [(bos + [int(t) for t in ids[p : p + tokens]])[:tokens] for p in places]


def _speculates(simulated: Simulated) -> bool:
    return simulated.setting.method == "speculative"


def _row(p: Predicted) -> dict[str, Any]:
    s = p.simulated
    shown = {k: v for k, v in asdict(s.setting).items() if k in _SHOWN[s.setting.method]}
    return {
        **shown,
        "speedup": p.speedup,
        "speedup_error": p.error,
        "tokens_per_second": s.tokens_per_second,
        "tokens": s.tokens,
        "rounds": s.rounds,
        "acceptance": s.acceptance,
        "agreement": s.agreement,
    }


_SHOWN = {
    "greedy": ("method",),
    "speculative": ("method", "exit", "draft", "threshold"),
    "del": ("method", "draft", "threshold"),
    "lookup": ("method", "draft", "ngram"),
    "calm": ("method", "exit", "threshold", "confidence", "repair", "decay"),
    "skip": ("method", "exit"),
}
