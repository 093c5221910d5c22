"""Torch modules by name: ``package.module:function`` and a state dict to a module with its weights."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgeexit.errors import ModelError, first_line
from edgeexit_exporters.onnx.files import refuse_missing


def load_module(target: str, weights: Path | str | None = None) -> nn.Module:
    """Build the module that ``package.module:function`` returns, and load its weights.

    Args:
        target: names a function without required arguments that returns an `nn.Module`.
        weights: a ``.safetensors`` file, or a state dict that `torch.save` wrote (read with `weights_only`).

    Raises:
        ModelError: nothing there, not a module, or weights that do not fit.
    """
    module_name, _, function = target.partition(":")
    if not function:
        raise ModelError(f"{target!r}: expected MODULE:FUNCTION, e.g. edgeexit_models:resnet8, or an .onnx file")
    here = "" if "" in sys.path else str(Path.cwd())
    if here:
        sys.path.insert(0, here)  # as `python -m` does, so that a user's own file is found
    try:
        target_object = getattr(importlib.import_module(module_name), function)
        module = target_object if isinstance(target_object, nn.Module) else target_object()
    except ImportError as e:
        raise ModelError(f"{target}: cannot import {module_name!r}: {e}") from e
    except AttributeError as e:
        raise ModelError(f"{target}: {e}") from e
    except TypeError as e:
        raise ModelError(f"{target}: calling {function}() without arguments failed: {e}") from e
    except Exception as e:
        raise ModelError(f"{target}: making the network failed: {type(e).__name__}: {first_line(e)}") from e
    finally:
        if here:
            sys.path.remove(here)
    if not isinstance(module, nn.Module):
        raise ModelError(f"{target} returned {type(module).__name__}, expected a torch.nn.Module")
    if weights is not None:
        _load_weights(module, Path(weights))
    return module


def _load_weights(module: nn.Module, path: Path) -> None:
    refuse_missing(path, "weights file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        raise ModelError(f"{path}: not readable as plain weights: {first_line(e)}") from e
    if isinstance(state, Mapping) and not all(isinstance(v, Tensor) for v in state.values()):
        state = next((state[k] for k in ("state_dict", "model") if isinstance(state.get(k), Mapping)), state)
    if isinstance(state, Mapping) and state and all(str(k).startswith("module.") for k in state):
        state = {k.removeprefix("module."): v for k, v in state.items()}  # as nn.DataParallel saves them
    try:
        module.load_state_dict(cast(Mapping[str, Any], state))
    except (RuntimeError, TypeError, AttributeError) as e:
        raise ModelError(f"{path}: the weights do not fit the model: {' '.join(str(e).split())[:300]}") from e
