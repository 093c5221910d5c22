"""Certificates: a policy whose expected loss is at most alpha, with probability 1 - delta.

Learn-then-Test (Angelopoulos et al., Annals of Applied Statistics 2025): the design rows order the policies from safe
to bold, the calibration rows test them in that order. With one start the test stops at the first that fails. With
several, delta is shared between them (the fallback procedure of Wiens, Pharmaceutical Statistics 2003): a policy is
tested at its own share and what the one before it passed on, so that one unlucky policy does not end it all. Either
way all that pass hold together with probability 1 - delta, so the cheapest may be taken, the number of policies needs
no further correction, and the loss need not be monotone.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.guarantees.bounds import (
    Betting,
    Binomial,
    ConformalRiskControl,
    HoeffdingBentkus,
    binomial_p,
    least_rows,
    shuffled,
)
from edgeexit.calibrate.guarantees.losses import LOSSES, Loss, loss_of
from edgeexit.calibrate.guarantees.ordered import OrderedCandidates
from edgeexit.errors import DataError, Infeasible, PolicyError
from edgeexit.policy.policies import Policy
from edgeexit.records.base import Rows, replay

Method = Literal["ltt", "ucb", "crc"]
METHODS: tuple[Method, ...] = ("ltt", "ucb", "crc")

CONDITION = "as long as field data follow the distribution of the calibration rows"


@dataclass(frozen=True)
class Guarantee:
    """What is asked for: ``loss <= alpha`` with probability ``1 - delta`` over the calibration rows."""

    loss: str
    alpha: float
    delta: float
    method: Method = "ltt"
    """ltt: fixed-sequence test, exact binomial for 0/1 losses, Hoeffding-Bentkus for others in [0, 1].
    ucb: the same sequence with the betting bound, which also takes losses that can be negative.
    crc: conformal risk control; weaker, it bounds the mean over calibration sets and has no delta."""
    accumulated: bool = False
    """At every exit, over the inputs that left there or before (Ringel et al., ICML 2024). A marginal bound lets the
    early leavers be bad and hides it behind the rest."""

    def __post_init__(self) -> None:
        loss = loss_of(self.loss)
        if self.method not in METHODS:
            raise PolicyError(f"unknown method {self.method!r}; known: {', '.join(METHODS)}")
        if not 0 < self.alpha < 1 or not 0 < self.delta < 1:
            raise PolicyError(f"alpha and delta must lie in (0, 1), found {self.alpha!r} and {self.delta!r}")
        if self.accumulated and (loss.signed or self.method != "ltt"):
            raise PolicyError("accumulated gaps are tested with ltt on disagreement or accuracy_gap")

    @classmethod
    def parse(cls, text: str, method: Method = "ltt") -> Guarantee:
        """Read ``accuracy_gap<=0.01@0.95``: the loss, alpha, and the confidence 1 - delta.

        A loss with ``accumulated_`` before it is bounded at every exit.

        Raises:
            PolicyError: not of that form, an unknown loss, or numbers outside (0, 1).
        """
        match = re.fullmatch(r"\s*([a-z_]+)\s*<=\s*([0-9.eE+-]+)\s*@\s*([0-9.eE+-]+)\s*", text)
        try:
            if match is None:
                raise ValueError
            alpha, confidence = float(match[2]), float(match[3])
        except ValueError:
            raise PolicyError(
                f"guarantee {text!r:.80}: expected LOSS<=ALPHA@CONFIDENCE, e.g. accuracy_gap<=0.01@0.95; "
                f"losses: {', '.join(LOSSES)}"
            ) from None
        name = match[1].removeprefix("accumulated_")
        return cls(name, alpha, round(1 - confidence, 12), method, match[1] != name)

    @property
    def what(self) -> str:
        """The loss, with ``accumulated_`` before it where it is bounded at every exit."""
        return ("accumulated_" if self.accumulated else "") + self.loss

    @property
    def asked(self) -> dict[str, float]:
        """The target as an operating point stores it; conformal risk control has no confidence."""
        confidence = {} if self.method == "crc" else {"confidence": 1 - self.delta}
        return {"alpha": self.alpha, **confidence}

    @property
    def name(self) -> str:
        """Name for an operating point."""
        method = "crc" if self.method == "crc" else f"{1 - self.delta:g}-{self.method}"
        return f"{self.what}-{self.alpha:g}-{method}"


@dataclass(frozen=True)
class Certificate:
    """A policy that passed."""

    policy: Policy
    asked: Guarantee
    n: int
    """Calibration rows."""
    test: str
    """Statistical test."""
    measured: float
    """Mean loss on the calibration rows; of an accumulated one the largest."""
    split: str
    """Digest of the calibration rows."""
    text: str
    """The promise in words, with its condition."""

    @property
    def promise(self) -> dict[str, Any]:
        """The promise as an operating point stores it."""
        asked = self.asked
        return {
            "what": asked.what,
            "alpha": asked.alpha,
            "delta": None if asked.method == "crc" else asked.delta,
            "n": self.n,
            "method": asked.method,
            "test": self.test,
            "measured": self.measured,
            "split": self.split,
            "text": self.text,
        }


def certify(ordered: OrderedCandidates, calibration: Rows, asked: Guarantee) -> Certificate:
    """Test policies from safe to bold on calibration rows and return the cheapest that passes.

    Args:
        ordered: fixed without looking at the calibration rows.
        calibration: rows that neither the network nor the order was made on.
        asked: the guarantee.

    Raises:
        Infeasible: not even the first passes; the message has the rows needed.
        DataError: the loss needs labels and there are none, or an accumulated loss is a share (sequences) and not 0
            or 1.
    """
    loss = loss_of(asked.loss)
    trials = _Trials(calibration, loss.table(calibration), asked, loss.binary(calibration))
    if asked.accumulated and not loss.binary(calibration):
        raise DataError("accumulated gaps are tested on losses of 0 and 1; sequences have shares in between")
    passed = list(_in_sequence(ordered, trials) if asked.method == "crc" else _fallback(ordered, trials))
    if not passed:
        raise Infeasible(too_few(asked, calibration.n))
    # Conformal risk control bounds one choice, the last that passes.
    best = passed[-1] if asked.method == "crc" else min(reversed(passed), key=lambda trial: trial.cost)
    sure = f"with probability {1 - asked.delta:g}" if asked.method != "crc" else "on average"
    text = f"{loss.text} is at most {asked.alpha:g}"
    if asked.accumulated:
        text = f"among the inputs that left at an exit or before it, {text}, at every exit at once"
    text += f", {sure} over calibration sets, {CONDITION}"
    return Certificate(best.policy, asked, calibration.n, trials.test, best.measured, calibration.digest(), text)


@dataclass(frozen=True)
class _Trial:
    """A policy on the calibration rows."""

    policy: Policy
    cost: float
    measured: float
    """Mean loss, of accumulated ones the largest."""
    p_value: float
    """For "the loss is above alpha"; 1 where more than alpha was lost on the rows themselves, which is no proof
    whatever the order of bets says. Of conformal risk control, 0 = within alpha."""


class _Trials:
    """Losses of policies on the calibration rows, as the method tests them."""

    def __init__(self, rows: Rows, table: NDArray[np.float64], asked: Guarantee, binary: bool) -> None:
        self.rows, self.asked, self.raw = rows, asked, table
        loss = loss_of(asked.loss)
        self.table, (alpha, bound) = _scaled(loss, table, asked), _scale(loss, asked)
        self.alpha, self.order = alpha, shuffled(np.arange(rows.n))
        self.tester: Binomial | HoeffdingBentkus | Betting | ConformalRiskControl
        if asked.method == "crc":
            self.tester = ConformalRiskControl(rows.n, alpha, bound)
        elif asked.method == "ucb":
            self.tester = Betting(rows.n, alpha, asked.delta, bound)
        else:
            self.tester = Binomial(rows.n, alpha) if binary else HoeffdingBentkus(rows.n, alpha)
        self.test = self.tester.name

    def of(self, policy: Policy) -> _Trial:
        """One policy, to be asked from the safe side on."""
        taken, rows = replay(policy, self.rows), np.arange(self.rows.n)
        losses, raw = self.table[taken, rows], self.raw[taken, rows]
        cost = float(self.rows.relative_cost[taken].mean())
        if isinstance(self.tester, ConformalRiskControl):
            return _Trial(policy, cost, float(raw.mean()), 0.0 if self.tester.passes(losses) else 1.0)
        p = self.tester.p_value(losses[self.order] if self.asked.method == "ucb" else losses)
        measured, within = float(raw.mean()), bool(losses.mean() <= self.alpha)
        for left in (losses[taken <= k] for k in range(self.rows.exits - 1)) if self.asked.accumulated else ():
            if left.size:  # the last exit's is the mean over all rows
                p = max(p, binomial_p(len(left), self.alpha, round(float(left.sum()))))
                measured, within = max(measured, float(left.mean())), within and bool(left.mean() <= self.alpha)
        return _Trial(policy, cost, measured, p if within else 1.0)


def _fallback(ordered: OrderedCandidates, trials: _Trials) -> Iterator[_Trial]:
    """All policies that pass: each at its own share of delta and that of those that passed right before it."""
    level = 0.0
    for policy, weight in zip(ordered.policies, ordered.weights, strict=True):
        level += weight * trials.asked.delta
        if level == 0:
            continue
        trial = trials.of(policy)
        if trial.p_value > level:
            level = 0.0
        else:
            yield trial


def _in_sequence(ordered: OrderedCandidates, trials: _Trials) -> Iterator[_Trial]:
    """Policies from the first on, up to the first that fails."""
    return itertools.takewhile(lambda trial: trial.p_value == 0, map(trials.of, ordered.policies))


def rows_needed(asked: Guarantee) -> int:
    """Calibration rows below which alpha cannot be certified, even without a single loss."""
    alpha, bound = _scale(loss_of(asked.loss), asked)
    return math.ceil(bound / alpha - 1 - 1e-9) if asked.method == "crc" else least_rows(alpha, asked.delta)


def too_few(asked: Guarantee, n: int) -> str:
    """Why nothing passes, with the rows needed."""
    least = rows_needed(asked)
    sure = "" if asked.method == "crc" else f" with confidence {1 - asked.delta:g}"
    if n < least:
        return (
            f"{asked.loss} <= {asked.alpha:g}{sure} needs at least {least} calibration rows even without a single "
            f"loss; found {n}: record more rows, or ask for a larger alpha"
        )
    return f"{asked.loss} <= {asked.alpha:g}{sure}: no policy passes on these {n} calibration rows"


def _scaled(loss: Loss, table: NDArray[np.float64], asked: Guarantee) -> NDArray[np.float64]:
    """Losses as the method takes them: the positive part, which is no less than the loss, over its bound."""
    return np.maximum(table, 0) / loss.bound if _to_unit(loss, asked) else table


def _scale(loss: Loss, asked: Guarantee) -> tuple[float, float]:
    """Alpha and the largest loss as the method takes them."""
    return (asked.alpha / loss.bound, 1.0) if _to_unit(loss, asked) else (asked.alpha, loss.bound)


def _to_unit(loss: Loss, asked: Guarantee) -> bool:
    """All methods but the betting bound take losses in [0, 1]."""
    return loss.signed and asked.method != "ucb"
