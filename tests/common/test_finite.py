"""Which numbers pass: in inputs, in answers, in recorded outputs."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.common.finite import check_input, finite, sound, unsound_rows
from edgeexit.errors import DataError, PolicyError
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.policy.policies import Patience, QExit, Threshold, Window
from edgeexit.records.classification import Records

NAN, INF = math.nan, math.inf
CASES: list[tuple[list[float], bool, bool]] = [
    # numbers, finite, an answer of logits
    ([1, 2, 3], True, True),
    ([0, 0, 0], True, True),
    ([3e38, -3e38, 3e38], True, True),
    ([1e-40, 0, 1], True, True),
    ([0, 1, -INF], False, True),
    ([-INF, -INF, 0], False, True),
    ([-INF, -INF, -INF], False, False),
    ([0, INF, 0], False, False),
    ([INF, -INF, 0], False, False),
    ([NAN, 0, 0], False, False),
    ([-INF, NAN, 0], False, False),
]


@pytest.mark.parametrize(("numbers", "is_finite", "is_sound"), CASES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("positions", [1, 7, 3000])
def test_answers(numbers: list[float], is_finite: bool, is_sound: bool, dtype: Any, positions: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is printed on a device
        row = np.clip(numbers, *(b if np.isfinite(numbers).all() else x for b, x in
                                 ((np.finfo(dtype).min, -INF), (np.finfo(dtype).max, INF)))).astype(dtype)  # fmt: skip
        answer = np.ones((1, positions, 3), dtype)
        answer[0, -1] = row
        for array in (answer, np.moveaxis(np.moveaxis(answer, 0, 2).copy(), 2, 0)):
            assert finite(array) is is_finite
            assert sound(array, "logits") is is_sound
            assert sound(array, "probs") is is_finite
            assert unsound_rows(array, "logits").tolist() == [not is_sound]
            assert unsound_rows(array, "probs").tolist() == [not is_finite]
        valid = np.arange(positions)[None] < positions - 1  # what stands in padding counts nowhere
        assert unsound_rows(answer, "logits", valid).tolist() == [False]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_inputs(value: float) -> None:
    for dtype in (np.float16, np.float32, np.float64):
        x = np.zeros((2, 3, 40, 40), dtype)
        check_input("x", x)
        x[1, 2, 0, 7] = x[1, 2, 0, 9] = value
        text = "NaN" if value != value else f"{value:g}"
        with pytest.raises(DataError, match=rf"input 'x' holds {text} at \[1, 2, 0, 7\], and 1 more") as caught:
            check_input("x", x)
        assert ("a mask of -inf works with the lowest finite number" in str(caught.value)) is (value == -INF)
    check_input("ids", np.array([[1 << 62]], np.int64))
    check_input("none", np.zeros((1, 0), np.float32))
    check_input("large", np.full((1, 9), 3e38, np.float32))  # whose squares are infinite


def records(**changes: Any) -> Records:
    arrays: dict[str, Any] = {
        "logits": np.random.default_rng(0).standard_normal((2, 6, 3)).astype(np.float32),
        "cost": np.array([1.0, 2.0]),
        "labels": np.array([0, 1, 2, 0, 1, 2]),
    }
    return Records.of({k: v for k, v in (arrays | changes).items() if v is not None}, Path("rows.npz"))


def spoilt(value: float, at: tuple[int, ...] = (1, 4, 2), dtype: Any = np.float32) -> NDArray[Any]:
    logits = np.random.default_rng(0).standard_normal((2, 6, 3)).astype(dtype)
    logits[at] = value
    return logits


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": spoilt(NAN)}, r"exit 1 of row 4 holds NaN at \[2\]; 1 of 6 rows"),
        ({"logits": spoilt(INF, (0, slice(2, 5), 1))}, r"exit 0 of row 2 holds inf at \[1\]; 3 of 6 rows"),
        ({"logits": spoilt(1e300, dtype=np.float64)}, "exit 1 of row 4 holds inf"),
        ({"logits": spoilt(-INF, (0, 3))}, r"exit 0 of row 3 holds -inf at \[0\], and 2 more"),
        ({"logits": None, "probs": np.where(spoilt(7) == 7, -INF, 1 / 3)}, "exit 1 of row 4 holds -inf"),
        ({"logits": None, "probs": np.where(spoilt(7) == 7, NAN, 1 / 3)}, "exit 1 of row 4 holds NaN"),
        ({"learned": np.where(np.eye(2, 6) > 0, NAN, 0.5)}, "found NaN or infinity, first nan at exit 0 of row 0"),
        ({"uncertainty": np.full((2, 6), -INF)}, "NaN or infinity, first inf at exit 0 of row 0"),
        ({"cost": np.array([1, INF])}, "growing positive"),
        ({"labels": np.array([0, 1, 2, 3, 4, 0])}, "reach from 0 to 4, classes are 0 to 2; row 3 is the first of 2"),
        ({"labels": np.array([0, 1, 2, 0, 1, -1])}, "row 5 is the first of 1"),
        ({"labels": np.array([0, 1, 2, 0, 1, NAN])}, "whole numbers"),
        ({"labels": np.array([0.0, 1, 2, 0, 1, 1])}, "whole numbers"),
    ],
)
def test_recorded_outputs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        records(**changes)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_masks_in_recorded_outputs(dtype: Any) -> None:
    """A class that is ruled out: the same scores, and numbers that can be summed."""
    masked = spoilt(-INF, (slice(None), slice(None), 1), dtype)
    rows = records(logits=masked, labels=np.array([0, 0, 2, 0, 2, 2]))
    assert np.isfinite(rows.outputs).all() and (rows.predictions != 1).all()
    two = records(logits=np.delete(masked, 1, 2), labels=np.array([0, 0, 1, 0, 1, 1]))
    np.testing.assert_allclose(rows.scores("maxprob"), two.scores("maxprob"), rtol=1e-6)
    np.testing.assert_allclose(rows.scores("margin"), two.scores("margin"), atol=1e-6)
    assert np.isfinite(rows.scores("entropy")).all() and np.isfinite(rows.take(np.array([1])).outputs).all()


def test_policies() -> None:
    """Infinity means always or never; NaN means nothing."""
    for thresholds in ((INF,), (-INF,)):
        assert Threshold.from_dict(Threshold(thresholds).to_dict()).thresholds == thresholds
    for make in (
        lambda: Threshold((NAN,)),
        lambda: Threshold((0.5,), temperatures=(1.0, NAN)),
        lambda: Threshold((0.5,), temperatures=(1.0, INF)),
        lambda: Window((NAN,), (1.0,), 0.5),
        lambda: Window((0.0,), (1.0,), NAN),
        lambda: QExit(NAN),
        lambda: QExit(INF),
        lambda: Patience(INF),  # type: ignore[arg-type]
        lambda: OperatingPoint.from_dict(
            {"schema": 1, "name": "a", "artifact": None, "policy": Patience(1).to_dict(), "expected": {"cost": NAN}}
        ),
    ):
        with pytest.raises(PolicyError):
            make()
