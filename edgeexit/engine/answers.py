"""Answers of an artifact's exits: refused where they hold NaN or infinity, and of one kind at every exit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.manifest import Artifact, Manifest
from edgeexit.common.finite import finite, no_answer, sound, unsound_rows
from edgeexit.errors import DataError
from edgeexit.policy.scores import Kind, probabilities, valid_positions


class Answers:
    """Checks and converts what exits give."""

    def __init__(self, manifest: Manifest, artifact: Artifact) -> None:
        self._manifest, self._artifact = manifest, artifact
        self.name = manifest.name
        self.kinds: list[Kind] = ["probs" if e.kind == "probs" else "logits" for e in manifest.exits]
        """What each exit gives."""
        self.kind: Kind = "logits" if set(self.kinds) == {"logits"} else "probs"
        """What decisions and records hold."""
        self._softened = [self.kind == "probs" and kind == "logits" for kind in self.kinds]
        """Exits whose logits become probabilities, as other exits (heads that answer together) give those."""

    def one(self, k: int, output: NDArray[Any], score: float) -> NDArray[Any]:
        """The answer of exit `k` to one input `(1, ...)`, of `kind`.

        Raises:
            DataError: NaN or infinity where no softmax is defined, or a score that is none.
        """
        if not (math.isfinite(score) and sound(output, self.kinds[k])):
            raise self.refusal(k, output, score)
        return probabilities(output) if self._softened[k] else output

    def many(
        self, exits: NDArray[Any], outputs: NDArray[Any], scores: NDArray[Any], lengths: NDArray[Any] | None
    ) -> NDArray[Any]:
        """Answers `(n, ...)` of the `exits` `(n,)`, of `kind`; changed in place.

        Raises:
            DataError: as `one`, for some row.
        """
        if not (finite(scores) and finite(outputs)):
            self._check_rows(exits, outputs, scores, lengths)
        for k in np.flatnonzero(self._softened):
            outputs[exits == k] = probabilities(outputs[exits == k])
        return outputs

    def of_exit(self, k: int, outputs: NDArray[Any]) -> NDArray[Any]:
        """Sound answers `(n, ...)` of exit `k`, of `kind`."""
        return probabilities(outputs) if self._softened[k] else outputs

    def refusal(self, k: int, output: NDArray[Any], score: float, row: str = "") -> DataError:
        """The error for what exit `k` gave to one input, where that is no answer; `row` says which input."""
        exit = f"{row}exit {k} ({self._manifest.exits[k].name!r})"
        half = output.dtype == np.float16 or "16" in self._artifact.precision
        return no_answer(self._artifact.name, exit, output, self.kinds[k], score, half)

    def _check_rows(
        self, exits: NDArray[Any], outputs: NDArray[Any], scores: NDArray[Any], lengths: NDArray[Any] | None
    ) -> None:
        wrong = ~np.isfinite(scores)
        for k in np.unique(exits):
            at = np.flatnonzero(exits == k)
            valid = None if lengths is None else valid_positions(lengths[at], outputs.shape[1])
            wrong[at] |= unsound_rows(outputs[at], self.kinds[k], valid)
        if not wrong.any():
            return
        row = int(np.argmax(wrong))
        output = outputs[row : row + 1] if lengths is None else outputs[row : row + 1, : int(lengths[row])]
        count = int(np.count_nonzero(wrong))
        named = f"row {row}" + (f" (the first of {count} such rows)" if count > 1 else "")
        raise self.refusal(int(exits[row]), output, float(scores[row]), f"{named}: ")
