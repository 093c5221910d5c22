"""Sound in, text out, with the exit that was taken: features, a bundle's engine, CTC decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.manifest import Manifest, TensorSpec
from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.engine.decision import Decision
from edgeexit.engine.engine import Engine
from edgeexit.errors import BundleError, DataError
from edgeexit.policy.scores import Kind, tempered
from edgeexit.speech.ctc import normalised, prefix_beam
from edgeexit.speech.decode import GreedyDecoder
from edgeexit.speech.endpoint import windows
from edgeexit.speech.features import Samples, checked, log_mel
from edgeexit.speech.tokens import Tokens
from edgeexit.speech.wav import Notice, WavFile, at_rate, audio_blocks

LONGEST_S = 20.0
"""Seconds that go through the network at once; longer audio is cut where it is quiet."""


class Token(NamedTuple):
    """A class that was decoded."""

    symbol: str
    seconds: float | None
    """When it begins, from the beginning of the audio; None = unknown, as a beam search keeps no times."""


@dataclass(frozen=True)
class Part:
    """What was heard in one window of the audio."""

    text: str
    tokens: tuple[Token, ...]
    start: float
    """Seconds from the beginning of the audio."""
    audio_seconds: float
    silent_seconds: float
    """At its end, in which nothing was said."""
    seconds: float
    """Wall-clock time of features, network and decoding."""
    decision: Decision | None
    """The exit's output, score and reason; None = digital silence, for which the network was not asked. In a transcript
    of several parts the output is empty, so that hours of audio leave their text only."""
    at_exits: tuple[str, ...] | None = None
    """`(exits,)` what each would have written; None = not asked for."""


@dataclass(frozen=True)
class Transcript:
    """What was heard in a recording: one part, or several where it was too long for one."""

    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        return " ".join(p.text for p in self.parts if p.text)

    @property
    def tokens(self) -> tuple[Token, ...]:
        return tuple(t for p in self.parts for t in p.tokens)

    @property
    def deepest(self) -> Decision | None:
        """The decision of the part that went deepest, of those the least sure; None = nothing but digital silence."""
        found = [p.decision for p in self.parts if p.decision is not None]
        return max(found, key=lambda d: (d.exit, -d.score), default=None)

    @property
    def exit(self) -> int | None:
        """The deepest exit taken; None = the network was never asked."""
        return None if self.deepest is None else self.deepest.exit

    @property
    def score(self) -> float | None:
        """Of the deepest exit taken, the lowest."""
        return None if self.deepest is None else self.deepest.score

    @property
    def reason(self) -> str:
        """Why the deepest exit answered, or `silence`."""
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
        """Time spent by time heard; None = there was no audio."""
        return self.seconds / self.audio_seconds if self.audio_seconds else None

    @property
    def at_exits(self) -> tuple[str, ...] | None:
        """`(exits,)` what each would have written; None = not asked for."""
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


class Transcriber:
    """Writes down what an engine hears.

    ::

        transcriber = Transcriber(edgeexit.load("digits.edgeexit"))
        heard = transcriber.file("jackson.wav", notice=print)
        print(heard.text, heard.exit, heard.reason, heard.real_time_factor)

    Args:
        engine: of a bundle whose manifest has `speech`.
        beam: width of a prefix beam search over the answering exit's output; None = greedy, which is as good for most
            networks and takes a hundredth of the time.
        longest_s: seconds that go through the network at once.
        all_exits: also write down what every exit would have; that costs the whole network, however early it stopped.
        deadline_s: for the network, on one window; see `Engine.run`.

    Raises:
        BundleError: a bundle without `speech`, with states, or whose inputs are not sound or features and their count.
        DataError: a window that is no time, or shorter than a frame.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        beam: int | None = None,
        longest_s: float = LONGEST_S,
        all_exits: bool = False,
        deadline_s: float | None = None,
    ) -> None:
        manifest = engine.bundle.manifest
        if manifest.speech is None:
            raise BundleError(
                f"{engine.bundle.path}: {manifest.name} is no speech model: its manifest has no `speech` to say what "
                "features it hears and what its answers spell; use `edgeexit run`, or export it with a speech_spec"
            )
        if manifest.states:
            raise BundleError(
                f"{engine.bundle.path}: {manifest.name} hears a stream, chunk by chunk, and this hears whole "
                "utterances; export the network without states"
            )
        self.engine, self.beam, self.all_exits, self.deadline_s = engine, beam, all_exits, deadline_s
        self.spec: SpeechSpec = manifest.speech
        self.tokens = Tokens.of(self.spec)
        self._heard, self._count = _inputs(manifest, self.spec)
        self.hears_sound = len(self._heard.shape) == 2
        """Whether the network makes its features itself."""
        time = self._heard.shape[1]
        self._most = time if isinstance(time, int) else None
        self._least = self.spec.least_frames
        if self.hears_sound:
            self._least = manifest.min_sizes.get(str(time), 1)
        self.longest_s = longest_s
        if self._most is not None:
            most = self._most if self.hears_sound else _samples_for(self._most, self.spec)
            self.longest_s = min(longest_s, most / self.rate)
        if not self.spec.features.shift_ms / 1000 < self.longest_s <= 3600:
            raise DataError(f"longest_s: expected more than a frame and at most an hour, found {longest_s!r:.40}")

    @property
    def rate(self) -> int:
        """Samples per second that the network hears."""
        return self.spec.features.sample_rate

    def samples(self, samples: NDArray[Any], rate: int | None = None, *, notice: Notice | None = None) -> Transcript:
        """Transcribe a recording.

        Args:
            samples: float `(N,)` in [-1, 1].
            rate: samples per second; None = as the network hears.
            notice: is told when the rate is changed; without it, another rate is refused.

        Raises:
            DataError: not one channel of floats, NaN, or another rate.
            PolicyError: a deadline without measured stage times.
        """
        found = at_rate([checked(samples)], "samples", self.rate if rate is None else rate, self.rate, notice)
        return _collected(self.parts(found))

    def file(
        self,
        path: Path | str,
        *,
        notice: Notice | None = None,
        progress: Callable[[Part, float], None] = lambda part, total: None,
    ) -> Transcript:
        """Transcribe a .wav of any length; what is held at a time is one window.

        Args:
            path: the file.
            notice: is told when the rate is changed or channels are mixed down; without it, such files are refused.
            progress: is called with every part as soon as it is heard, and the seconds in all.

        Raises:
            DataError: missing, empty, damaged, of another kind or rate, or with NaN; the message names the file.
            PolicyError: a deadline without measured stage times.
        """
        with WavFile(path, lambda _: None) as file:
            total = file.seconds

        def told() -> Iterator[Part]:
            for part in self.parts(audio_blocks(path, self.rate, notice)):
                progress(part, total)
                yield part

        return _collected(told())

    def parts(self, blocks: Iterable[Samples]) -> Iterator[Part]:
        """Transcribe audio window by window, each as soon as it is complete.

        Args:
            blocks: float32 `(n,)` each, at `rate`.
        """
        for start, window in windows(blocks, self.rate, self.longest_s):
            yield self.part(window, start)

    def part(self, samples: Samples, start: float = 0.0) -> Part:
        """Transcribe one window, no longer than `longest_s`.

        Args:
            samples: float32 `(N,)` at `rate`.
            start: when it begins, in seconds.
        """
        clock = self.engine.clock
        began = clock()
        length = len(samples) / self.rate
        count = self.spec.features.frames(len(samples))
        # Digital silence and what is shorter than half a frame: a network would have to guess.
        if not count or samples.min() == samples.max():
            texts = ("",) * self.engine.exits if self.all_exits else None
            return Part("", (), start, length, length, clock() - began, None, texts)
        inputs = self.inputs(samples)
        decision = self.engine.run(inputs, deadline_s=self.deadline_s)
        decoder = self._decoded(decision.output)
        text, tokens = decoder.text, self._timed(decoder, start)
        if self.beam is not None:
            found = prefix_beam(_log_probs(decision.output, self.engine.kind), self.spec.blank, self.beam)
            best = list(found[0][0]) if found else []
            text = self.tokens.text(best)
            if best != decoder.ids:
                tokens = tuple(Token(self.spec.tokens[i], None) for i in best)
        silent = min(length, decoder.trailing_blanks * self.spec.frame_seconds) if decoder.ids else length
        texts = self._at_exits(inputs) if self.all_exits else None
        return Part(text, tokens, start, length, silent, clock() - began, decision, texts)

    def inputs(self, samples: Samples) -> dict[str, NDArray[Any]]:
        """Sound `(N,)` as the network takes it, or its features; filled up where it needs more, which it is told.

        Raises:
            DataError: more sound than the network can take.
        """
        heard = samples if self.hears_sound else log_mel(samples, self.spec.features)
        count = len(heard)
        wanted = max(count, self._least) if self._most is None else self._most
        if count > wanted:
            what = "samples" if self.hears_sound else "frames of features"
            raise DataError(f"{count} {what}; {self._heard.name!r} takes {wanted}: pass less audio")
        silence = 0.0 if self.hears_sound else np.log(self.spec.features.log_floor)
        x = np.full((1, wanted, *heard.shape[1:]), silence, np.float32)
        x[0, :count] = heard
        found: dict[str, NDArray[Any]] = {self._heard.name: x}
        if self._count is not None:
            found[self._count.name] = np.array([count], self._count.dtype)
        return found

    def _decoded(self, output: NDArray[Any]) -> GreedyDecoder:
        decoder = GreedyDecoder(self.tokens)
        decoder.accept(output)
        return decoder

    def _timed(self, decoder: GreedyDecoder, start: float) -> tuple[Token, ...]:
        step = self.spec.frame_seconds
        pairs = zip(decoder.ids, decoder.frames, strict=True)
        return tuple(Token(self.spec.tokens[i], round(start + step * frame, 6)) for i, frame in pairs)

    def _at_exits(self, inputs: dict[str, NDArray[Any]]) -> tuple[str, ...]:
        given = self.engine.driver.all_exits(self.engine.checked(inputs))
        texts = []
        for k, output in enumerate(given.outputs):
            lengths = None if given.lengths is None else given.lengths[k]
            valid = output[0] if lengths is None else output[0, : int(lengths[0])]
            texts.append(self._decoded(valid).text)
        return tuple(texts)


