"""Training checkpoints: one file, written whole or not at all, read without running code from it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from edgeexit.errors import ModelError

FORMAT = "edgeexit-training-1"


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors, numbers, strings, lists and dicts; a crash half-way leaves the older file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Reads what `save` wrote.

    Raises:
        ModelError: the file is no checkpoint of ours or is damaged.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as e:
        raise ModelError(f"{path}: cannot be read as a checkpoint ({type(e).__name__}): delete it to start over") from e
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ModelError(f"{path}: not a training checkpoint of format {FORMAT!r}: give another checkpoint path")
    return state


def check_settings(path: Path, stored: dict[str, Any], current: dict[str, Any]) -> None:
    """Checks that a checkpoint's settings are those of this run.

    Raises:
        ModelError: names every setting that differs, with both values.
    """
    names = sorted(stored.keys() | current.keys())
    differing = [
        f"{n}: {stored.get(n)!r} there, {current.get(n)!r} now" for n in names if stored.get(n) != current.get(n)
    ]
    if differing:
        raise ModelError(
            f"{path}: made with other settings ({'; '.join(differing)}): "
            "use the same settings or another checkpoint path"
        )
