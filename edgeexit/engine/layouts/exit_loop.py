"""The exit loop: scores of exits in their order, and the decision after each, for one input and for a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.common.finite import finite, sound, unsound_rows
from edgeexit.engine.decision import Reason
from edgeexit.engine.layouts.base import Array, Base, BatchResult, ExitOutput, RunResult
from edgeexit.errors import PolicyError
from edgeexit.policy.policies import Policy
from edgeexit.policy.scores import SCORES, score_named, valid_positions


class Scoring:
    """Scores, and labels where the policy reads them, of the exits so far in one run."""

    def __init__(self, driver: Base, policy: Policy) -> None:
        self.policy, self.kinds = policy, driver.kinds
        self.row = score_named(policy.score or "maxprob")
        self.shows_nan = self.row.needs == "answer" and self.row.name in SCORES
        """Whether the score is NaN wherever the answer is none; scores of other distributions may not be."""
        self.temperatures = driver.temperatures(policy)
        self.scorer = driver.scorer(policy)
        self.last = driver.count - 1
        self.scores: list[Any] = []
        self.labels: list[Any] = []

    def score(self, output: ExitOutput, k: int) -> Array:
        """`(n,)` scores of exit `k`, which gives such a score (`Driver.fits`); its labels are appended if the policy
        reads them."""
        row, scorer = self.row, self.scorer
        if scorer is not None:
            scorer.see(output.answer, output.lengths, self.kinds[k], self.temperatures[k])
        if self.policy.needs_labels:  # with the batch axis: without it, a sequence's positions would look like inputs
            self.labels.append(output.labels if scorer is None else scorer.labels())
        if row.needs == "answer":
            return row.of_answer(output.answer, self.kinds[k], self.temperatures[k], output.lengths)
        if scorer is not None and row.of_text:
            return scorer.score(row.name)
        return np.asarray(row.compute(getattr(output, row.needs)))


class ExitLoop(Scoring):
    """Decisions about one input. Show every exit in order to `skips`, then to `decide` unless it was skipped."""

    def skips(self, k: int) -> bool:
        """Whether exit `k` cannot answer whatever its score, so that the score need not be computed."""
        if k == self.last or self.scorer is not None or not self.policy.forbids(k):
            return False
        self.scores.append(None)
        return True

    def decide(self, output: ExitOutput, k: int) -> Reason | None:
        """Why the input stops at exit `k`; None = it goes on.

        An answer with NaN is below every threshold, but stops here: the engine refuses it, and it must not be sent
        deeper.
        """
        score = self.score(output, k)[0]
        self.scores.append(score)
        if k == self.last:
            return "last"
        if score != score or (not self.shows_nan and not sound(output.single, self.kinds[k])):
            return self.policy.reason(k, score)
        return self.policy.reason(k, score) if self.policy.stop(self.scores, self.labels) else None

    def result(self, output: ExitOutput, k: int, reason: Reason, network: float, others: float) -> RunResult:
        """The answer of exit `k`, the latest that was shown to `decide`; seconds as in `RunResult`."""
        uncertainty = None if output.uncertainty is None else float(output.uncertainty[0])
        return RunResult(k, output.answer, float(self.scores[-1]), reason, uncertainty, output.lengths, network, others)


class BatchLoop(Scoring):
    """Decisions about n inputs; those that stopped are dropped."""

    def __init__(self, driver: Base, policy: Policy, n: int) -> None:
        super().__init__(driver, policy)
        self.rows = np.arange(n)
        """Inputs that still go on."""
        self.exits = np.full(n, self.last, np.int64)
        self.exit_scores = np.full(n, np.nan, np.float32)
        self.uncertainties = np.full(n, np.nan, np.float32) if driver.any_uncertain else None
        self.lengths = None if None in driver.lengths else np.zeros(n, np.int64)
        self.outputs: Array | None = None

    def decide(self, output: ExitOutput, k: int) -> NDArray[np.bool_] | None:
        """Take the answers of those that stop at exit `k`.

        Returns:
            True for each of the inputs so far that goes on; None = none does.

        Raises:
            PolicyError: the exit's output has another shape than an earlier one's.
        """
        scores = self.score(output, k)
        self.scores.append(scores)
        stop = np.ones(len(scores), bool)
        if k < self.last:
            stop = np.asarray(self.policy.stop(self.scores, self.labels), bool) | self._unsound(output, k)
        self._store(output, k, stop)
        if stop.all():
            return None
        going = ~stop
        if stop.any():
            self.rows = self.rows[going]
            self.scores = [s[going] for s in self.scores]
            self.labels = [s[going] for s in self.labels]
            if self.scorer is not None:
                self.scorer.keep(going)
        return going

    def _store(self, output: ExitOutput, k: int, stop: NDArray[np.bool_]) -> None:
        answer = output.answer
        if self.outputs is None:
            self.outputs = np.empty((len(self.exits), *answer.shape[1:]), answer.dtype)
        if self.outputs.shape[1:] != answer.shape[1:]:
            raise PolicyError("the exits' outputs differ in shape: run these inputs one by one")
        done = self.rows[stop]
        self.exits[done], self.exit_scores[done], self.outputs[done] = k, self.scores[-1][stop], answer[stop]
        if self.uncertainties is not None and output.uncertainty is not None:
            self.uncertainties[done] = output.uncertainty[stop]
        if self.lengths is not None and output.lengths is not None:
            self.lengths[done] = output.lengths[stop]

    def _unsound(self, output: ExitOutput, k: int) -> NDArray[np.bool_]:
        """`(n,)` inputs whose answer holds NaN or infinity: the engine refuses it, and it must not send them deeper."""
        scores, answer = self.scores[-1], output.answer
        if finite(scores) and finite(answer):
            return np.zeros(len(scores), bool)
        valid = None if output.lengths is None else valid_positions(output.lengths, answer.shape[1])
        return np.asarray(unsound_rows(answer, self.kinds[k], valid) | np.isnan(scores))

    def result(self) -> BatchResult:
        """All answers, once every input has stopped."""
        assert self.outputs is not None
        return BatchResult(self.exits, self.outputs, self.exit_scores, self.uncertainties, self.lengths)
