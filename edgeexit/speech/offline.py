"""Transcription of whole recordings: features, a bundle's engine, greedy CTC decoding, window by window."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.manifest import Manifest, TensorSpec
from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.engine.engine import Engine
from edgeexit.errors import BundleError, DataError
from edgeexit.speech.decode import GreedyDecoder
from edgeexit.speech.endpoint import windows
from edgeexit.speech.features import Samples, checked, log_mel
from edgeexit.speech.tokens import Tokens
from edgeexit.speech.transcript import Part, Token, Transcript, collect
from edgeexit.speech.wav import Notice, WavFile, at_rate, warn

LONGEST_S = 20.0
"""Seconds that go through the network at once; longer audio is cut where it is quiet."""


class Transcriber:
    """Transcribes audio with an engine.

    ::

        transcriber = Transcriber(edgeexit.load("digits.edgeexit"))
        transcript = transcriber.file("jackson.wav", convert=True, notice=print)
        print(transcript.text, transcript.exit, transcript.reason, transcript.real_time_factor)

    Args:
        engine: of a bundle whose manifest has `speech`.
        longest_s: seconds that go through the network at once.
        all_exits: also return the text of every exit; that costs the whole network, however early it stopped.
        deadline_s: seconds for the network, on one window; see `Engine.run`.

    Raises:
        BundleError: a bundle without `speech`, with states, or whose inputs are not sound or features and their count.
        DataError: a window outside its range, or shorter than a frame.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        longest_s: float = LONGEST_S,
        all_exits: bool = False,
        deadline_s: float | None = None,
    ) -> None:
        manifest = engine.bundle.manifest
        if manifest.speech is None:
            raise BundleError(
                f"{engine.bundle.path}: {manifest.name} is no speech model: its manifest has no `speech` (features "
                "and tokens); use `edgeexit run`, or export it with a speech_spec"
            )
        if manifest.states:
            raise BundleError(
                f"{engine.bundle.path}: {manifest.name} takes a stream, chunk by chunk; expected a network for whole "
                "utterances: use StreamTranscriber, or export the network without states"
            )
        self.engine, self.all_exits, self.deadline_s = engine, all_exits, deadline_s
        self.spec: SpeechSpec = manifest.speech
        self.tokens = Tokens.of(self.spec)
        self._input, self._count = _inputs(manifest, self.spec)
        self.takes_sound = len(self._input.shape) == 2
        """The network computes its features itself."""
        time = self._input.shape[1]
        self._most = time if isinstance(time, int) else None
        self._least = self.spec.least_frames
        if self.takes_sound:
            self._least = manifest.min_sizes.get(str(time), 1)
        self.longest_s = longest_s
        if self._most is not None:
            most = self._most if self.takes_sound else _samples_for(self._most, self.spec)
            self.longest_s = min(longest_s, most / self.rate)
        if not self.spec.features.shift_ms / 1000 < self.longest_s <= 3600:
            raise DataError(f"longest_s: expected more than a frame and at most an hour, found {longest_s!r:.40}")

    @property
    def rate(self) -> int:
        """Samples per second that the network takes."""
        return self.spec.features.sample_rate

    def samples(
        self, samples: NDArray[Any], rate: int | None = None, *, convert: bool = False, notice: Notice = warn
    ) -> Transcript:
        """Transcribe a recording.

        Args:
            samples: float `(N,)` in [-1, 1].
            rate: samples per second; None = `self.rate`.
            convert: resample; otherwise another rate is refused.
            notice: called with the conversion.

        Raises:
            DataError: not one channel of floats, NaN, or another rate.
            PolicyError: a deadline without measured stage times.
        """
        source_rate = self.rate if rate is None else rate
        blocks = at_rate([checked(samples)], "samples", source_rate, self.rate, convert=convert, notice=notice)
        return collect(self.parts(blocks))

    def file(
        self,
        file: WavFile | Path | str,
        *,
        convert: bool = False,
        notice: Notice = warn,
        progress: Callable[[Part], None] = lambda part: None,
    ) -> Transcript:
        """Transcribe a .wav of any length; one window at a time is in memory.

        Args:
            file: its path, or the open file, which has its own `convert` and `notice` and stays open.
            convert: resample and mix channels down, see `read_wav`; otherwise such files are refused.
            notice: called with every conversion.
            progress: called with every part as soon as it is transcribed.

        Raises:
            DataError: missing, empty, damaged, of another kind or rate, or with NaN; the message names the file.
            PolicyError: a deadline without measured stage times.
        """
        if not isinstance(file, WavFile):
            with WavFile(file, convert=convert, notice=notice) as opened:
                return self.file(opened, progress=progress)

        def reported() -> Iterator[Part]:
            for part in self.parts(file.blocks(self.rate)):
                progress(part)
                yield part

        return collect(reported())

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
            start: its beginning in the audio, in seconds.
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
        silent = min(length, decoder.trailing_blanks * self.spec.frame_seconds) if decoder.ids else length
        texts = self._at_exits(inputs) if self.all_exits else None
        return Part(decoder.text, self._timed(decoder, start), start, length, silent, clock() - began, decision, texts)

    def inputs(self, samples: Samples) -> dict[str, NDArray[Any]]:
        """Network inputs from sound `(N,)`: the sound or its features, padded to the least size, and their count.

        Raises:
            DataError: more sound than the network can take.
        """
        values = samples if self.takes_sound else log_mel(samples, self.spec.features)
        count = len(values)
        wanted = max(count, self._least) if self._most is None else self._most
        if count > wanted:
            what = "samples" if self.takes_sound else "frames of features"
            raise DataError(f"{count} {what}; {self._input.name!r} takes {wanted}: pass less audio")
        silence = 0.0 if self.takes_sound else np.log(self.spec.features.log_floor)
        x = np.full((1, wanted, *values.shape[1:]), silence, np.float32)
        x[0, :count] = values
        inputs: dict[str, NDArray[Any]] = {self._input.name: x}
        if self._count is not None:
            inputs[self._count.name] = np.array([count], self._count.dtype)
        return inputs

    def _decoded(self, output: NDArray[Any]) -> GreedyDecoder:
        decoder = GreedyDecoder(self.tokens)
        decoder.accept(output)
        return decoder

    def _timed(self, decoder: GreedyDecoder, start: float) -> tuple[Token, ...]:
        step = self.spec.frame_seconds
        pairs = zip(decoder.ids, decoder.frames, strict=True)
        return tuple(Token(self.spec.tokens[i], round(start + step * frame, 6)) for i, frame in pairs)

    def _at_exits(self, inputs: dict[str, NDArray[Any]]) -> tuple[str, ...]:
        answers = self.engine.driver.all_exits(self.engine.checked(inputs))
        texts = []
        for k, output in enumerate(answers.outputs):
            lengths = None if answers.lengths is None else answers.lengths[k]
            valid = output[0] if lengths is None else output[0, : int(lengths[0])]
            texts.append(self._decoded(valid).text)
        return tuple(texts)


