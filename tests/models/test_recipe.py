"""The ResNet-8 recipe as a user runs it, on a few random pictures."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgeexit_models import predict, resnet8_cifar10
from recipes import cifar10

SCRIPT = Path(__file__).parents[2] / "models" / "recipes" / "resnet8-cifar10" / "train.py"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with a hold-out set that fits the test's data."""
    spec = importlib.util.spec_from_file_location("recipe_resnet8", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(cifar10, "HELD_OUT", 8)
    return module


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """24 training and 4 test pictures of noise."""
    rng = np.random.default_rng(0)
    path = tmp_path / "cifar.npz"
    np.savez(
        path,
        x_train=rng.integers(0, 256, (24, 32, 32, 3)).astype(np.uint8), y_train=rng.integers(0, 10, 24),
        x_test=rng.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8), y_test=rng.integers(0, 10, (4, 1)),
    )  # fmt: skip
    return path


def call(recipe: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    """Runs the script's command line."""
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, words)])
    recipe.main()


def test_a_run_writes_weights_metrics_and_the_held_out_pictures(
    recipe: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    out, held = tmp_path / "out", tmp_path / "held.npz"
    words = (data, "--out", out, "--holdout", held, "--epochs", 2, "--batch-size", 8, "--threads", 1)
    call(recipe, monkeypatch, *words)
    call(recipe, monkeypatch, *words, "--resume")
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["split"] == {"train": 16, "held_out": 8, "test": 4}
    assert metrics["settings"]["seed"] == 0
    assert len(metrics["history"]) == 2
    module = resnet8_cifar10()
    module.load_state_dict(safetensors.load_file(out / "resnet8-cifar10.safetensors"))
    with np.load(held, allow_pickle=False) as file:
        x, y = file["x"], file["y"]
    assert (x.dtype, x.shape, y.shape) == (np.float32, (8, 3, 32, 32), (8,))
    assert x.max() > 200
    right = (predict(module, x).argmax(2).numpy() == y).mean(1)
    assert right.tolist() == metrics["accuracy"]["held_out"]


def test_training_never_sees_the_held_out_pictures(recipe: ModuleType, data: Path) -> None:
    train, _ = recipe.load(data)
    (kept, _), (held, _) = recipe.hold_out(train, 3)
    rows = {picture.tobytes() for picture in kept} | {picture.tobytes() for picture in held}
    assert len(rows) == len(kept) + len(held) == 24


def test_unfit_data_is_one_line(recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, x_train=np.zeros((9, 3, 32, 32)))
    with pytest.raises(SystemExit, match=r"error: .*other\.npz: need an npz with x_train, y_train"):
        call(recipe, monkeypatch, path, "--out", tmp_path)
