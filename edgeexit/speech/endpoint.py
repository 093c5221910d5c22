"""Endpoint rules for utterances, and windows of long audio cut where it is quietest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgeexit.errors import DataError
from edgeexit.speech.features import Samples

End = Literal["nothing said", "pause", "length"]


@dataclass(frozen=True)
class EndpointRules:
    """Rules for the end of an utterance; the defaults are those of k2 and sherpa-onnx."""

    silence_s: float = 2.4
    """Seconds without a word at the beginning."""
    pause_s: float = 1.2
    """Seconds without a word after some."""
    longest_s: float = 20.0
    """Seconds an utterance may last at all."""

    def __post_init__(self) -> None:
        for name in ("silence_s", "pause_s", "longest_s"):
            if not 0 < (value := getattr(self, name)) < float("inf"):
                raise DataError(f"{name}: expected a positive number of seconds, found {value!r:.40}")

    def ended(self, seconds: float, silent_s: float, spoken: bool) -> End | None:
        """The reason why the utterance is over; None = it goes on.

        Args:
            seconds: its length so far.
            silent_s: seconds without a word at its end.
            spoken: it has a word.
        """
        if silent_s >= (self.pause_s if spoken else self.silence_s):
            return "pause" if spoken else "nothing said"
        return "length" if seconds >= self.longest_s else None


def windows(blocks: Iterable[Samples], rate: int, longest_s: float = 20.0) -> Iterator[tuple[float, Samples]]:
    """Audio of any length in windows that a model can take, cut where it is quietest.

    Everything is in exactly one window. A cut is made in the second half of the longest window allowed, in the
    middle of the tenth of a second with the least energy; what is held at a time is one window and one block.

    Args:
        blocks: float32 `(n,)` each.
        rate: samples per second.
        longest_s: seconds that a window may last.

    Yields:
        the second at which a window begins, and its samples; nothing for no audio.
    """
    if not 0.1 <= longest_s <= 3600:
        raise DataError(f"longest_s: expected 0.1 to 3600 seconds, found {longest_s!r:.40}")
    longest, quiet = max(2, int(longest_s * rate)), max(1, rate // 10)
    held, length, start = [], 0, 0
    for block in blocks:
        held.append(block)
        length += len(block)
        if length <= longest:
            continue
        rest = np.concatenate(held)
        while len(rest) > longest:
            cut = _quietest(rest[longest // 2 : longest], quiet) + longest // 2
            yield start / rate, rest[:cut]
            start, rest = start + cut, rest[cut:]
        held, length = [rest], len(rest)
    if length:
        yield start / rate, np.concatenate(held)


def _quietest(samples: Samples, quiet: int) -> int:
    """The middle of the `quiet` samples with the least energy; at least 1."""
    quiet = min(quiet, len(samples))
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    return max(1, int(np.argmin(energy[quiet:] - energy[:-quiet])) + quiet // 2)
