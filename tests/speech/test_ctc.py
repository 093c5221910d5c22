"""CTC decoding and probabilities, held against the sum over every path."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.errors import DataError
from edgeexit.speech.ctc import greedy, greedy_timed, normalised, prefix_beam, sequence_logprob

CASES = [(0, 2), (1, 2), (1, 4), (2, 3), (3, 3), (4, 3), (5, 2), (6, 3)]


def some(frames: int, classes: int, seed: int = 0, sharp: float = 2.0) -> NDArray[np.float64]:
    return normalised(np.random.default_rng(seed).standard_normal((frames, classes)) * sharp)


def spelled(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    return tuple(k for k, _ in itertools.groupby(path) if k != blank)


def by_hand(lp: NDArray[np.float64], blank: int) -> dict[tuple[int, ...], float]:
    """P of every sequence, path by path."""
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(lp.shape[1]), repeat=len(lp)):
        p = math.exp(sum(lp[t, k] for t, k in enumerate(path)))
        found[spelled(path, blank)] = found.get(spelled(path, blank), 0.0) + p
    return found


@pytest.mark.parametrize("blank", [0, 1])
@pytest.mark.parametrize(("frames", "classes"), CASES)
def test_sequence_logprob_is_the_sum_over_all_paths(frames: int, classes: int, blank: int) -> None:
    lp = some(frames, classes, seed=frames)
    expected = by_hand(lp, blank)
    assert sum(expected.values()) == pytest.approx(1)
    labels = [k for k in range(classes) if k != blank]
    for length in range(frames + 2):
        for ids in itertools.product(labels, repeat=length):
            found = sequence_logprob(lp, ids, blank)
            if ids in expected:
                assert found == pytest.approx(math.log(expected[ids]), abs=1e-9), ids
            else:
                assert found == -math.inf, ids


@pytest.mark.parametrize("blank", [0, 1])
@pytest.mark.parametrize(("frames", "classes"), CASES)
def test_a_wide_beam_finds_every_sequence(frames: int, classes: int, blank: int) -> None:
    lp = some(frames, classes, seed=10 + frames)
    expected = by_hand(lp, blank)
    found = prefix_beam(lp, blank, 2000)
    assert len(found) == len(expected)
    assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)
    for ids, p in found:
        assert p == pytest.approx(math.log(expected[ids]), abs=1e-9), ids


@pytest.mark.parametrize("beam", [1, 2, 4, 16])
def test_a_narrow_beam_errs_below(beam: int) -> None:
    lp = some(40, 6, seed=3)
    found = prefix_beam(lp, 0, beam)
    assert len(found) == beam and len({ids for ids, _ in found}) == beam
    for ids, p in found:
        assert p <= sequence_logprob(lp, ids, 0) + 1e-9
    assert found[0][1] <= prefix_beam(lp, 0, 200)[0][1] + 1e-9


def test_the_beam_beats_the_greedy_path() -> None:
    """Two frames, where the likeliest path is blank-blank but 'a' is the likelier text (0.6 x 0.6 = 0.36 < 0.64)."""
    lp = np.log([[0.6, 0.4], [0.6, 0.4]])
    assert greedy(lp, 0) == []
    (best, p), (other, q) = prefix_beam(lp, 0, 2)
    assert best == (1,) and math.exp(p) == pytest.approx(0.64)
    assert other == () and math.exp(q) == pytest.approx(0.36)


@pytest.mark.parametrize("seed", range(5))
def test_greedy_is_the_best_path(seed: int) -> None:
    lp = some(30, 5, seed=seed)
    found = greedy_timed(lp, 2)
    path = tuple(lp.argmax(-1).tolist())
    assert tuple(found.ids) == tuple(greedy(lp, 2)) == spelled(path, 2)
    for label, frame in zip(found.ids, found.frames, strict=True):
        assert path[frame] == label and (frame == 0 or path[frame - 1] != label)


def test_greedy_goes_on_where_it_was() -> None:
    lp = some(60, 4, seed=9)
    whole = greedy(lp, 0)
    ids, before = [], None
    for i in range(0, 60, 7):
        part = lp[i : i + 7]
        ids += greedy_timed(part, 0, before).ids.tolist()
        before = int(part[-1].argmax())
    assert ids == whole
    assert len(greedy_timed(lp[:0], 0, 3).ids) == 0


def test_long_and_hopeless_stay_finite() -> None:
    lp = np.full((3000, 8), -400.0)  # 3000 frames of e^-400 are far below any float
    lp[:, 1] = 0.0
    paths = math.lgamma(3001) - math.lgamma(11) - math.lgamma(2991)  # ln of about so many, none through class 1
    assert sequence_logprob(lp, [2] * 5, 0) == pytest.approx(-400.0 * 3000 + paths, abs=1)
    assert sequence_logprob(lp, [1], 0) == pytest.approx(0.0, abs=1e-6)
    assert prefix_beam(lp, 0, 4)[0][0] == (1,)


def test_what_cannot_be() -> None:
    lp = np.full((3, 3), -np.inf)
    assert sequence_logprob(lp, [1], 0) == -np.inf and prefix_beam(lp, 0, 4) == []
    lp[:, 0] = 0.0
    assert sequence_logprob(lp, [], 0) == 0.0 and sequence_logprob(lp, [1], 0) == -np.inf
    assert prefix_beam(lp, 0, 4) == [((), 0.0)]


def test_log_softmax() -> None:
    z = np.array([[1e4, 0.0], [-np.inf, 0.0], [-1e4, -1e4]])
    found = normalised(z)
    assert np.allclose(np.exp(found).sum(-1), 1)
    assert np.allclose(normalised(found), found)
    assert normalised(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize(
    ("lp", "blank"),
    [
        (np.zeros(3), 0),
        (np.zeros((3, 2), int), 0),
        (np.zeros((3, 1)), 0),
        (np.zeros((3, 2)), 2),
        (np.zeros((3, 2)), -1),
        (np.full((3, 2), np.nan), 0),
        (np.full((3, 2), np.inf), 0),
    ],
)
def test_refused(lp: NDArray[Any], blank: int) -> None:
    for call in (
        lambda: greedy(lp, blank),
        lambda: sequence_logprob(lp, [], blank),
        lambda: prefix_beam(lp, blank, 4),
    ):
        with pytest.raises(DataError):
            call()


def test_refused_ids_and_beams() -> None:
    lp = some(4, 3)
    for ids in ([0], [3], [-1], [1, 0]):
        with pytest.raises(DataError, match="other than the blank"):
            sequence_logprob(lp, ids, 0)
    for beam in (0, 5000):
        with pytest.raises(DataError, match="beam"):
            prefix_beam(lp, 0, beam)
