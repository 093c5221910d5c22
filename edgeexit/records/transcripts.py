"""Sequence records: recorded transcripts, that policies for utterances of any length are chosen and measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.common.files import npz_bytes, read_npz, write_atomic
from edgeexit.common.measures import ERROR_RATES
from edgeexit.errors import DataError, PolicyError
from edgeexit.policy.scores import SCORES, TEXT_SCORES
from edgeexit.records.base import Rows
from edgeexit.records.classification import Records, check_cost, check_static_cost, numbers_of

_SCORE, _SCORING = "score_", "scoring_"


@dataclass(frozen=True, eq=False)
class SequenceRecords(Rows):
    """What every exit wrote for every utterance, how often it was wrong, and what each exit costs.

    Utterances differ in length, so that the outputs themselves are not stored: only which transcripts are equal, the
    edits that lie between each and what was said, and the scores of the runs.
    """

    answers: NDArray[np.int64]
    """`(exits, n)` numbers of the transcripts (`text_number`)."""
    cost: NDArray[np.float64]
    """`(exits,)` cumulative cost of answering at each exit, heads on the way included."""
    stored_scores: Mapping[str, NDArray[np.float32]]
    """Scores `(exits, n)` in [0, 1]."""
    edits: NDArray[np.int64] | None = None
    """`(exits, n)` substitutions, insertions and deletions against the reference; None = it is not known."""
    units: NDArray[np.int64] | None = None
    """`(n,)` words (or characters) of the references; None = as `edits`."""
    error: str = "WER"
    """What the edits are counted in: a key of `edgeexit.common.measures.ERROR_RATES`."""
    static_cost: NDArray[np.float64] | None = None
    """`(exits,)` cost of a network that has this one exit only; None = taken as `cost`."""
    seconds: NDArray[np.float64] | None = None
    """`(exits, n)` measured seconds from sound to the answer at each exit; None = not measured."""
    audio: NDArray[np.float64] | None = None
    """`(n,)` seconds of sound; None = unknown."""
    scoring: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """By score, `(exits,)` mean seconds that it took at an exit and those before it; empty = not measured."""
    temperatures: tuple[float, ...] | None = None
    """Per-exit temperatures that the scores were taken at; None = all 1."""
    name: str = "records"
    """Where the rows came from, for messages and reports."""
    _cache: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        shape = self.answers.shape
        if len(shape) != 2 or 0 in shape or self.answers.dtype != np.int64:
            raise DataError(f"{self.name}: answers must be int64 (exits, n), found {self.answers.dtype} {shape}")
        if self.error not in ERROR_RATES:
            raise DataError(f"{self.name}: unknown error rate {self.error!r:.40}; known: {', '.join(ERROR_RATES)}")
        if (self.edits is None) != (self.units is None):
            raise DataError(f"{self.name}: edits (exits, n) and units (n,) belong together, found one of them")
        if not self.stored_scores:
            raise DataError(f"{self.name}: no scores; record at least one of {', '.join(TEXT_SCORES)}")
        for name, value, wanted, whole in (
            ("edits", self.edits, shape, True),
            ("units", self.units, shape[1:], True),
            ("seconds", self.seconds, shape, False),
            ("audio", self.audio, shape[1:], False),
            *((f"score {n!r}", s, shape, False) for n, s in self.stored_scores.items()),
            *((f"scoring {n!r}", s, shape[:1], False) for n, s in self.scoring.items()),
        ):
            _check(value, wanted, whole, f"{self.name}: {name}")
        for name, scores in self.stored_scores.items():
            if scores.max() > 1:
                raise DataError(f"{self.name}: score {name!r} must lie in [0, 1], found {scores.max():g}")
        if self.units is not None and not self.units.any():
            raise DataError(f"{self.name}: nothing was said in any reference; an error rate needs words")
        object.__setattr__(self, "cost", check_cost(self.cost, shape[0], self.name))
        if self.static_cost is not None:
            object.__setattr__(self, "static_cost", check_static_cost(self.static_cost, shape[0], self.name))

    @property
    def n(self) -> int:
        return int(self.answers.shape[1])

    @property
    def labelled(self) -> bool:
        return self.edits is not None

    @property
    def measure(self) -> str:
        return self.error if self.labelled else "agreement"

    @property
    def predictions(self) -> NDArray[np.int64]:
        return self.answers

    @property
    def agreement(self) -> NDArray[np.float64]:
        return np.asarray(self.answers == self.answers[-1], np.float64)

    @property
    def correct(self) -> NDArray[np.float64]:
        """`(exits, n)`: 1 less the edits over the references' mean length.

        Utterances of any length weigh by their words, so that the mean over rows is exactly 1 less the error rate
        of all words together, as WER is defined. A single value may be below 0.
        """
        edits, units = self.edits, self.units
        if edits is None or units is None:
            return self.agreement
        return self._once("correct", lambda: np.asarray(1 - edits * (self.n / units.sum())))

    @property
    def right(self) -> NDArray[np.float64]:
        """`(exits, n)`: 1 where nothing is wrong in the whole utterance."""
        return self.agreement if self.edits is None else (self.edits == 0).astype(np.float64)

    @property
    def audio_seconds(self) -> float | None:
        return None if self.audio is None else float(self.audio.mean())

    def scoring_seconds(self, score: str | None) -> NDArray[np.float64] | None:
        return self.scoring.get(score or "agreement")

    @property
    def whole(self) -> bool:
        return True

    @property
    def score_names(self) -> tuple[str, ...]:
        return (
            *(n for n in TEXT_SCORES if n in self.stored_scores),
            *sorted(n for n in self.stored_scores if n not in TEXT_SCORES),
        )

    @property
    def default_score(self) -> str:
        """What ranks best for what it costs (`ctc_sequence_logprob`) if it was recorded, else the first of
        `score_names`."""
        return "ctc_sequence_logprob" if "ctc_sequence_logprob" in self.stored_scores else self.score_names[0]

    def scores(self, name: str, temperatures: tuple[float, ...] | None = None) -> NDArray[np.float32]:
        if name not in self.stored_scores and name in SCORES:
            name = SCORES[name].of_frames or name
        if name not in self.stored_scores:
            raise PolicyError(f"{self.name}: no score {name!r} was recorded; known here: {', '.join(self.score_names)}")
        own = self.temperatures or (1.0,) * self.exits
        if temperatures not in (None, own):
            raise PolicyError(
                f"{self.name}: the scores of utterances were taken at temperatures {list(own)} and cannot be taken "
                f"again at {list(temperatures or ())}: record again"
            )
        return self.stored_scores[name]

    def take(self, rows: NDArray[Any]) -> SequenceRecords:
        return replace(
            self,
            answers=self.answers[:, rows],
            stored_scores={n: s[:, rows] for n, s in self.stored_scores.items()},
            edits=None if self.edits is None else self.edits[:, rows],
            units=None if self.units is None else self.units[rows],
            seconds=None if self.seconds is None else self.seconds[:, rows],
            audio=None if self.audio is None else self.audio[rows],
        )

    def prints(self) -> list[bytes]:
        # The same words are spoken again and again; equal scores for them at every exit are no chance.
        seen = [
            self.answers,
            *(self.stored_scores[n].view(np.int32).astype(np.int64) for n in sorted(self.stored_scores)),
        ]
        return [row.tobytes() for row in np.moveaxis(np.stack(seen), 2, 0)]

    def digest(self) -> str:
        digest = hashlib.sha256(b"".join(self.prints()))
        for values in (self.edits, self.units):
            digest.update(b"" if values is None else np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def save(self, path: Path | str) -> None:
        """Write an ``.npz`` that `load` reads back; it holds no text."""
        arrays: dict[str, Any] = {
            "answers": self.answers,
            "cost": self.cost,
            "error": np.array(self.error),
            "edits": self.edits,
            "units": self.units,
            "static_cost": self.static_cost,
            "seconds": self.seconds,
            "audio": self.audio,
            "temperatures": None if self.temperatures is None else np.array(self.temperatures),
            **{_SCORE + n: s for n, s in self.stored_scores.items()},
            **{_SCORING + n: s for n, s in self.scoring.items()},
        }
        write_atomic(path, npz_bytes(**{n: a for n, a in arrays.items() if a is not None}))

    @classmethod
    def load(cls, path: Path | str) -> SequenceRecords:
        """Read what `save` wrote.

        Raises:
            DataError: not such a file; the message names what was found.
        """
        return cls._of(read_npz(path), Path(path))

    @classmethod
    def _of(cls, arrays: Mapping[str, NDArray[Any]], path: Path) -> SequenceRecords:
        if lacking := [n for n in ("answers", "cost") if n not in arrays]:
            raise DataError(f"{path}: recorded transcripts need {lacking[0]!r}; found {', '.join(sorted(arrays))}")

        def of(name: str, dtype: Any) -> Any:
            return None if name not in arrays else numbers_of(arrays[name], name, str(path)).astype(dtype)

        for name in ("answers", "edits", "units"):
            if name in arrays and arrays[name].dtype.kind not in "iu":
                raise DataError(f"{path}: {name!r} must be whole numbers, found {arrays[name].dtype}")
        temperatures = of("temperatures", np.float64)
        return cls(
            arrays["answers"].astype(np.int64),
            arrays["cost"],
            {n.removeprefix(_SCORE): of(n, np.float32) for n in arrays if n.startswith(_SCORE)},
            of("edits", np.int64),
            of("units", np.int64),
            str(arrays["error"]) if "error" in arrays else "WER",
            arrays.get("static_cost"),
            of("seconds", np.float64),
            of("audio", np.float64),
            {n.removeprefix(_SCORING): of(n, np.float64) for n in arrays if n.startswith(_SCORING)},
            None if temperatures is None else tuple(temperatures.ravel().tolist()),
            path.name,
        )


def load_rows(path: Path | str) -> Records | SequenceRecords:
    """Recorded rows of either kind: transcripts where the file has `answers`, else outputs (`Records.load`).

    Raises:
        DataError: neither.
    """
    arrays = read_npz(path)
    return SequenceRecords._of(arrays, Path(path)) if "answers" in arrays else Records.of(arrays, path)


def text_number(text: str) -> int:
    """A number that equal texts share and others do not (64 bits of BLAKE2): for `SequenceRecords.answers`."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def units_of(text: str, error: str) -> Sequence[str]:
    """What an error rate counts in a text: its words, or its characters with single spaces between words."""
    words = text.split()
    return words if ERROR_RATES[error] == "word" else " ".join(words)


def _check(value: NDArray[Any] | None, shape: tuple[int, ...], whole: bool, what: str) -> None:
    if value is None:
        return
    if value.shape != shape or (whole and value.dtype.kind not in "iu"):
        kind = "whole numbers " * whole
        raise DataError(f"{what} must be {kind}{shape}, found {value.dtype} {value.shape}")
    if not np.isfinite(value).all() or value.min() < 0:
        raise DataError(f"{what} must be finite and at least 0, found {value.min()} to {value.max()}")
