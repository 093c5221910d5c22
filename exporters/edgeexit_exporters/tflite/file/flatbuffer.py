"""Reading and writing of .tflite files through the public schema; files may be damaged or hostile.

`read` gives the schema's object tree (`ModelT`) after `checked.check` has proven its indices; `write` gives the same
bytes for the same tree, with every weight 16-byte aligned, which the schema asks for and its Python writer does not do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeexit.errors import BackendMissing, BundleError

try:
    import flatbuffers
    from ai_edge_litert import schema_py_generated
except ImportError as e:
    raise BackendMissing(
        f"reading .tflite files needs ai-edge-litert ({e}): pip install 'edgeexit[tflite-export]'"
    ) from e

from edgeexit_exporters.tflite.file.checked import check

schema: Any = schema_py_generated
"""The format's tables, constants and object tree, as its owners generate them; without types."""
Model = Any
"""`ModelT` of the schema."""

IDENTIFIER = b"TFL3"
MAX_BYTES = 2**31 - 1
"""A flatbuffer's offsets reach no further."""
MAX_TABLES = 200_000
"""Tensors, operators, buffers and the like of one file; the largest networks met have some ten thousand."""
_ALIGNMENT = 16


def read(data: bytes) -> Model:
    """Parse a .tflite file.

    Args:
        data: its bytes.

    Returns:
        the schema's `ModelT`; arrays in it are views of `data` and read-only.

    Raises:
        BundleError: not a .tflite file, or one that is truncated, contradicts itself, counts more than its size can
            hold, or keeps weights outside the flatbuffer.
    """
    if len(data) < 16 or data[4:8] != IDENTIFIER:
        raise BundleError(
            f"not a .tflite file: {len(data)} bytes, {bytes(data[4:8])!r} where {IDENTIFIER!r} is expected"
        )
    if len(data) > MAX_BYTES:
        raise BundleError(f"the .tflite file has {len(data)} bytes; the format holds at most {MAX_BYTES}")
    guarded = _Guarded(data)
    try:
        root = schema.Model.GetRootAs(guarded, 0)
        _count(root, len(data))
        model = schema.ModelT.InitFromObj(root)
    except BundleError:
        raise
    except Exception as e:  # the generated reader lets struct, numpy and its own errors out, and has no list of them
        raise BundleError(f"damaged .tflite file: its structure points outside of it ({type(e).__name__}: {e})") from e
    check(model, len(data))
    return model


def inlined(data: bytes) -> bytes:
    """A file of our own tools with the weights that stand behind its flatbuffer moved inside; as it is without such.

    ai-edge-quantizer writes files so from 256 KiB of weights up; `read` refuses them, and so do older engines.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    behind = [b for b in model.buffers if b.offset > 1]
    for buffer in behind:
        buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0
    return write(model) if behind else data


def write(model: Model) -> bytes:
    """The bytes of a .tflite file: the same for the same tree. `model` is left as it is."""
    kept = model.buffers
    total = sum(0 if b.data is None else len(b.data) for b in kept)
    builder = flatbuffers.Builder(1024 + total + total // 8)
    model.buffers = [_Aligned(b) for b in kept]
    try:
        builder.Finish(model.Pack(builder), IDENTIFIER)
    finally:
        model.buffers = kept
    return bytes(builder.Output())


class _Guarded(bytes):
    """A file whose strings may not reach past its end, nor add up to more than a few times its size.

    The generated reader takes strings by slices, which Python cuts off in silence; many tensors that all point at one
    long name would fill any memory.
    """

    _left: int

    def __new__(cls, data: bytes) -> _Guarded:
        guarded = super().__new__(cls, data)
        guarded._left = 4 * len(data)
        return guarded

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            if key.start < 0 or key.stop > len(self):
                raise BundleError(f"damaged .tflite file: a text ends at byte {key.stop} of {len(self)}")
            self._left -= key.stop - key.start
            if self._left < 0:
                raise BundleError("damaged .tflite file: its texts are longer than the file")
        return super().__getitem__(key)


class _Aligned:
    """Writes one buffer with its data on a 16-byte boundary of the file."""

    def __init__(self, buffer: Any) -> None:
        self._data = None if buffer.data is None or len(buffer.data) == 0 else bytes(buffer.data)

    def Pack(self, builder: Any) -> Any:
        offset = 0
        if self._data is not None:
            builder.StartVector(1, len(self._data), _ALIGNMENT)
            builder.head -= len(self._data)
            builder.Bytes[builder.head : builder.head + len(self._data)] = self._data
            offset = builder.EndVector()
        schema.BufferStart(builder)
        if offset:
            schema.BufferAddData(builder, offset)
        return schema.BufferEnd(builder)


def _count(root: Any, size: int) -> None:
    """Refuse more tables than the file can hold, before any is unpacked; and parts nobody here reads."""
    left = min(MAX_TABLES, size // 4)

    def spend(count: int, what: str) -> int:
        nonlocal left
        left -= count
        if left < 0:
            raise BundleError(f"damaged .tflite file: {count} {what} in a file of {size} bytes")
        return count

    if root.ExternalBuffersLength() or root.ExternalBufferGroupsLength():
        raise BundleError("the .tflite file keeps weights in other files; only files that hold their own can be used")
    spend(root.OperatorCodesLength(), "operator codes")
    spend(root.BuffersLength(), "buffers")
    spend(root.MetadataLength(), "metadata")
    for i in range(spend(root.SignatureDefsLength(), "signatures")):
        signature = root.SignatureDefs(i)
        spend(signature.InputsLength() + signature.OutputsLength(), "signature tensors")
    for i in range(spend(root.SubgraphsLength(), "subgraphs")):
        subgraph = root.Subgraphs(i)
        spend(subgraph.OperatorsLength(), "operators")
        for j in range(spend(subgraph.TensorsLength(), "tensors")):
            tensor = subgraph.Tensors(j)
            if tensor.VariantTensorsLength() or tensor.Sparsity() is not None:
                raise BundleError(f"tensor {j} of subgraph {i} is sparse or a variant, which no engine here runs")
