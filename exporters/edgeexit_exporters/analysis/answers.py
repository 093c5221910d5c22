"""Reference answers of the source model: files are compared with them, and bundles ship some as test vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.manifest import ExitSpec, Manifest
from edgeexit.common.files import npz_bytes
from edgeexit.common.finite import check_input, named, sound
from edgeexit.errors import DataError, ModelError
from edgeexit.policy.policies import Threshold
from edgeexit.policy.scores import Kind, score_named
from edgeexit.records.classification import exits_taken
from edgeexit_exporters.analysis.probe import Probe
from edgeexit_exporters.source.inputs import from_data, length_inputs, make_inputs
from edgeexit_exporters.source.join import JoinedExit, valid_of
from edgeexit_exporters.source.source import Source

Arrays = Mapping[str, NDArray[Any]]
VECTORS = 8
"""Inputs shipped with a bundle, with their expected answers."""
DATA_ROWS = 32
"""Rows of the user's data that are compared besides random inputs."""
_ROUGH = 1e-5


@dataclass(frozen=True)
class SourceAnswer:
    """Some inputs and what the source model gives at every exit."""

    inputs: Arrays
    outputs: Arrays
    """By tensor name."""
    batch: int


def reference_answers(
    source: Source, seen: Probe, data: Arrays | None, sizes: Sequence[Mapping[str, int]] = ()
) -> list[SourceAnswer]:
    """Ask the source model: the user's rows, then random inputs: single, a batch where it can, and at other free sizes.

    Args:
        source: the network.
        seen: what probing it showed.
        data: the user's rows; None = none.
        sizes: further sizes of its free axes.

    Raises:
        DataError: `data` does not fit the model's inputs.
        ModelError: it does not run on them, or answers NaN.
    """
    runs = [(make_inputs(source.inputs, 1, seed), 1) for seed in range(3)]
    if seen.batch == "dynamic":
        runs.append((make_inputs(source.inputs, 3, seed=3), 3))
    if seen.other_sizes:
        runs.append((make_inputs(source.inputs, 1, seed=4, free=seen.other_sizes), 1))
    runs += [(make_inputs(source.inputs, 1, seed=5, free=free), 1) for free in sizes]
    if sizes and seen.batch == "dynamic":
        runs.append((make_inputs(source.inputs, 3, seed=6, free=sizes[-1]), 3))
    count = 0
    if data is not None:
        data = source.streamed(data, DATA_ROWS)
        rows = from_data(source.inputs, data, DATA_ROWS)
        for spec in source.inputs:
            array = rows[spec.tensor.name]
            fits = array.ndim == len(spec.tensor.shape) and all(
                isinstance(a, str) or a == b for a, b in zip(spec.tensor.shape[1:], array.shape[1:], strict=False)
            )
            if not fits:
                raise DataError(
                    f"the data for input {spec.tensor.name!r} has shape {_shape(array.shape)}, "
                    f"expected {_shape(spec.tensor.shape)}"
                )
        counts = {len(data.get(n, data.get("x", a))) for n, a in rows.items()}
        if len(counts) != 1 or 0 in counts:
            raise DataError(f"the data holds {sorted(counts)} rows; expected one count of at least 1 for all inputs")
        for name, array in rows.items():
            try:
                check_input(name, array)
            except DataError as e:
                raise DataError(f"the data for {e}: leave such rows out") from e
        count = len(next(iter(rows.values())))
        runs = [*(({n: a[i : i + 1] for n, a in rows.items()}, 1) for i in range(count)), *runs]
    if source.states:  # one input per call, so that runs can follow one another
        runs = [(x, 1) for x in source.stream([x for x, _ in runs])]
    answers = [SourceAnswer(x, source.reference(x), batch) for x, batch in runs]
    for k, answer in enumerate(answers):
        if unsure := [e for e in source.exits if not sound(valid_answer(answer.outputs, e), "logits")]:
            what = named(valid_answer(answer.outputs, unsure[0])).partition(" ")[0]
            endless = [n for n, a in answer.inputs.items() if a.dtype.kind == "f" and np.isinf(a).any()]
            where = f"row {k} of the data" if k < count else "random inputs"
            where += f" (input {endless[0]!r} holds infinite numbers)" if endless else ""
            raise ModelError(
                f"exit {unsure[0].name!r} of the source model answers {what} for {where}, where no threshold can be "
                "met: look at its weights, and whether the numbers are in the range that it was trained on"
            )
    return answers