def _samples_for(frames: int, spec: SpeechSpec) -> int:
    """The largest number of samples that gives at most so many frames."""
    features = spec.features
    if features.snip_edges:
        return (frames - 1) * features.shift_samples + features.window_samples
    return frames * features.shift_samples


def _inputs(manifest: Manifest, spec: SpeechSpec) -> tuple[TensorSpec, TensorSpec | None]:
    """The input for features or for sound, and the one for their count, if there is one."""
    sounds = [t for t in manifest.inputs if t.dtype == "float32" and len(t.shape) in (2, 3)]
    counts = [t for t in manifest.inputs if t.dtype in ("int64", "int32") and len(t.shape) == 1]
    if len(sounds) != 1 or len(counts) > 1 or len(sounds) + len(counts) != len(manifest.inputs):
        listed = ", ".join(f"{t.name} {t.dtype}{list(t.shape)}" for t in manifest.inputs)
        raise BundleError(
            f"{manifest.name}: a speech model takes features float32 (batch, time, bins), or sound float32 (batch, "
            f"samples), and, if it can, their count int64 (batch,); this one takes {listed:.300}"
        )
    bins = sounds[0].shape[2] if len(sounds[0].shape) == 3 else None
    if isinstance(bins, int) and bins != spec.features.bins:
        raise BundleError(f"{manifest.name}: the network takes {bins} bins, its `speech` makes {spec.features.bins}")
    return sounds[0], counts[0] if counts else None
