"""Preprocessing of a source's pictures: as the caller states it, or as it is attached to the torch module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.common.files import read_json
from edgeexit.errors import DataError
from edgeexit.pictures.convert import PictureInput
from edgeexit.pictures.foreign import is_foreign
from edgeexit.pictures.preprocess import Preprocess, is_picture, picture_fields
from edgeexit.pictures.preprocess_text import parse, read_fields
from edgeexit_exporters.source.inputs import make_inputs
from edgeexit_exporters.source.source import Source
from edgeexit_exporters.source.torch_transforms import from_transforms

NONE = "none"
"""Asked for: pictures are not declared, whatever is attached to the module."""
ATTACHED = ("preprocess", "transforms", "pretrained_cfg", "default_cfg")


def declare(source: Source, asked: Any, progress: Callable[[str], None] = lambda text: None) -> dict[str, Preprocess]:
    """How pictures become the inputs of a source, by the inputs' names.

    Args:
        source: the network.
        asked: a `Preprocess`; fields of one as a mapping or a text (`preprocess_text.parse`); a JSON file, also of
            Hugging Face's ``preprocessor_config.json`` and timm's ``config.json``; a torchvision transform or a Hugging
            Face image processor; a mapping from inputs' names to any of these, or a list of texts with ``input=NAME``.
            None = what is attached to the torch module (`ATTACHED`), if anything; "none" = nothing.
        progress: called with a line about an attached declaration.

    Raises:
        DataError: not understood, or it does not fit an input.
    """
    inputs = [i.tensor for i in source.inputs if not i.state]
    if asked is None:
        return _attached(source, inputs, progress)
    if isinstance(asked, str) and asked == NONE:
        return {}
    names = {t.name for t in inputs}
    if isinstance(asked, Mapping) and asked and set(asked) <= names:
        parts = [(name, *_stated(part)[1:]) for name, part in asked.items()]
    elif isinstance(asked, list | tuple) and all(isinstance(part, str | Path) for part in asked):
        parts = [_stated(part) for part in asked]
    else:
        parts = [_stated(asked)]
    declared: dict[str, Preprocess] = {}
    for name, fields in parts:
        tensor = _picture_input(inputs, name)
        if tensor.name in declared:
            raise DataError(f"preprocessing of input {tensor.name!r} is stated twice")
        declared[tensor.name] = _fitted(tensor, fields)
    return declared


def network_rows(
    data: Mapping[str, NDArray[Any]], inputs: Sequence[TensorSpec], declared: Mapping[str, Preprocess]
) -> dict[str, NDArray[Any]]:
    """Data in which pictures (uint8) of declared inputs have become the network's numbers.

    Raises:
        DataError: pictures that the network does not take.
    """
    found = dict(data)
    for t in inputs:
        key = t.name if t.name in found else "x"
        if t.name in declared and found.get(key) is not None and found[key].dtype == np.uint8:
            rows = PictureInput(t.name, declared[t.name], t.shape, t.dtype).many(found[key])
            if rows is not None:
                found[key] = rows[:]
    return found


def _stated(asked: Any) -> tuple[str | None, dict[str, Any] | Preprocess]:
    """The input that is named, if one is, and what is stated of it."""
    if isinstance(asked, Preprocess):
        return None, asked
    if isinstance(asked, Path):
        return read_fields(read_json(asked, DataError), str(asked))
    if isinstance(asked, str):
        return parse(asked)
    if isinstance(asked, Mapping):
        return read_fields(asked, "preprocessing")
    if callable(getattr(asked, "to_dict", None)) and is_foreign(document := asked.to_dict()):
        return read_fields(document, type(asked).__name__)
    return None, from_transforms(asked)


def _picture_input(inputs: Sequence[TensorSpec], name: str | None) -> TensorSpec:
    for t in inputs:
        if t.name == name or (name is None and len(inputs) == 1):
            return t
    known = ", ".join(t.name for t in inputs)
    if name is not None:
        raise DataError(f"preprocessing of {name!r}, which is no input; the network takes {known}")
    fitting = [t for t in inputs if is_picture(t.shape)]
    if len(fitting) != 1:
        raise DataError(f"which of the inputs ({known}) does the preprocessing belong to? add input=NAME")
    return fitting[0]


def _fitted(tensor: TensorSpec, fields: dict[str, Any] | Preprocess) -> Preprocess:
    try:
        if isinstance(fields, Preprocess):
            fields.check(tensor.shape, tensor.dtype)
            return fields
        return picture_fields(tensor.shape, tensor.dtype, fields)
    except DataError as e:
        raise DataError(f"preprocessing of input {tensor.name!r} {list(tensor.shape)!r:.80}: {e}") from e


def _attached(source: Source, inputs: Sequence[TensorSpec], progress: Callable[[str], None]) -> dict[str, Preprocess]:
    """What is attached to the module or, where it wraps another, to that one; what is not understood is only said."""
    if source.module is None:
        return {}
    for module in (source.module, *source.module.children()):
        for attribute in ATTACHED:
            held = getattr(module, attribute, None)
            if held is None or getattr(held, "__self__", None) is module:  # a method of its own
                continue
            where = f"{type(module).__name__}.{attribute}"
            try:
                if _runs_inside(source, held):
                    progress(f"note: {where} is applied by the network itself, so it is not declared for pictures")
                    continue
                name, fields = _stated(held)
                tensor = _picture_input(inputs, name)
                fitted = _fitted(tensor, fields)
            except DataError as e:
                progress(f"note: {where} is not declared for pictures: {e}. State it with --preprocess")
                continue
            progress(f"preprocessing of {tensor.name!r}, of {where}: {fitted}")
            return {tensor.name: fitted}
    return {}


def _runs_inside(source: Source, held: Any) -> bool:
    """Whether a module is called while the network runs."""
    if not hasattr(held, "register_forward_hook"):
        return False
    calls: list[bool] = []
    handle = held.register_forward_hook(lambda *_: calls.append(True))
    try:
        source.raw_reference(make_inputs(source.inputs, 1, seed=0))
    finally:
        handle.remove()
    return bool(calls)
