"""Loading of T-RECX's published networks (Ghanathe, Wilton 2023, MIT licence) into `resnet8` and `dscnn`.

They come as an npz of arrays `L<k>.<name>` in Keras layout, `k` counting Keras' layers with weights: `kernel`
(rows, columns, in, out), `depthwise_kernel` (rows, columns, channels, 1), `bias`, and batch norm's four.
Linear kernels read features flattened in row, column, channel order; ours in channel, row, column order, so
their rows are permuted here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgeexit.errors import DataError, ModelError
from edgeexit_models.definitions.dscnn import DSCNN
from edgeexit_models.definitions.heads import GridPoolLinear
from edgeexit_models.definitions.resnet8 import ResNet8

Arrays = dict[str, npt.NDArray[Any]]

_RESNET8 = (
    "stem.conv", "stem.norm",
    "stacks.0.first.conv", "stacks.0.first.norm", "stacks.0.second.conv", "stacks.0.second.norm",
    "stacks.1.first.conv", "stacks.1.first.norm", "stacks.1.second.conv",
    "stacks.1.shortcut", "stacks.1.second.norm",
    "stacks.2.first.conv", "stacks.2.first.norm", "stacks.2.second.conv",
    "stacks.2.shortcut", "stacks.2.second.norm",
    "heads.0.linear", "heads.1.linear", "heads.2.linear",
)  # fmt: skip
_BLOCK = ("depthwise.conv", "depthwise.norm", "pointwise.conv", "pointwise.norm")
_DSCNN = (
    "stem.conv", "stem.norm",
    *(f"blocks.{number}.{layer}" for number in range(4) for layer in _BLOCK),
    "heads.0.linear", "heads.1.linear", "heads.2.linear", "heads.3.linear",
)  # fmt: skip
_NAMES = {
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""Keras' names of weights -> torch's."""


def load_trecx(path: str | Path) -> ResNet8 | DSCNN:
    """Reads weights and returns the network they belong to, in evaluation mode.

    ResNet-8 takes pixels 0..255 `(batch, 3, 32, 32)`, DS-CNN MFCCs `(batch, 1, 49, 10)`.

    Raises:
        DataError: the file cannot be read as an npz without pickle.
        ModelError: the arrays are not one of T-RECX's two networks.
    """
    try:
        # opened here: of a damaged zip, np.load(path) would leave the file open
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays: Arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, TypeError, BadZipFile) as e:
        raise DataError(f"{path}: cannot be read as an npz of plain arrays ({e})") from e
    module, layers = _recognise(arrays, path)
    module.load_state_dict(_convert(arrays, module, layers, path))
    return module.eval()


def _recognise(arrays: Arrays, path: str | Path) -> tuple[ResNet8 | DSCNN, tuple[str, ...]]:
    first = arrays["L0.kernel"].shape if "L0.kernel" in arrays else None
    for shape, layers in (((3, 3, 3, 16), _RESNET8), ((10, 4, 1, 64), _DSCNN)):
        last = f"L{len(layers) - 1}.bias"
        if first == shape and last in arrays:
            classes = len(arrays[last])
            return (ResNet8(classes) if layers is _RESNET8 else DSCNN(classes)), layers
    raise ModelError(
        f"{path}: L0.kernel is {first}: expected T-RECX's ResNet-8 (3, 3, 3, 16) with L0 to L18 "
        "or DS-CNN (10, 4, 1, 64) with L0 to L21"
    )


def _convert(arrays: Arrays, module: nn.Module, layers: tuple[str, ...], path: str | Path) -> dict[str, Tensor]:
    state = module.state_dict()
    filled: set[str] = set()
    for name, array in arrays.items():
        number, _, kind = name.removeprefix("L").partition(".")
        known = number.isdecimal() and int(number) < len(layers) and kind in _NAMES
        layer = layers[int(number)] if known else ""
        key = f"{layer}.{_NAMES.get(kind)}"
        if key not in state:
            raise ModelError(f"{path}: array {name!r} has no place in T-RECX's {type(module).__name__}")
        value = _to_torch(torch.from_numpy(array.astype(np.float32)), module, layer)
        if value.shape != state[key].shape:
            shape, expected = tuple(value.shape), tuple(state[key].shape)
            raise ModelError(f"{path}: {name} becomes {shape} in torch's layout, but {key} is {expected}")
        state[key] = value
        filled.add(key)
    missing = [key for key in state if key not in filled and not key.endswith("num_batches_tracked")]
    if missing:
        raise ModelError(f"{path}: no array for {', '.join(missing)}: the file is not complete")
    return state


def _to_torch(value: Tensor, module: nn.Module, layer: str) -> Tensor:
    """Keras' axis order to torch's; a head's linear layer also needs its features in another order."""
    ours = module.get_submodule(layer)
    if value.ndim == 4:
        depthwise = isinstance(ours, nn.Conv2d) and ours.groups > 1
        return value.permute(2, 3, 0, 1) if depthwise else value.permute(3, 2, 0, 1)
    head = module.get_submodule(layer.rpartition(".")[0])
    if value.ndim == 2 and isinstance(head, GridPoolLinear):
        channels, rows, columns = head.grid
        if len(value) != channels * rows * columns:
            return value.T
        return value.reshape(rows, columns, channels, -1).permute(3, 2, 0, 1).flatten(1)
    return value