def _collected(parts: Iterable[Part]) -> Transcript:
    found: list[Part] = []
    for part in parts:
        found.append(part)
        if len(found) > 1:
            found[-2:] = (_without_output(p) for p in found[-2:])
    return Transcript(tuple(found))


def _without_output(part: Part) -> Part:
    if part.decision is None:
        return part
    return replace(part, decision=replace(part.decision, output=part.decision.output[:0]))


def _log_probs(output: NDArray[Any], kind: Kind) -> NDArray[np.float64]:
    return normalised(tempered(output, kind, 1.0))


def _samples_for(frames: int, spec: SpeechSpec) -> int:
    """The most samples that give no more than so many frames."""
    features = spec.features
    if features.snip_edges:
        return (frames - 1) * features.shift_samples + features.window_samples
    return frames * features.shift_samples


def _inputs(manifest: Manifest, spec: SpeechSpec) -> tuple[TensorSpec, TensorSpec | None]:
    """The input for features or for sound, and the one for their count, if there is one."""
    heard = [t for t in manifest.inputs if t.dtype == "float32" and len(t.shape) in (2, 3)]
    counts = [t for t in manifest.inputs if t.dtype in ("int64", "int32") and len(t.shape) == 1]
    if len(heard) != 1 or len(counts) > 1 or len(heard) + len(counts) != len(manifest.inputs):
        found = ", ".join(f"{t.name} {t.dtype}{list(t.shape)}" for t in manifest.inputs)
        raise BundleError(
            f"{manifest.name}: a speech model takes features float32 (batch, time, bins), or sound float32 (batch, "
            f"samples), and, if it can, their count int64 (batch,); this one takes {found:.300}"
        )
    bins = heard[0].shape[2] if len(heard[0].shape) == 3 else None
    if isinstance(bins, int) and bins != spec.features.bins:
        raise BundleError(f"{manifest.name}: the network takes {bins} bins, its `speech` makes {spec.features.bins}")
    return heard[0], counts[0] if counts else None