def valid_answer(outputs: Arrays, exit: JoinedExit) -> NDArray[Any]:
    """An exit's answer in its valid positions, from tensors by name."""
    answer = outputs[exit.answer]
    return answer if exit.lengths is None else valid_of(answer, outputs[exit.lengths])


def _shape(axes: Sequence[int | str]) -> str:
    """`(n, 3, 4)`; n, as the rows were cut down to those that are checked."""
    return f"({', '.join(map(str, ('n', *axes[1:])))})"


def vectors(
    source: Source, manifest: Manifest, score: str, reference: Callable[[Arrays], Arrays] | None = None
) -> bytes:
    """The ``.npz`` of test vectors; `docs/bundle-format.md` lists its arrays.

    Args:
        source: gives the inputs.
        manifest: names the exits.
        score: of the vectors' thresholds.
        reference: inputs -> what every exit gives, by name; None = the source's.
    """
    rows = [make_inputs(source.inputs, 1, seed=100 + i) for i in range(VECTORS)]
    lengths = {n: make_inputs(source.inputs, VECTORS, 0)[n] for n in length_inputs(source.inputs)}
    rows = source.stream([{**x, **{n: a[i : i + 1] for n, a in lengths.items()}} for i, x in enumerate(rows)])
    answers = [(reference or source.reference)(x) for x in rows]
    given = [n for e in source.exits for n in e.outputs]
    outputs = {n: np.concatenate([a[n] for a in answers]) for n in given}
    scores = np.stack([exit_scores(outputs, e, score) for e in manifest.exits])
    thresholds = tuple(_between(s) for s in scores[:-1])
    taken = exits_taken(Threshold(thresholds, score), scores, scores)
    arrays: dict[str, NDArray[Any]] = {
        f"input_{i}": np.concatenate([x[t.name] for x in rows]) for i, t in enumerate(manifest.feeds)
    }
    for k, exit in enumerate(manifest.exits):
        arrays[f"output_{k}"] = outputs[exit.answer.name]
        named = {"uncertainty": exit.uncertainty, "learned": exit.learned, "lengths": exit.lengths}
        arrays.update({f"{what}_{k}": outputs[name] for what, name in named.items() if name is not None})
    arrays.update(
        scores=scores.T.copy(), thresholds=np.array(thresholds, np.float32), exits=taken, score=np.array(score)
    )
    return npz_bytes(**arrays)


def exit_scores(tensors: Arrays, exit: ExitSpec, score: str) -> NDArray[np.float32]:
    """`(n,)` scores of an exit at temperature 1, from its tensors by name."""
    row = score_named(score)
    if row.needs != "answer":
        return np.asarray(row.compute(tensors[getattr(exit, row.needs)]), np.float32)
    lengths = None if exit.lengths is None else tensors[exit.lengths]
    kind: Kind = "probs" if exit.kind == "probs" else "logits"
    return row.of_answer(tensors[exit.answer.name], kind, 1.0, lengths)


def _between(scores: NDArray[np.float32]) -> float:
    """A threshold in the widest gap of the middle scores: both sides are taken, and rounding cannot change sides."""
    s = np.sort(scores)[1:-1]
    if len(s) < 2 or s[-1] - s[0] < _ROUGH:
        return float(np.float32(np.inf))
    i = int(np.argmax(np.diff(s)))
    return float(np.float32((s[i] + s[i + 1]) / 2))
