"""Recorder of transcripts: every exit's text for every utterance, as rows to calibrate, replay and evaluate on."""

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
from edgeexit.speech.wav import Notice, at_rate, warn

LONGEST_S = 120.0
"""Seconds of one utterance: it goes through the network whole, unlike what is transcribed."""


@dataclass(frozen=True, eq=False)
class Recording:
    """Rows, and their texts, which the rows hold as numbers only."""

    rows: SequenceRecords
    texts: tuple[tuple[str, ...], ...]
    """`(exits)` of `(n)`: text of each exit."""
    references: tuple[str, ...]
    """`(n)`: reference transcripts."""

    def split(self, fraction: float, seed: int) -> tuple[Recording, Recording]:
        """Split as the rows are, with the texts."""
        first, second = (self._take(part) for part in self.rows.parts(fraction, seed))
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
    convert: bool = False,
    notice: Notice = warn,
) -> Recording:
    """Run every exit on every utterance, one by one as `Engine.run` takes them, so that a replay agrees with running.

    A network with states takes them chunk by chunk; rows are then those of a policy that decides on whole utterances.

    Args:
        engine: of a bundle with `speech`.
        data: the utterances.
        error: error rate, a key of `edgeexit.common.measures.ERROR_RATES`.
        scores: to record; `nbest_posterior` takes a beam search at every exit.
        progress: called with the number of utterances done and in total.
        convert: resample sound of another rate; otherwise it is refused.
        notice: called with the first such conversion.

    Raises:
        BundleError: the bundle is not of a speech model.
        DataError: sound of another rate or longer than two minutes, or no reference has a word.
    """
    run = (_on_a_stream if streams(engine.bundle.manifest) else _as_a_whole)(engine)
    spec = engine.bundle.manifest.speech
    assert spec is not None
    rate = spec.features.sample_rate
    if error not in ERROR_RATES:
        raise DataError(f"unknown error rate {error!r:.40}; known: {', '.join(ERROR_RATES)}")
    count, n = engine.exits, len(data)
    texts: list[list[str]] = [[] for _ in range(count)]
    values = {name: np.zeros((count, n), np.float32) for name in scores}
    spent = {name: np.zeros(count) for name in scores}
    edits, units = np.zeros((count, n), np.int64), np.zeros(n, np.int64)
    seconds, audio = np.full((count, n), np.nan), np.zeros(n)
    for i, utterance in enumerate(data):
        audio[i] = len(utterance.samples) / utterance.rate
        if audio[i] > LONGEST_S:
            raise DataError(
                f"{utterance.name}: {audio[i]:.0f} s, at most {LONGEST_S:g} s are one row: cut it at pauses"
            )
        blocks = at_rate([utterance.samples], utterance.name, utterance.rate, rate, convert=convert, notice=notice)
        samples = np.concatenate(list(blocks))
        if utterance.rate != rate:
            notice = _silent  # once is enough for a data set
        try:
            answers, scorer = run(samples), Scorer(spec)
        except DataError as e:
            raise DataError(f"{utterance.name}: {e}") from e
        reference = units_of(utterance.text, error)
        units[i] = len(reference)
        for k, answer in enumerate(answers):
            kind, temperature = engine.driver.kinds[k], engine.artifact.temperatures[k]
            scorer.see(answer.output, answer.lengths, kind, temperature)
            for name in scores:
                start = engine.clock()
                values[name][k, i] = scorer.score(name)[0]
                spent[name][k] += engine.clock() - start
            text = str(scorer.labels()[0])
            texts[k].append(text)
            edits[k, i] = edit_distance(units_of(text, error), reference)
            seconds[k, i] = answer.seconds
        progress(i + 1, n)
    cost, static = engine.costs()
    rows = SequenceRecords(
        np.array([[text_number(t) for t in own] for own in texts], np.int64),
        cost,
        values,
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
    return Recording(rows, tuple(map(tuple, texts)), data.texts)


def _silent(text: str) -> None:
    """Report nothing."""


class _TimedOutput(NamedTuple):
    """An exit's output for an utterance."""

    output: NDArray[Any]
    """`(1, frames, classes)`."""
    lengths: NDArray[np.int64] | None
    seconds: float
    """Until then, features included; NaN = not timed."""


def _as_a_whole(engine: Engine) -> Callable[[NDArray[Any]], list[_TimedOutput]]:
    transcriber = Transcriber(engine)

    def run(samples: NDArray[Any]) -> list[_TimedOutput]:
        start = engine.clock()
        inputs = engine.checked(transcriber.inputs(samples))
        features = engine.clock() - start
        outputs = engine.driver.all_exits(inputs)
        lengths = outputs.lengths or [None] * engine.exits
        seconds = [float("nan")] * engine.exits if outputs.seconds is None else [features + s for s in outputs.seconds]
        return [_TimedOutput(*answer) for answer in zip(outputs.outputs, lengths, seconds, strict=True)]

    return run


def _on_a_stream(engine: Engine) -> Callable[[NDArray[Any]], list[_TimedOutput]]:
    transcriber = StreamTranscriber(engine, rules=EndpointRules(longest_s=LONGEST_S))
    return lambda samples: [_TimedOutput(whole[None], None, s) for whole, s in transcriber.every_exit(samples)]
