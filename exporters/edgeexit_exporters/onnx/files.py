"""ONNX files on disk: the protobuf and the weight files beside it, with bounds on what is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from edgeexit.errors import ModelError, first_line

MAX_WEIGHT_BYTES = (2 << 30) - (1 << 20)
"""One protobuf file holds less than 2 GiB."""
_LFS = b"version https://git-lfs"


def load_proto(path: Path) -> onnx.ModelProto:
    """Read an ``.onnx`` file with its external weights; only syntax and sizes are checked.

    A user's own file may be a link, as in a download cache: weights are then looked for beside the link and beside the
    file that it leads to, and may be links into either folder. What lies elsewhere is refused: a model from a stranger
    could name any file of this machine, and its bytes would go into the bundle.

    Raises:
        ModelError: missing, not ONNX, of 2 GiB and more, or with weights that are missing, cut short or elsewhere.
    """
    refuse_missing(path)
    if path.stat().st_size > MAX_WEIGHT_BYTES:
        raise ModelError(f"{path}: the file is 2 GiB or more; a bundle's ONNX file holds less")
    raw = path.read_bytes()
    try:
        proto = onnx.load_from_string(raw)
    except Exception as e:  # protobuf raises its own classes; a text file raises DecodeError
        raise ModelError(f"{path}: not an ONNX file: {first_line(e)}") from e
    if not proto.graph.node or not proto.opset_import:
        raise ModelError(f"{path}: not an ONNX model: it has no nodes or no opset")
    _load_weights(proto, path)
    return proto


def refuse_missing(path: Path, what: str = "file") -> None:
    """Whether there is a file at all, which holds more than the name of one.

    Args:
        path: the file.
        what: it should be, for messages.

    Raises:
        ModelError: no file, a link to nothing, a folder, or a pointer that Git LFS left in place of the file.
    """
    if path.is_symlink() and not path.exists():
        raise ModelError(f"{path}: is a link to {os.readlink(path)!r}, where nothing is: download the {what} again")
    if path.is_dir():
        raise ModelError(f"{path}: is a folder, expected a {what}")
    if not path.is_file():
        raise ModelError(f"{path}: no such {what}")
    with path.open("rb") as stream:
        if stream.read(len(_LFS)) == _LFS:
            raise ModelError(f"{path}: holds a Git LFS pointer, not the file itself: run `git lfs pull`")


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all graphs inside its nodes."""
    todo = [graph]
    while todo:
        yield (found := todo.pop())
        todo.extend(g for node in found.node for g in node_graphs(node))


def node_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that a node holds itself: bodies of If, Loop and Scan."""
    return [g for a in node.attribute for g in ((a.g,) if a.HasField("g") else ()) + tuple(a.graphs)]


def all_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Nodes of the graph, of graphs inside it, and of the model's functions."""
    for graph in graphs(proto.graph):
        yield from graph.node
    for function in proto.functions:
        for node in function.node:
            yield node
            for inner in node_graphs(node):
                for graph in graphs(inner):
                    yield from graph.node


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All stored tensors that a run can read: weights, sparse ones in their parts, and those in attributes."""
    for graph in graphs(proto.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in all_nodes(proto):
        for a in node.attribute:
            if a.HasField("t"):
                yield a.t
            if a.HasField("sparse_tensor"):
                yield from (a.sparse_tensor.values, a.sparse_tensor.indices)
            yield from a.tensors
            for sparse in a.sparse_tensors:
                yield from (sparse.values, sparse.indices)


def _load_weights(proto: onnx.ModelProto, path: Path) -> None:
    """Put the bytes of external weights into the proto."""
    total = 0
    for tensor in tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {e.key: e.value for e in tensor.external_data}
        target = _weight_file(path, tensor.name, entries.get("location", ""))
        size = target.stat().st_size
        offset = _number(path, tensor.name, "offset", entries.get("offset", "0"))
        length = _number(path, tensor.name, "length", entries.get("length", str(_stored_bytes(tensor, size - offset))))
        if offset + length > size:
            raise ModelError(
                f"{path}: weight {tensor.name!r} lies at bytes {offset} to {offset + length} of {target.name!r}, which "
                f"has {size}: the file was cut short, or belongs to another model"
            )
        total += length
        if size > MAX_WEIGHT_BYTES or total > MAX_WEIGHT_BYTES:
            raise ModelError(f"{path}: weight file {target.name!r} is 2 GiB or more; a bundle's ONNX file holds less")
        with target.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.DEFAULT


def _stored_bytes(tensor: onnx.TensorProto, left: int) -> int:
    """Bytes of a tensor whose file entry states none: by its shape where the type has whole bytes, else all."""
    try:
        item = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    except (KeyError, TypeError):
        return max(left, 0)
    count = 1
    for size in tensor.dims:
        count *= max(int(size), 0)
    return min(count * item, max(left, 0)) if item else max(left, 0)


def _number(path: Path, name: str, what: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise ModelError(f"{path}: weight {name!r} states the {what} {text!r:.40}, expected a number of bytes")
    return int(text)


def _weight_file(path: Path, name: str, place: str) -> Path:
    """The file of an external weight."""
    homes = tuple(dict.fromkeys((path.parent.resolve(), path.resolve().parent)))
    inside = Path(os.path.normpath(place)) if place else Path("..")
    if inside.is_absolute() or ".." in inside.parts or "\\" in place or "\0" in place:
        raise ModelError(f"{path}: weight {name!r} lies outside the model's folder ({place!r:.120})")
    there = [home / inside for home in homes if (home / inside).exists() or (home / inside).is_symlink()]
    if not there:
        raise ModelError(f"{path}: weight file {place!r:.120} is missing beside it")
    target = there[0].resolve()
    if not any(target.is_relative_to(home) for home in homes):
        raise ModelError(
            f"{path}: weight file {place!r:.120} is a link to {str(target)!r}, outside the model's folder: put the "
            f"file itself there (cp --remove-destination {str(target)!r} {str(there[0])!r}), or name the model where "
            "its weights lie"
        )
    refuse_missing(there[0])
    return target
