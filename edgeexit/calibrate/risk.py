"""Certificates: a policy whose expected loss is at most alpha, with probability 1 - delta.

Learn-then-Test (Angelopoulos et al., Annals of Applied Statistics 2025) with a fixed sequence: the design rows
order the policies from safe to bold, the calibration rows test them in that order and stop at the first that
fails, so no correction for the number of policies is needed and the loss need not be monotone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.bounds import Betting, Binomial, ConformalRiskControl, HoeffdingBentkus, least_rows, shuffled
from edgeexit.calibrate.losses import LOSSES, Loss, loss_of
from edgeexit.errors import Infeasible, PolicyError
from edgeexit.policy import Policy
from edgeexit.rows import Rows, replay

T = TypeVar("T")

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
    """At every exit, over the inputs that left there or before (Ringel et al., ICML 2024)."""

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
        found = re.fullmatch(r"\s*([a-z_]+)\s*<=\s*([0-9.eE+-]+)\s*@\s*([0-9.eE+-]+)\s*", text)
        try:
            if found is None:
                raise ValueError
            alpha, confidence = float(found[2]), float(found[3])
        except ValueError:
            raise PolicyError(
                f"guarantee {text!r:.80}: expected LOSS<=ALPHA@CONFIDENCE, e.g. accuracy_gap<=0.01@0.95; "
                f"losses: {', '.join(LOSSES)}"
            ) from None
        name = found[1].removeprefix("accumulated_")
        return cls(name, alpha, round(1 - confidence, 12), method, found[1] != name)


@dataclass(frozen=True)
class Certificate:
    """A policy that passed."""

    policy: Policy
    promise: Mapping[str, Any]
    """For the operating point: what, alpha, delta, n, method, test, measured, split, text."""


def certify(sequence: Sequence[Policy], calibration: Rows, asked: Guarantee) -> Certificate:
    """Test policies from safe to bold on calibration rows and return the last that passes.

    Args:
        sequence: fixed without looking at the calibration rows; the first should lose nothing (the last exit).
        calibration: rows that neither the network nor the sequence was made on.
        asked: the guarantee; `accumulated` ones are `conditional.conditional_thresholds`'s.

    Raises:
        Infeasible: not even the first passes; the message has the rows needed.
        DataError: the loss needs labels and there are none.
    """
    loss = loss_of(asked.loss)
    raw, n, rows = loss.table(calibration), calibration.n, np.arange(calibration.n)
    table, (alpha, bound) = _scaled(loss, raw, asked), _scale(loss, asked)
    name, passes = _test(loss.binary(calibration), n, alpha, bound, asked)
    order = shuffled(rows)  # to bet in

    def tried() -> Iterator[tuple[tuple[Policy, float], NDArray[np.float64]]]:
        for policy in sequence:
            taken = replay(policy, calibration)
            losses = table[taken, rows]
            yield (policy, float(raw[taken, rows].mean())), losses[order] if asked.method == "ucb" else losses

    passed = last_passing(tried(), passes)
    if passed is None:
        raise Infeasible(too_few(asked, n))
    sure = f"with probability {1 - asked.delta:g}" if asked.method != "crc" else "on average"
    text = f"{loss.text} is at most {asked.alpha:g}, {sure} over calibration sets, {CONDITION}"
    return Certificate(passed[0], promise_of(asked, calibration, name, passed[1], text))


def last_passing(
    tried: Iterable[tuple[T, NDArray[np.float64]]], passes: Callable[[NDArray[np.float64]], bool]
) -> T | None:
    """The test of a fixed sequence: what comes before the first whose losses fail; None = the first does.

    Nothing after it is asked for, so losses may be dear to compute.
    """
    found = None
    for candidate, losses in tried:
        if not passes(losses):
            break
        found = candidate
    return found


def promise_of(asked: Guarantee, rows: Rows, test: str, measured: float, text: str) -> dict[str, Any]:
    """The promise as an operating point stores it."""
    return {
        "what": ("accumulated_" if asked.accumulated else "") + asked.loss,
        "alpha": asked.alpha,
        "delta": None if asked.method == "crc" else asked.delta,
        "n": rows.n,
        "method": asked.method,
        "test": test,
        "measured": measured,
        "split": rows.digest(),
        "text": text,
    }


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


def _test(
    binary: bool, n: int, alpha: float, bound: float, asked: Guarantee
) -> tuple[str, Callable[[NDArray[np.float64]], bool]]:
    """The test's name, and whether losses `(n,)` pass it; to be asked from the safe side on."""
    if asked.method == "crc":
        control = ConformalRiskControl(n, alpha, bound)
        return control.name, control.passes
    tester: Binomial | HoeffdingBentkus | Betting
    if asked.method == "ucb":
        tester = Betting(n, alpha, asked.delta, bound)
    else:
        tester = Binomial(n, alpha) if binary else HoeffdingBentkus(n, alpha)
    # More than alpha lost on the very rows that certify is no proof, whatever the order of the bets says.
    return tester.name, lambda losses: losses.mean() <= alpha and tester.p_value(losses) <= asked.delta
