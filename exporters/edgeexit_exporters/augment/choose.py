"""Choice of exits: the subset of candidates and the thresholds of least cost at an allowed loss."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.search.front import ParetoFront
from edgeexit.calibrate.search.pareto import pareto
from edgeexit.errors import PolicyError
from edgeexit.policy.policies import Policy
from edgeexit.records.classification import Records, replay

EXACT_CANDIDATES = 12
"""Up to this many, every subset is tried."""
ERRORS = 2.0
"""Standard errors that the choice keeps away from the allowed drop. Measured over simulated networks with 300 and 1,500
rows to choose on and 2 points allowed: one loses 2.7 and 1.9 points on new rows on average, two 1.9 and 1.6."""
BEAM = 8
"""Beyond: so many of each size are kept and extended."""


@dataclass(frozen=True, eq=False)
class Scored:
    """What the head of every candidate and the untouched model said to the same rows."""

    logits: NDArray[np.float32]
    """`(candidates, n, classes)`, shallow to deep."""
    final: NDArray[np.float32]
    """`(n, classes)` of the untouched model."""
    labels: NDArray[np.int64] | None
    """`(n,)`; None = agreement with the untouched model is what counts."""
    macs: NDArray[np.float64]
    """`(candidates,)` up to the place, without heads."""
    head_macs: NDArray[np.float64]
    """`(candidates,)` of one head alone."""
    total: float
    """Multiply-accumulates of the untouched model."""
    name: str = "augment"

    def take(self, rows: NDArray[np.int64]) -> Scored:
        labels = None if self.labels is None else self.labels[rows]
        return Scored(self.logits[:, rows], self.final[rows], labels, self.macs, self.head_macs, self.total, self.name)

    def records(self, exits: Sequence[int]) -> Records:
        """The network with these candidates as exits, and its own answer last; costs in MACs, heads included."""
        kept = list(exits)
        heads = np.cumsum(self.head_macs[kept]) if kept else np.zeros(0)
        cost = np.append(self.macs[kept] + heads, self.total + float(heads[-1] if kept else 0))
        alone = np.append(self.macs[kept] + self.head_macs[kept], self.total)
        outputs = np.concatenate([self.logits[kept], self.final[None]])
        return Records(outputs, cost, self.labels, static_cost=alone, name=self.name)


@dataclass(frozen=True)
class ExitSetting:
    """Some candidates as exits, with a policy."""

    exits: tuple[int, ...]
    """Indices of candidates, shallow to deep; empty = the untouched model."""
    policy: Policy | None
    """None = the untouched model."""
    cost: float
    """Mean MACs on the rows it was chosen on, as a fraction of the untouched model's."""
    accuracy: float
    """Or agreement with the untouched model, where there are no labels."""


@dataclass(frozen=True)
class ExitChoice:
    """What the search came to."""

    best: ExitSetting
    """The cheapest surely within the allowed drop; the untouched model itself where nothing is cheaper."""
    margin: float
    """`ERRORS` standard errors of what `best` loses: it stays away from the allowed drop by that much."""
    front: tuple[ExitSetting, ...]
    """Cheap to dear, each more accurate than all cheaper ones; the untouched model is among the candidates."""
    full: float
    """Accuracy of the untouched model (agreement: 1)."""
    tried: int
    """Subsets."""
    exact: bool
    """Whether those were all there are."""
    by_subset: dict[tuple[int, ...], float] = field(default_factory=dict, compare=False)
    """Least cost within the drop of every subset tried; infinite where it has none."""


def choose(
    scored: Scored,
    drop: float,
    *,
    most: int = 3,
    score: str = "maxprob",
    beam: int = BEAM,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ExitChoice:
    """Search subsets of up to `most` candidates, each with per-exit thresholds along its whole path.

    The cheapest of thousands of settings that look allowed is one that was lucky on these rows. So a setting counts as
    allowed when it keeps `ERRORS` standard errors of its paired loss away from the drop (after Breiman et al., 1984).

    Args:
        scored: rows to choose on; heads must not have been fitted on them.
        drop: accuracy that may be lost against the untouched model, in [0, 1).
        most: exits before the model's own answer, at least 1.
        score: what thresholds compare; of `edgeexit.policy.scores.ANSWER_SCORES`.
        beam: see `BEAM`.
        progress: called with subsets tried and to try.

    Raises:
        PolicyError: a drop or `most` outside its range, or an unknown score.
    """
    if not 0 <= drop < 1:
        raise PolicyError(f"an accuracy drop is a fraction in [0, 1), found {drop!r}; 0.01 is one point")
    if most < 1:
        raise PolicyError(f"at least 1 exit is to be chosen, found {most}")
    count = len(scored.macs)
    truth = scored.final.argmax(1) if scored.labels is None else scored.labels
    full = float((scored.final.argmax(1) == truth).mean())
    untouched = ExitSetting((), None, 1.0, full)
    settings, by_subset = [untouched], {}
    exact = count <= EXACT_CANDIDATES
    level: list[tuple[int, ...]] = [()]
    total = _subsets(count, most, beam if not exact else None)
    done = 0
    for _ in range(min(most, count)):
        following = sorted({tuple(sorted((*s, k))) for s in level for k in range(count) if k not in s})
        for subset in following:
            path = pareto(scored.records(subset), score)
            points = _settings(path, subset, scored)
            settings += points
            within = [s.cost for s in points if s.accuracy >= full - drop - 1e-12]
            by_subset[subset] = min(within, default=np.inf)
            done += 1
            progress(done, total)
        level = following if exact else sorted(following, key=lambda s: by_subset[s])[:beam]
    allowed = [s for s in settings if s.accuracy >= full - drop - 1e-12]
    for best in sorted(allowed, key=lambda s: (s.cost, len(s.exits), -s.accuracy)):
        margin = ERRORS * _error(best, scored)
        if best.policy is None or best.accuracy >= full - drop + margin:
            break
    return ExitChoice(best, margin, _front(settings), full, len(by_subset), exact, by_subset)


def _error(setting: ExitSetting, scored: Scored) -> float:
    """Standard error of the paired difference to the untouched model."""
    if setting.policy is None:
        return 0.0
    records = scored.records(setting.exits)
    there = records.correct[replay(setting.policy, records), np.arange(records.n)]
    return float((there - records.correct[-1]).std(dtype=np.float64)) / math.sqrt(records.n)


def _settings(path: ParetoFront, subset: tuple[int, ...], scored: Scored) -> list[ExitSetting]:
    records = scored.records(subset)
    scale = float(records.cost[-1]) / scored.total
    return [ExitSetting(subset, p.policy, p.cost * scale, p.accuracy) for p in path.points]


def _front(settings: Iterable[ExitSetting]) -> tuple[ExitSetting, ...]:
    front: list[ExitSetting] = []
    for s in sorted(settings, key=lambda s: (s.cost, -s.accuracy, len(s.exits))):
        if not front or s.accuracy > front[-1].accuracy + 1e-12:
            front.append(s)
    return tuple(front)


def _subsets(count: int, most: int, beam: int | None) -> int:
    if beam is None:
        return sum(len(list(itertools.combinations(range(count), k))) for k in range(1, min(most, count) + 1))
    return count + sum(beam * (count - k) for k in range(1, min(most, count)))
