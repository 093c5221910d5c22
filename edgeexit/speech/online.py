"""Streaming transcription: partial texts chunk by chunk, and an exit per utterance or per chunk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.manifest import Manifest
from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.engine.decision import Reason
from edgeexit.engine.engine import Engine
from edgeexit.engine.layouts.base import ExitOutput
from edgeexit.engine.layouts.chain import Chain
from edgeexit.engine.layouts.exit_loop import ExitLoop
from edgeexit.errors import BundleError, DataError
from edgeexit.policy.policies import Policy
from edgeexit.speech.decode import GreedyDecoder
from edgeexit.speech.endpoint import EndpointRules
from edgeexit.speech.features import FeatureStream, Frames
from edgeexit.speech.tokens import Tokens

ExitPer = Literal["utterance", "chunk"]


@dataclass(frozen=True)
class PartialTranscript:
    """Transcript of an utterance so far, or of the finished utterance."""

    text: str
    final: bool
    """The utterance is over; the text of one that is not may still change."""
    start: float
    """Seconds from the beginning of the audio."""
    end: float
    exit: int
    """The exit that gave the text; of chunks, the deepest."""
    score: float | None
    """Of the utterance at that exit; None = it is not over, or exits were chosen chunk by chunk."""
    reason: Reason | None
    """Reason why that exit answered; None as `score`."""
    seconds: float
    """Wall-clock time spent on the utterance so far."""
    last_seconds: float
    """Of it, the time since its last audio arrived: the latency of this text."""
    exits: tuple[int, ...]
    """`(exits,)` chunks that each exit answered; of a whole utterance, all by one."""


class StreamTranscriber:
    """Transcribes audio that arrives in pieces of any size.

    With `exit_per="utterance"` every chunk leaves at exit 0, which gives the partial texts. When the speaker pauses,
    the policy decides on the whole utterance, and deeper stages process all of it only if it continues: the text
    is that of the network for whole utterances. With "chunk" the policy decides on every chunk by itself; a stage
    that a chunk skipped processes it before it is next used.

    ::

        transcriber = StreamTranscriber(edgeexit.load("digits-stream.edgeexit"))
        for samples in microphone:
            for partial in transcriber.accept_waveform(samples):
                print(partial.text, "..." if not partial.final else f"(exit {partial.exit}, {partial.reason})")
        for partial in transcriber.finish(): ...

    Args:
        engine: a chain of a network with states that takes chunks of features.
        exit_per: unit of a decision.
        rules: end of an utterance.

    Raises:
        BundleError: no speech, no states, or inputs that are not a chunk of features and their count.
        PolicyError: not a chain.
    """

    def __init__(self, engine: Engine, *, exit_per: ExitPer = "utterance", rules: EndpointRules | None = None) -> None:
        manifest = engine.bundle.manifest
        self.spec, self._x, self._lens, self.chunk = _chunked(manifest)
        self.engine, self.exit_per, self.rules = engine, exit_per, rules or EndpointRules()
        self.tokens = Tokens.of(self.spec)
        self.chunk_seconds = self.chunk * self.spec.features.shift_ms / 1000
        """Audio per step of the network."""
        # Where whole utterances wait for deeper stages, none of them may be sent on before its end.
        longest = math.ceil(self.rules.longest_s / self.chunk_seconds) + 1
        self._stream = engine.stream(limit=longest if exit_per == "utterance" else 64)
        self._features = FeatureStream(self.spec.features)
        self._frames: Frames = np.zeros((0, self.spec.features.bins), np.float32)
        self._begun = 0.0
        self._fresh()

    def accept_waveform(self, samples: NDArray[Any]) -> Iterator[PartialTranscript]:
        """Transcribe the next audio, float `(n,)` at the rate of the features; yields texts as they change.

        Raises:
            DataError: see `FeatureStream.accept_waveform`.
        """
        yield from self._take(self._features.accept_waveform(samples), last=False)

    def finish(self) -> Iterator[PartialTranscript]:
        """End the audio: yields the rest of it and the last utterance. The next audio begins anew."""
        yield from self._take(self._features.finish(), last=True)
        if self._decoder.seen:
            yield self._settled(self.engine.clock())
        self._features, self._begun = FeatureStream(self.spec.features), 0.0

    def every_exit(self, samples: NDArray[Any]) -> list[tuple[NDArray[Any], float]]:
        """Run every exit on one whole utterance; an utterance in progress is discarded.

        Args:
            samples: float `(n,)`, up to `rules.longest_s`.

        Returns:
            Per exit its answer `(frames, classes)`, and the seconds until then: features, every chunk through the
            first stage, then all of them through the next ones, as when a policy decides on the whole utterance.

        Raises:
            DataError: see `FeatureStream.accept_waveform`; shorter than a frame, or longer than `rules.longest_s`.
        """
        begun = self.engine.clock()
        features = FeatureStream(self.spec.features)
        frames = np.concatenate([features.accept_waveform(samples), features.finish()])
        longest = self.rules.longest_s
        if not 0 < len(frames) * self.spec.features.shift_ms / 1000 <= longest:
            seconds = len(samples) / self.spec.features.sample_rate
            raise DataError(f"{seconds:g} s of sound; expected more than a frame and at most {longest:g} s")
        self._fresh()
        chunks = (frames[at : at + self.chunk] for at in range(0, len(frames), self.chunk))
        first = [self._stream.step(self._inputs(c), exit=0).output for c in chunks]
        answers = [(whole, self.engine.clock() - begun) for whole in self._deeper(first)]
        self._fresh()
        return answers

    def _deeper(self, first: list[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """Every exit's answer `(frames, classes)` to the chunks so far; `first` are those of exit 0."""
        yield np.concatenate(first)
        for k in range(1, self.engine.exits):
            yield np.concatenate([late.output[0] for late in self._stream.deepen(k)])

    def _fresh(self) -> None:
        self._stream.reset()
        self._decoder = GreedyDecoder(self.tokens)
        self._answers: list[NDArray[Any]] = []
        self._exits = [0] * self.engine.exits
        self._spent = 0.0

    def _take(self, frames: Frames, last: bool) -> Iterator[PartialTranscript]:
        self._frames = np.concatenate([self._frames, frames])
        while len(self._frames) >= self.chunk or (last and len(self._frames)):
            chunk, self._frames = self._frames[: self.chunk], self._frames[self.chunk :]
            came = self.engine.clock()
            grown = self._step(chunk)
            self._spent += self.engine.clock() - came
            seconds = self._decoder.seen * self.spec.frame_seconds
            silent = self._decoder.trailing_blanks * self.spec.frame_seconds
            if self.rules.ended(seconds, silent, bool(self._decoder.ids)) is not None:
                yield self._settled(came)
            elif grown:
                deepest = max(k for k, n in enumerate(self._exits) if n)
                yield self._partial(deepest, self._decoder.text, came)

    def _step(self, frames: Frames) -> bool:
        """Decode a chunk; True = the text has grown."""
        decision = self._stream.step(self._inputs(frames), exit=0 if self.exit_per == "utterance" else None)
        self._exits[decision.exit] += 1
        if self.exit_per == "utterance":
            self._answers.append(decision.output)
        return self._decoder.accept(decision.output)

    def _inputs(self, frames: Frames) -> dict[str, NDArray[Any]]:
        x = np.full((1, self.chunk, frames.shape[1]), np.log(self.spec.features.log_floor), np.float32)
        x[0, : len(frames)] = frames
        return {self._x: x, self._lens: np.array([len(frames)], np.int64)}

    def _settled(self, came: float) -> PartialTranscript:
        """Finish the utterance: its text, from the exit that the policy takes for the whole of it."""
        before = self.engine.clock()
        if self.exit_per == "chunk":
            deepest = max(k for k, n in enumerate(self._exits) if n)
            transcript = self._partial(deepest, self._decoder.text, came, final=True)
        else:
            k, log_probs, score, reason = self._decided(self.engine.policy)
            decoder = GreedyDecoder(self.tokens)
            decoder.accept(log_probs)
            self._exits[0], self._exits[k] = 0, len(self._answers)
            self._spent += self.engine.clock() - before
            transcript = self._partial(k, decoder.text, came, final=True, score=score, reason=reason)
        self._begun = transcript.end
        self._fresh()
        return transcript

    def _decided(self, policy: Policy) -> tuple[int, NDArray[Any], float, Reason]:
        """Exit, its answer `(frames, classes)` to the whole utterance, score, reason."""
        chain = self.engine.driver
        assert isinstance(chain, Chain)
        loop = ExitLoop(chain, policy)
        for k, whole in enumerate(self._deeper(self._answers)):
            reason = loop.decide(ExitOutput(whole[None], None, None), k)
            if reason is not None:
                return k, whole, float(loop.scores[-1]), reason
        raise AssertionError("the last exit answers")

    def _partial(
        self,
        k: int,
        text: str,
        came: float,
        *,
        final: bool = False,
        score: float | None = None,
        reason: Reason | None = None,
    ) -> PartialTranscript:
        end = self._begun + self._decoder.seen * self.spec.frame_seconds
        waited = self.engine.clock() - came
        return PartialTranscript(
            text, final, self._begun, end, k, score, reason, self._spent, waited, tuple(self._exits)
        )


