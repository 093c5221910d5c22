"""Transcript of a recording: text, tokens and exit of every part of the audio."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from edgeexit.engine.decision import Decision


class Token(NamedTuple):
    """A decoded class."""

    symbol: str
    seconds: float
    """Its beginning, in seconds from the beginning of the audio."""


@dataclass(frozen=True)
class Part:
    """Transcript of one window of the audio."""

    text: str
    tokens: tuple[Token, ...]
    start: float
    """Seconds from the beginning of the audio."""
    audio_seconds: float
    silent_seconds: float
    """Without speech, at the end of the window."""
    seconds: float
    """Wall-clock time of features, network and decoding."""
    decision: Decision | None
    """The exit's output, score and reason; None = digital silence, on which the network was not run. In a transcript
    of several parts the output is empty, so that hours of audio leave their text only."""
    at_exits: tuple[str, ...] | None = None
    """`(exits,)` text of every exit; None = not asked for."""


@dataclass(frozen=True)
class Transcript:
    """Transcript of a recording: one part, or several where it was too long for one."""

    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        return " ".join(p.text for p in self.parts if p.text)

    @property
    def tokens(self) -> tuple[Token, ...]:
        return tuple(t for p in self.parts for t in p.tokens)

    @property
    def deepest(self) -> Decision | None:
        """The decision of the deepest exit taken, the one with the lowest score; None = digital silence only."""
        decisions = [p.decision for p in self.parts if p.decision is not None]
        return max(decisions, key=lambda d: (d.exit, -d.score), default=None)

    @property
    def exit(self) -> int | None:
        """The deepest exit taken; None = the network was never run."""
        return None if self.deepest is None else self.deepest.exit

    @property
    def score(self) -> float | None:
        """Lowest score at the deepest exit taken."""
        return None if self.deepest is None else self.deepest.score

    @property
    def reason(self) -> str:
        """Reason why the deepest exit answered, or `silence`."""
        return "silence" if self.deepest is None else self.deepest.reason

    @property
    def seconds(self) -> float:
        """Wall-clock time of features, network and decoding."""
        return sum(p.seconds for p in self.parts)

    @property
    def audio_seconds(self) -> float:
        return sum(p.audio_seconds for p in self.parts)

    @property
    def real_time_factor(self) -> float | None:
        """Processing time / audio time; None = there was no audio."""
        return self.seconds / self.audio_seconds if self.audio_seconds else None

    @property
    def at_exits(self) -> tuple[str, ...] | None:
        """`(exits,)` text of every exit; None = not asked for."""
        known = [p.at_exits for p in self.parts]
        if not known or None in known:
            return None
        return tuple(" ".join(t for t in texts if t) for texts in zip(*(k for k in known if k), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "text": self.text,
            "exit": self.exit,
            "score": self.score,
            "reason": self.reason,
            "audio_seconds": self.audio_seconds,
            "seconds": self.seconds,
            "real_time_factor": self.real_time_factor,
            "at_exits": self.at_exits,
            "parts": [
                {
                    "start": p.start,
                    "audio_seconds": p.audio_seconds,
                    "text": p.text,
                    "tokens": [{"symbol": t.symbol, "seconds": t.seconds} for t in p.tokens],
                    "exit": None if p.decision is None else p.decision.exit,
                    "score": None if p.decision is None else p.decision.score,
                    "reason": "silence" if p.decision is None else p.decision.reason,
                    "late": None if p.decision is None else p.decision.late,
                    "macs": None if p.decision is None else p.decision.macs,
                    "seconds": p.seconds,
                    "at_exits": p.at_exits,
                }
                for p in self.parts
            ],
        }


def collect(parts: Iterable[Part]) -> Transcript:
    """The transcript of all parts; of several, without the network's outputs."""
    collected: list[Part] = []
    for part in parts:
        collected.append(part)
        if len(collected) > 1:
            collected[-2:] = (_without_output(p) for p in collected[-2:])
    return Transcript(tuple(collected))


def _without_output(part: Part) -> Part:
    if part.decision is None:
        return part
    return replace(part, decision=replace(part.decision, output=part.decision.output[:0]))
