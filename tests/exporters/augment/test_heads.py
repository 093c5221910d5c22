"""Heads fitted on features: the fit is the optimum, soft targets give the teacher back, and bad rows are refused."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.errors import BackendMissing, DataError
from edgeexit_exporters.augment.heads import LinearHead, MlpHead, fit_linear, fit_mlp, soft_targets
from edgeexit_exporters.augment.rows import chunks

CLASSES = 4


def made(n: int = 800, width: int = 6, noise: float = 1.0, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Classes around means of their own; features of very different means and spreads, one that never varies."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % CLASSES
    x = 3 * np.random.default_rng(99).standard_normal((CLASSES, width))[y] + noise * rng.standard_normal((n, width))
    x = x * 10.0 ** rng.integers(-2, 3, width) + rng.integers(-3, 4, width)
    x[:, -1] = 0.1
    return x.astype(np.float32), y


def softmax(z: NDArray[Any]) -> NDArray[np.float64]:
    e = np.exp(z - z.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def accuracy(head: LinearHead | MlpHead, x: NDArray[Any], y: NDArray[Any]) -> float:
    return float((head.logits(x).argmax(1) == y).mean())


@pytest.mark.parametrize("fit", [fit_linear, fit_mlp])
def test_separable_classes_are_told_apart(fit: Any) -> None:
    x, y = made(noise=0.3)
    head = fit(x, y)
    assert accuracy(head, x, y) == 1
    assert np.isfinite(head.logits(x)).all() and head.logits(x).dtype == np.float32


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_linear_is_the_optimum_of_a_direct_fit_in_float64(l2: float) -> None:
    from scipy.optimize import minimize

    x, y = made(noise=4.0)
    spread = x.astype(np.float64).std(0)
    spread[-1] = 1
    s = (x - x.astype(np.float64).mean(0)) / spread
    s[:, -1] = 0

    def loss(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        w = theta.reshape(x.shape[1] + 1, CLASSES)
        p = softmax(s @ w[:-1] + w[-1])
        value = -np.log(p[np.arange(len(y)), y]).mean() + l2 / 2 * (w[:-1] ** 2).sum()
        wrong = (p - np.eye(CLASSES)[y]) / len(y)
        return value, np.vstack([s.T @ wrong + l2 * w[:-1], wrong.sum(0)]).ravel()

    best = minimize(loss, np.zeros((x.shape[1] + 1) * CLASSES), jac=True, method="BFGS", options={"gtol": 1e-9})
    w = best.x.reshape(-1, CLASSES)
    found = softmax(fit_linear(x, y, l2=l2).logits(x))
    assert 0.5 < (found.argmax(1) == y).mean() < 1  # noisy enough to be a test
    np.testing.assert_allclose(found, softmax(s @ w[:-1] + w[-1]), atol=1e-3)


def test_the_penalty_is_chosen_on_rows_held_back() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = rng.standard_normal((120, 60)).astype(np.float32)  # nothing to learn
    weak, chosen = fit_linear(x, y, l2=1e-5), fit_linear(x, y)
    assert np.abs(chosen.logits(x)).max() < 0.2 * np.abs(weak.logits(x)).max()


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_soft_targets_give_a_linear_teacher_back(temperature: float, kind: str) -> None:
    x, _ = made(2000, noise=4.0)
    s = (x - x.mean(0)) / np.maximum(x.std(0), 1e-3)
    teacher = (s @ np.random.default_rng(1).standard_normal((x.shape[1], CLASSES))).astype(np.float32)
    outputs = teacher if kind == "logits" else softmax(teacher)
    head = fit_linear(x, soft_targets(outputs, kind, temperature), l2=1e-7, temperature=temperature)
    np.testing.assert_allclose(softmax(head.logits(x)), softmax(teacher), atol=2e-2)


def test_mlp_learns_what_no_linear_head_can() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 4)).astype(np.float32) * 5 + 20
    y = ((x[:, 0] > 20) ^ (x[:, 1] > 20)).astype(np.int64)
    assert accuracy(fit_linear(x, y), x, y) < 0.6
    head = fit_mlp(x, y, hidden=32)
    assert accuracy(head, x, y) > 0.95
    assert head.macs == 4 * 32 + 32 * 2


def test_mlp_follows_soft_targets() -> None:
    x, _ = made(2000, noise=4.0)
    s = (x - x.mean(0)) / np.maximum(x.std(0), 1e-3)
    teacher = (s @ np.random.default_rng(1).standard_normal((x.shape[1], CLASSES))).astype(np.float32)
    head = fit_mlp(x, soft_targets(teacher, "logits", 2.0), temperature=2.0, decay=0.0, epochs=60)
    assert np.abs(softmax(head.logits(x)) - softmax(teacher)).mean() < 0.02


@pytest.mark.parametrize("fit", [fit_linear, fit_mlp])
def test_same_seed_same_bytes_in_memory_and_on_disk(fit: Any, tmp_path: Path) -> None:
    import torch

    x, y = made()
    np.save(tmp_path / "x.npy", x)
    torch.manual_seed(1)
    first = fit(x, y, seed=3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = fit(np.load(tmp_path / "x.npy", mmap_mode="r"), y, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    for name in first.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert not np.array_equal(fit_mlp(x, y, seed=4).weight, fit_mlp(x, y, seed=5).weight)


@pytest.mark.parametrize("fit", [fit_linear, fit_mlp])
def test_memory_stays_far_below_a_copy_of_the_features(fit: Any, tmp_path: Path) -> None:
    n, width = 20_000, 256
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(n, width))
    for c in chunks(n, width):
        x[c] = rng.standard_normal((c.stop - c.start, width))
    y = (x[:, :CLASSES].argmax(1)).astype(np.int64)
    settings = {"steps": 5} if fit is fit_linear else {"epochs": 1}
    fit(x[:100], y[:100], **settings)  # imports
    tracemalloc.start()
    fit(x, y, **settings)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * width * 8 / 2.5, f"{peak / 1e6:.0f} MB"


def test_chunks_cover_every_row_once() -> None:
    for n, width in ((1, 1), (8192, 4), (8193, 4), (30_000, 4096), (10, 10_000_000)):
        assert np.concatenate([np.arange(c.start, c.stop) for c in chunks(n, width)]).tolist() == list(range(n))


def test_half_precision_features_are_taken() -> None:
    x, y = made(noise=0.3)
    z = ((x - x.mean(0)) / np.maximum(x.std(0), 1e-3)).astype(np.float16)
    assert accuracy(fit_linear(z, y), z, y) == 1


def bad(x: NDArray[Any], row: int, value: float) -> NDArray[Any]:
    x = x.copy()
    x[row, 1] = value
    return x


X, Y = made(100)
P = np.full((100, CLASSES), 0.25, np.float32)


@pytest.mark.parametrize("fit", [fit_linear, fit_mlp])
@pytest.mark.parametrize(
    ("x", "y", "classes", "message"),
    [
        (X[:19], Y[:19], None, "19 rows for 4 classes: .* 20 in all"),
        (X[:0], Y[:0], None, "nothing to fit"),
        (X, np.where(Y == 2, 1, Y), None, r"no row of class 2 \(of 4"),
        (X, Y, 6, r"no row of classes 4, 5 \(of 6"),
        (X, Y, 3, "numbers from 0 to 3; expected 0 to 2"),
        (X, Y - 1, None, "numbers from -1 to 2"),
        (X, 0 * Y, None, "at least 2 classes"),
        (X, Y.astype(np.float32), None, "are integers, found float32"),
        (X, Y[:-1], None, "one row for each"),
        (X[:, :, None], Y, None, r"expected \(rows, width\)"),
        (X.astype(np.int64), Y, None, "found int64"),
        (bad(X, 7, np.nan), Y, None, "NaN or infinity in row 7;"),
        (bad(X, 9, -np.inf), Y, None, "row 9;"),
        (np.full_like(X, np.nan), Y, None, "rows 0, 1, 2, 3, 4 and 95 more"),
        (X, bad(P, 3, 0.9), None, "row 3 not probabilities"),
        (X, bad(P, 3, np.nan), None, "row 3 not probabilities"),
        (X, P, 5, "probabilities of 4 classes; expected 5"),
        (X, P[:, :1], None, "expected probabilities"),
        (X, np.eye(CLASSES, dtype=np.int64)[Y], None, "expected probabilities"),
    ],
)
def test_rows_no_head_can_be_fitted_on(
    fit: Any, x: NDArray[Any], y: NDArray[Any], classes: int | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        fit(x, y, classes=classes)


def test_a_bad_row_of_a_later_chunk_is_numbered_rightly() -> None:
    x = np.ones((9000, 3), np.float32)
    x[8500, 2] = np.inf
    with pytest.raises(DataError, match="row 8500"):
        fit_linear(x, np.arange(9000) % 2)


def test_settings_that_make_no_sense() -> None:
    for wrong in ({"l2": -1.0}, {"l2": []}, {"temperature": 0.0}):
        with pytest.raises(DataError):
            fit_linear(X, Y, **wrong)
    for wrong in ({"hidden": 0}, {"batch": 0}, {"epochs": 0}, {"rate": 0.0}, {"decay": -1.0}, {"temperature": -1.0}):
        with pytest.raises(DataError):
            fit_mlp(X, Y, **wrong)
    with pytest.raises(DataError, match=r"takes features \(n, 6\)"):
        fit_linear(X, Y).logits(X[:, :3])


@pytest.mark.parametrize(
    ("outputs", "kind", "temperature", "message"),
    [
        (P[0], "logits", 1.0, "expected outputs"),
        (P, "odds", 1.0, "'odds'"),
        (P, "logits", 0.0, "positive temperature"),
        (bad(P, 6, np.nan), "logits", 1.0, "row 6"),
        (bad(P, 5, -0.1), "probs", 1.0, "row 5"),
    ],
)
def test_outputs_that_are_no_targets(outputs: NDArray[Any], kind: str, temperature: float, message: str) -> None:
    with pytest.raises(DataError, match=message):
        soft_targets(outputs, kind, temperature)


def test_a_missing_library_is_named_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendMissing, match=r"pip install 'edgeexit\[augment\]'"):
        fit_linear(X, Y)
    with pytest.raises(BackendMissing, match=r"pip install 'edgeexit\[export\]'"):
        fit_mlp(X, Y)
