"""Transcribed recordings, read when needed, as training batches of about equal length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.errors import DataError
from edgeexit.speech.features import log_mel
from edgeexit_models.speech.augment import Samples, at_speed, random_channel, random_tract, spec_augment
from edgeexit_models.speech.batch import Batch, Features, make_batch
from edgeexit_models.speech.subwords import encode
from edgeexit_models.speech.trainer import feature_statistics


class Corpus(Protocol):
    """Recordings that may be too many for memory: only what a batch takes is read."""

    sizes: Sequence[int]
    """How long each is, in any unit (samples, characters of its text): only to find others of like length."""
    texts: Sequence[str]

    def samples(self, index: int) -> Samples:
        """`(n,)` float32 in [-1, 1] at the rate of the features."""
        ...


@dataclass(frozen=True)
class InMemory:
    """A corpus that is already read."""

    audio: Sequence[Samples]
    texts: Sequence[str]

    @property
    def sizes(self) -> Sequence[int]:
        return [len(a) for a in self.audio]

    def samples(self, index: int) -> Samples:
        return self.audio[index]


class Batches:
    """Step number -> batch of recordings of like length: one at random, then others near it in the order of length.

    Args:
        corpus: training data.
        speech: features and tokens.
        seed: with the step's number the only source of chance.
        seconds: of audio in a batch, about.
        speeds: factors on tempo and pitch, one drawn for every recording.
        augment: whether to change vocal tract and channel, and to mask.
        statistics: how many recordings give mean and deviation of the features.

    Raises:
        DataError: no recordings, or a text with a character that no token has.
    """

    def __init__(
        self,
        corpus: Corpus,
        speech: SpeechSpec,
        seed: int,
        seconds: float = 60.0,
        speeds: Sequence[float] = (0.9, 1.0, 1.1),
        augment: bool = True,
        statistics: int = 200,
    ) -> None:
        if not corpus.texts:
            raise DataError("no recordings to train on")
        self.corpus, self.speech, self.seed, self.seconds = corpus, speech, seed, seconds
        self.speeds, self.augment = tuple(speeds), augment
        self.order = np.argsort(np.asarray(corpus.sizes), kind="stable")
        self.tokens: Callable[[int], tuple[int, ...]] = lambda i: encode(corpus.texts[i], speech.tokens)
        rng = np.random.default_rng([seed, 1])
        chosen = rng.permutation(len(self.order))[:statistics]
        self.mean, self.deviation = feature_statistics(log_mel(corpus.samples(int(i)), speech.features) for i in chosen)
        self.fill: Features = self.mean.numpy()

    def __call__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, 0, step])
        rank = int(rng.integers(len(self.order)))
        near = max(len(self.order) // 20, 16)
        features, tokens, seconds = [], [], 0.0
        while seconds < self.seconds:
            index = int(self.order[min(max(rank + int(rng.integers(-near, near + 1)), 0), len(self.order) - 1)])
            samples = at_speed(self.corpus.samples(index), self.speeds[rng.integers(len(self.speeds))])
            seconds += len(samples) / self.speech.features.sample_rate
            features.append(self._changed(log_mel(samples, self.speech.features), rng))
            tokens.append(self.tokens(index))
        return make_batch(features, tokens)

    def _changed(self, features: Features, rng: np.random.Generator) -> Features:
        if not self.augment:
            return features
        features = random_channel(random_tract(features, rng, self.speech.features), rng)
        return spec_augment(features, rng, self.fill, frequency_masks=2, time_masks=2)
