"""A .tflite file: its bytes, with the object tree and the signatures parsed from them once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgeexit.errors import BundleError
from edgeexit_exporters.tflite.file.flatbuffer import Model, read, write
from edgeexit_exporters.tflite.file.signatures import Signature, Tensor, part, signatures


@dataclass(frozen=True)
class TfliteFile:
    """One file; equal files have equal bytes."""

    data: bytes

    @classmethod
    def open(cls, path: Path) -> TfliteFile:
        """The file at `path`.

        Raises:
            BundleError: it cannot be read.
        """
        try:
            return cls(path.read_bytes())
        except OSError as e:
            raise BundleError(f"cannot read {path}: {e.strerror}") from e

    @cached_property
    def model(self) -> Model:
        """The object tree, shared by all readers of the file: to be read only.

        Raises:
            BundleError: see `flatbuffer.read`.
        """
        return read(self.data)

    @cached_property
    def signatures(self) -> dict[str, Signature]:
        """The signatures by name, in the file's order; BundleError as `model`."""
        return signatures(self.model)

    @property
    def tensors(self) -> list[tuple[str, Tensor]]:
        """Name and tensor of every input and output of every signature, in order; BundleError as `model`."""
        return [(n, t) for s in self.signatures.values() for n, t in {**s.inputs, **s.outputs}.items()]

    def part(self, name: str) -> TfliteFile:
        """One signature as a file of its own, with the weights, scales and operator codes that it uses and no others.

        TFLite Micro cannot open a file with a subgraph that nothing calls; a device that never runs the last stage need
        not carry it.

        Raises:
            BundleError: a damaged file.
            ModelError: it has no such signature.
        """
        return TfliteFile(write(part(self.model, name)))
