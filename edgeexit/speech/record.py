"""What every exit of a speech model writes for every utterance: rows to calibrate, replay and evaluate on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit.common.edit_distance import edit_distance
from edgeexit.common.measures import ERROR_RATES
from edgeexit.engine.engine import Engine
from edgeexit.errors import DataError
from edgeexit.policy.scores import TEXT_SCORES
from edgeexit.records.transcripts import SequenceRecords, text_number, units_of
from edgeexit.speech.data import SpeechData
from edgeexit.speech.endpoint import EndpointRules
from edgeexit.speech.offline import Transcriber
from edgeexit.speech.online import StreamTranscriber, streams
from edgeexit.speech.scorer import Scorer
from edgeexit.speech.wav import Notice, at_rate

LONGEST_S = 120.0
"""Seconds of one utterance: it goes through the network whole, unlike what is transcribed."""


@dataclass(frozen=True, eq=False)
class Recording:
    """Rows, and the texts that they hold only the numbers of."""

    rows: SequenceRecords
    texts: tuple[tuple[str, ...], ...]
    """`(exits)` of `(n)`: what each exit wrote."""
    references: tuple[str, ...]
    """`(n)`: what was said."""

    def split(self, fraction: float, seed: int) -> tuple[Recording, Recording]:
        """As `Rows.split`, with the texts."""
        first, second = (self._take(rows) for rows in self.rows.parts(fraction, seed))
        return first, second

    def _take(self, rows: NDArray[np.int64]) -> Recording:
        texts = tuple(tuple(written[i] for i in rows) for written in self.texts)
        return Recording(self.rows.take(rows), texts, tuple(self.references[i] for i in rows))


def record_speech(
    engine: Engine,
    data: SpeechData,
    *,
    error: str = "WER",
    scores: Sequence[str] = TEXT_SCORES,
    progress: Callable[[int, int], None] = lambda i, n: None,
    notice: Notice | None = None,
) -> Recording:
    """Run every exit on every utterance, one by one as `Engine.run` takes them, so that a replay agrees with running.

    A network with states hears them chunk by chunk; rows are then what a policy sees that looks at whole utterances.

    Args:
        engine: of a bundle with `speech`.
        data: the utterances.
        error: what to count: a key of `edgeexit.common.measures.ERROR_RATES`.
        scores: to be recorded; `nbest_posterior` takes a beam search at every exit.
        progress: called with utterances done and in all.
        notice: is told when sound is resampled; without it, another rate is refused.

    Raises:
        BundleError: the bundle is of no speech model.
        DataError: sound of another rate or longer than two minutes, or nothing was said at all.
    """
    hear = (_on_a_stream if streams(engine.bundle.manifest) else _as_a_whole)(engine)
    spec = engine.bundle.manifest.speech
    assert spec is not None
    rate = spec.features.sample_rate
    if error not in ERROR_RATES:
        raise DataError(f"unknown error rate {error!r:.40}; known: {', '.join(ERROR_RATES)}")
    count, n = engine.exits, len(data)
    written: list[list[str]] = [[] for _ in range(count)]
    given = {name: np.zeros((count, n), np.float32) for name in scores}
    spent = {name: np.zeros(count) for name in scores}
    edits, units = np.zeros((count, n), np.int64), np.zeros(n, np.int64)
    seconds, audio = np.full((count, n), np.nan), np.zeros(n)
    told = False
    for i, said in enumerate(data):
        audio[i] = len(said.samples) / said.rate
        if audio[i] > LONGEST_S:
            raise DataError(f"{said.name}: {audio[i]:.0f} s, at most {LONGEST_S:g} s are one row: cut it at pauses")
        if said.rate != rate:
            again, told = told, True  # said once, not for every utterance
            heed = (lambda _: None) if notice is not None and again else notice
            samples = np.concatenate(list(at_rate([said.samples], said.name, said.rate, rate, heed)))
        else:
            samples = said.samples
        try:
            found, scorer = hear(samples), Scorer(spec)
        except DataError as e:
            raise DataError(f"{said.name}: {e}") from e
        reference = units_of(said.text, error)
        units[i] = len(reference)
        for k, answer in enumerate(found):
            kind, temperature = engine.driver.kinds[k], engine.artifact.temperatures[k]
            scorer.see(answer.output, answer.lengths, kind, temperature)
            for name in scores:
                start = engine.clock()
                given[name][k, i] = scorer.score(name)[0]
                spent[name][k] += engine.clock() - start
            text = str(scorer.labels()[0])
            written[k].append(text)
            edits[k, i] = edit_distance(units_of(text, error), reference)
            seconds[k, i] = answer.seconds
        progress(i + 1, n)
    cost, static = engine.costs()
    rows = SequenceRecords(
        np.array([[text_number(t) for t in texts] for texts in written], np.int64),
        cost,
        given,
        edits,
        units,
        error,
        static,
        None if np.isnan(seconds).any() else seconds,
        audio,
        {name: np.cumsum(s) / n for name, s in spent.items()},
        engine.artifact.temperatures,
        data.name,
    )
    return Recording(rows, tuple(map(tuple, written)), data.texts)


class _Answer(NamedTuple):
    """What an exit gave for an utterance."""

    output: NDArray[Any]
    """`(1, frames, classes)`."""
    lengths: NDArray[np.int64] | None
    seconds: float
    """Until then, features included; NaN = not timed."""


def _as_a_whole(engine: Engine) -> Callable[[NDArray[Any]], list[_Answer]]:
    transcriber = Transcriber(engine)

    def hear(samples: NDArray[Any]) -> list[_Answer]:
        start = engine.clock()
        inputs = engine.checked(transcriber.inputs(samples))
        heard = engine.clock() - start
        found = engine.driver.all_exits(inputs)
        lengths = found.lengths or [None] * engine.exits
        seconds = [float("nan")] * engine.exits if found.seconds is None else [heard + s for s in found.seconds]
        return [_Answer(*answer) for answer in zip(found.outputs, lengths, seconds, strict=True)]

    return hear


def _on_a_stream(engine: Engine) -> Callable[[NDArray[Any]], list[_Answer]]:
    transcriber = StreamTranscriber(engine, rules=EndpointRules(longest_s=LONGEST_S))
    return lambda samples: [_Answer(whole[None], None, s) for whole, s in transcriber.every_exit(samples)]