def streams(manifest: Manifest) -> bool:
    """Test whether the network takes speech chunk by chunk."""
    return manifest.speech is not None and bool(manifest.states)


def _chunked(manifest: Manifest) -> tuple[SpeechSpec, str, str, int]:
    """The speech specification, the names of the inputs for a chunk and its length, and the frames per chunk."""
    if manifest.speech is None or not manifest.states:
        raise BundleError(
            f"{manifest.name} does not take speech chunk by chunk: its manifest has no "
            f"{'`speech`' if manifest.speech is None else 'states'}; export a streaming network, such as "
            "edgeexit_models.speech.StreamingConformer, or transcribe whole recordings"
        )
    bins = manifest.speech.features.bins
    chunks = [t for t in manifest.inputs if len(t.shape) == 3 and t.shape[2] == bins and isinstance(t.shape[1], int)]
    counts = [t for t in manifest.inputs if t.shape == (1,) and t.dtype == "int64"]
    if len(manifest.inputs) != 2 or len(chunks) != 1 or len(counts) != 1:
        listed = ", ".join(f"{t.name} {t.dtype}{list(t.shape)}" for t in manifest.inputs)
        raise BundleError(
            f"{manifest.name}: a streaming network takes a chunk of features float32[1, frames, {bins}] and how many "
            f"of them are real int64[1]; this one takes {listed}"
        )
    return manifest.speech, chunks[0].name, counts[0].name, int(chunks[0].shape[1])
