"""What every exit of a speech model writes for every utterance: rows to calibrate, replay and evaluate on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.engine import Engine
from edgeexit.errors import DataError
from edgeexit.measures import ERROR_RATES
from edgeexit.scores import SEQUENCE
from edgeexit.sequences import SequenceRecords, text_number, units_of
from edgeexit.speech.data import SpeechData, Utterance, model_inputs
from edgeexit.speech.features import log_mel
from edgeexit.speech.resample import resample
from edgeexit.speech.scorer import Scorer
from edgeexit.speech.scores import edit_distance


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
    scores: Sequence[str] = SEQUENCE,
    progress: Callable[[int, int], None] = lambda i, n: None,
    notice: Callable[[str], None] | None = None,
) -> Recording:
    """Run every exit on every utterance, one by one as `Engine.run` takes them, so that a replay agrees with running.

    Args:
        engine: of a bundle with `speech`.
        data: the utterances.
        error: what to count: a key of `edgeexit.measures.ERROR_RATES`.
        scores: to be recorded; `nbest_posterior` takes a beam search at every exit.
        progress: called with utterances done and in all.
        notice: is told when sound is resampled; without it, another rate is refused.

    Raises:
        DataError: the bundle is of no speech model, sound of another rate, or nothing was said at all.
    """
    manifest = engine.bundle.manifest
    if manifest.speech is None:
        raise DataError(f"{engine.bundle.path}: no speech in its manifest, so sound cannot be recorded; give it arrays")
    if error not in ERROR_RATES:
        raise DataError(f"unknown error rate {error!r:.40}; known: {', '.join(ERROR_RATES)}")
    count, n = engine.exits, len(data)
    written: list[list[str]] = [[] for _ in range(count)]
    given = {name: np.zeros((count, n), np.float32) for name in scores}
    spent = {name: np.zeros(count) for name in scores}
    edits, units = np.zeros((count, n), np.int64), np.zeros(n, np.int64)
    seconds, audio = np.full((count, n), np.nan), np.zeros(n)
    told: set[str] = set()
    for i, said in enumerate(data):
        audio[i] = len(said.samples) / said.rate
        samples = _at_rate(said, manifest.speech.features.sample_rate, notice, told)
        start = engine.clock()
        inputs = engine.checked(model_inputs(log_mel(samples, manifest.speech.features), manifest))
        heard = engine.clock() - start
        found = engine.driver.all_exits(inputs)
        scorer = Scorer(manifest.speech)
        reference = units_of(said.text, error)
        units[i] = len(reference)
        for k in range(count):
            lengths = None if found.lengths is None else found.lengths[k]
            kind, temperature = engine.driver.kinds[k], engine.artifact.temperatures[k]
            scorer.see(found.outputs[k], lengths, kind, temperature)
            for name in scores:
                start = engine.clock()
                given[name][k, i] = scorer.score(name)[0]
                spent[name][k] += engine.clock() - start
            text = str(scorer.labels()[0])
            written[k].append(text)
            edits[k, i] = edit_distance(*_numbered(units_of(text, error), reference))
            if found.seconds is not None:
                seconds[k, i] = heard + found.seconds[k]
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


def _at_rate(said: Utterance, rate: int, notice: Callable[[str], None] | None, told: set[str]) -> NDArray[np.float32]:
    if said.rate == rate:
        return said.samples
    what = f"{said.rate} Hz, the model hears {rate} Hz"
    if notice is None:
        raise DataError(f"{said.name}: {what}: resample it first")
    if what not in told:  # once, not for every utterance
        told.add(what)
        notice(f"{said.name}: {what}: resampled, as are all others of that rate")
    return resample(said.samples, said.rate, rate)


def _numbered(first: Sequence[str], second: Sequence[str]) -> tuple[list[int], list[int]]:
    numbers: dict[str, int] = {}
    a, b = ([numbers.setdefault(unit, len(numbers)) for unit in units] for units in (first, second))
    return a, b
