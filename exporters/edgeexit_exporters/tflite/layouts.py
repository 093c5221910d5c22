"""TFLite files of each layout: one row per layout says which files of the stages it consists of.

Other packages add rows through the entry-point group ``edgeexit.layouts.tflite``, named as their row in
``edgeexit.layouts``. There is no row for a file of all exits: chain records them as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeexit.bundle.manifest import ExitSpec
from edgeexit.common.plugins import Table
from edgeexit.errors import ModelError
from edgeexit.policy.scores import Kind
from edgeexit_exporters.tflite.fuse import fuse
from edgeexit_exporters.tflite.quantize import PrecisionFile
from edgeexit_exporters.tflite.stage_files import StageFiles

REFERENCE = "chain"
"""The layout that the others of its precision are compared with."""


Transform = Callable[[list[PrecisionFile], Sequence[ExitSpec], str], list[PrecisionFile]]
"""(files of the stages or prefixes, exits, score) -> files of a layout. Raises ModelError where it cannot hold them."""


def _unchanged(files: list[PrecisionFile], exits: Sequence[ExitSpec], score: str) -> list[PrecisionFile]:
    return files


def _fused(files: list[PrecisionFile], exits: Sequence[ExitSpec], score: str) -> list[PrecisionFile]:
    (chain,) = files
    kinds: list[Kind] = ["probs" if e.kind == "probs" else "logits" for e in exits]
    return [PrecisionFile(fuse(chain.file, [e.answer.name for e in exits], score, kinds=kinds), chain.counts)]


@dataclass(frozen=True)
class TfliteLayout:
    """How one layout looks in TFLite."""

    parts: Literal["joined", "chain", "prefixes"]
    """The files of `StageFiles` that it is made of."""
    stem: str
    """Of the files' names where there are several."""
    transform: Transform = _unchanged

    def files(self, stage_files: StageFiles, exits: Sequence[ExitSpec], score: str) -> list[PrecisionFile]:
        """The layout's files, in order. Raises ModelError where it cannot hold them."""
        parts: list[PrecisionFile] = getattr(stage_files, self.parts)
        return self.transform(parts, exits, score)


TFLITE_LAYOUTS: Table[TfliteLayout] = Table(
    "edgeexit.layouts.tflite",
    {
        "fused": TfliteLayout("joined", "model", _fused),
        "chain": TfliteLayout("chain", "stage"),
        "prefix": TfliteLayout("prefixes", "exit"),
    },
    ModelError,
)
