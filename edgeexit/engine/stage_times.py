"""Stage times of an artifact on this device, and how much longer stages take at the moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgeexit.errors import PolicyError

_LONGEST = 1e9
"""Seconds that a stage may take; JSON holds whole numbers that no float does."""
_WEIGHT = 0.05
"""Of the latest input in the averages."""
_MOST = 100.0
"""Times the expected seconds: one input that was interrupted for long must not rule the next hundred."""


class StageTimes:
    """What deadlines look ahead with. An engine and its driver share one.

    `slowdown` compares seconds in the engine library with seconds in the engine library. What a call does besides
    (checking the input, scores, the decision) is `overhead`: on a network of microseconds it is a third of the call,
    and no sign that the device became slower.
    """

    def __init__(self) -> None:
        self.seconds: tuple[float, ...] | None = None
        """Typical: of each stage (chain), or to each exit (the other layouts); None = not measured."""
        self._ahead: tuple[float, ...] = ()
        self._expected: tuple[float, ...] = ()
        self.slowdown = 1.0
        """How much longer the network takes now than measured before, an exponential average."""
        self.overhead = 0.0
        """Seconds that a call takes beside the network, an exponential average."""

    def use(self, seconds: Sequence[float], ahead: Sequence[float], exits: int, chain: bool, name: str) -> None:
        """Begin with these times.

        Args:
            seconds: typical ones.
            ahead: cautious ones, for looking ahead.
            exits: how many times there must be.
            chain: whether they are of stages; else they are to exits.
            name: of the artifact, for the message.

        Raises:
            PolicyError: not one positive number per exit.
        """
        for times in (seconds, ahead):
            if len(times) != exits or not all(0 < s < _LONGEST for s in times):
                raise PolicyError(f"a profile of {name} has {exits} positive times, found {times!r:.80}")
        self.seconds = tuple(float(s) for s in seconds)
        self._ahead = tuple(float(s) for s in ahead)
        self._expected = tuple(np.cumsum(self.seconds).tolist()) if chain else self.seconds
        self.slowdown, self.overhead = 1.0, 0.0

    def observe(self, k: int, network: float, rest: float) -> None:
        """Take in a run.

        Args:
            k: the exit that answered.
            network: seconds in the engine library.
            rest: seconds of the call besides.
        """
        if self.seconds is None:
            return
        expected = self._expected[k]
        self.slowdown += _WEIGHT * (min(max(network / expected, 0.0), _MOST) - self.slowdown)
        self.overhead += _WEIGHT * (min(max(rest, 0.0), _MOST * expected) - self.overhead)

    def left(self, start: float, deadline_s: float, clock: Callable[[], float]) -> Callable[[], float]:
        """The seconds until a deadline, as a function.

        Raises:
            PolicyError: nothing was measured, or not a positive number of seconds.
        """
        if not 0 < deadline_s < float("inf"):
            raise PolicyError(f"a deadline is a positive number of seconds, found {deadline_s}")
        if self.seconds is None:
            raise PolicyError("a deadline needs measured stage times: load with warmup > 0 or call profile()")
        return lambda: start + deadline_s - clock()

    def predicted(self, k: int, runs: int = 1) -> float:
        """Cautious seconds, at the current slow-down, to the end of a call that still runs stage `k` (chain) or
        answers at exit `k` (the other layouts); only where `seconds` is not None.

        Args:
            k: the stage or exit.
            runs: how often it runs, for a stream's inputs that wait for it.
        """
        return max(self.slowdown, 1.0) * self._ahead[k] * runs + self.overhead
