"""Lagrangian search: one threshold per exit, along the whole Pareto front by increasing cost.

For a price on cost, maximise ``accuracy - price * cost``. With all other thresholds fixed, the best pair of
thresholds of two neighbouring exits is found exactly: which rows stop is a prefix of the rows in order of
their scores, so a two-dimensional cumulative sum holds the objective of every pair. Going from the last pair
to the first until nothing changes is exact for up to three exits and close beyond.

The prices are the slopes between points found so far (dichotomic search, Aneja and Nair, Management Science
1979), so they fall where the front bends. Between neighbouring points the front is filled in by moving all
thresholds together from one point's ranks to the other's.
"""

from __future__ import annotations

import heapq
import itertools
import math

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.search.thresholds import place_cuts, reached
from edgeexit.records.base import Rows

_CUTS = 160
"""Per exit. More would follow the noise of a few thousand rows: 160 ranks are 0.6 % of the rows each."""
_SOLVES = 60
_STEP = math.log(1.02)
"""The front is filled in until neighbours differ by at most 2 % in cost."""

_Values = NDArray[np.float64]
_Choice = tuple[int, ...]
"""For every exit but the last, which of its cuts is the threshold."""


def per_exit_thresholds(records: Rows, scores: NDArray[np.float32]) -> list[tuple[float, ...]]:
    """Thresholds of candidate policies, by increasing cost.

    Args:
        records: the design rows.
        scores: `(exits - 1, n)` of every exit but the last.

    Returns:
        Of each candidate, one threshold for every exit but the last.
    """
    search = _Search(records, scores)
    search.run()
    return [tuple(float(search.cuts[k][j]) for k, j in enumerate(c)) for c in search.filled()]


class _Search:
    def __init__(self, records: Rows, s: NDArray[np.float32]) -> None:
        self.n, self.exits = records.n, records.exits
        self.cuts = [place_cuts(row, _CUTS) for row in s]
        # The last exit has one cut that every row reaches, so that it needs no case of its own.
        self.rank = [reached(row, c) for row, c in zip(s, self.cuts, strict=True)]
        self.rank.append(np.ones(self.n, np.int64))
        self.sizes = [len(c) for c in self.cuts] + [1]
        self.correct = records.correct.astype(np.float64)
        self.cost = records.relative_cost
        self.measured: dict[_Choice, tuple[float, float]] = {}
        self.gaps: list[tuple[float, _Choice, _Choice]] = []

    def run(self) -> None:
        """Fill `found` with points of the hull: of all choices tried, their mean cost and accuracy."""
        nobody = tuple(size - 1 for size in self.sizes[:-1])
        everybody = (0,) * (self.exits - 1)
        # So small a price on cost only breaks ties in accuracy.
        best = self._solve(1e-3 / self.n, (nobody, everybody))
        self.measured = {c: self._measure(c) for c in (everybody, best)}
        self._push(everybody, best)
        for _ in range(_SOLVES):
            if not self.gaps:
                break
            _, a, b = heapq.heappop(self.gaps)
            (cost_a, right_a), (cost_b, right_b) = self.measured[a], self.measured[b]
            slope = (right_b - right_a) / (cost_b - cost_a)
            c = self._solve(slope, (a, b))
            if c not in self.measured:
                cost, right = self.measured[c] = self._measure(c)
                if right - slope * cost > right_a - slope * cost_a + 1e-9:
                    self._push(a, c)
                    self._push(c, b)

    def _push(self, a: _Choice, b: _Choice) -> None:
        (cost_a, right_a), (cost_b, right_b) = self.measured[a], self.measured[b]
        if cost_b > cost_a and right_b > right_a:
            heapq.heappush(self.gaps, (-(right_b - right_a) * math.log(cost_b / cost_a), a, b))

    def filled(self) -> list[_Choice]:
        """Everything found, and steps of at most 2 % in cost between neighbours."""
        front = sorted(self.measured, key=lambda c: self.measured[c])
        filled = dict.fromkeys(front)
        for a, b in itertools.pairwise(front):
            steps = math.ceil(math.log(self.measured[b][0] / self.measured[a][0]) / _STEP)
            for t in np.linspace(0, 1, steps + 1)[1:-1]:
                between = np.rint(np.array(a) * (1 - t) + np.array(b) * t).astype(int)
                filled[tuple(between.tolist())] = None
        return list(filled)

    def _measure(self, choice: _Choice) -> tuple[float, float]:
        """Mean cost and accuracy."""
        going = np.ones(self.n, bool)
        cost = right = 0.0
        for k, j in enumerate((*choice, 0)):
            stops = going & (self.rank[k] > j)
            cost += float(np.count_nonzero(stops) * self.cost[k])
            right += float(self.correct[k] @ stops)
            going &= ~stops
        return cost / self.n, right / self.n

    def _solve(self, price: float, starts: tuple[_Choice, ...]) -> _Choice:
        """The choice of largest accuracy - price * cost that steps from any of the starts reach."""
        value = self.correct - price * self.cost[:, None]
        return max((self._climb(value, s) for s in starts), key=lambda measured: measured[0])[1]

    def _climb(self, value: _Values, start: _Choice) -> tuple[float, _Choice]:
        j = [*start, 0]
        while True:
            going = [np.ones(self.n, bool)]
            for k in range(self.exits - 2):
                going.append(going[-1] & (self.rank[k] <= j[k]))
            moved = False
            beyond = value[-1]
            for k in range(self.exits - 2, -1, -1):
                moved |= self._step(value, beyond, going[k], k, j)
                beyond = np.where(self.rank[k + 1] > j[k + 1], value[k + 1], beyond)
            if not moved:
                return float(np.where(self.rank[0] > j[0], value[0], beyond).sum()), tuple(j[:-1])

    def _step(self, value: _Values, beyond: _Values, going: NDArray[np.bool_], k: int, j: list[int]) -> bool:
        """Set the cuts of exits k and k + 1 to the best pair, in place.

        Args:
            value: `(exits, n)` what a row is worth that stops at each exit.
            beyond: `(n,)` what a row is worth that passes both.
            going: `(n,)` rows that reach exit k.
            k: the first exit of the pair.
            j: the choice, with 0 for the last exit.

        Returns:
            Whether the objective grew.
        """
        rows = np.flatnonzero(going)
        first, second, rest = self.rank[k][rows], self.rank[k + 1][rows], beyond[rows]
        a, b = self.sizes[k], self.sizes[k + 1]
        here = np.bincount(first, value[k][rows] - rest, a + 1)
        table = np.bincount(first * (b + 1) + second, value[k + 1][rows] - rest, (a + 1) * (b + 1))
        # gain[x, y]: rows of rank > x here, plus rows of rank <= x here and > y at the next exit.
        after = table.reshape(a + 1, b + 1)[:a, ::-1].cumsum(1)[:, ::-1][:, 1:].cumsum(0)
        gain = here[::-1].cumsum()[::-1][1:, None] + after
        best = int(gain.argmax())
        if gain.flat[best] <= gain[j[k], j[k + 1]] + 1e-9:
            return False
        j[k], j[k + 1] = divmod(best, b)
        return True
