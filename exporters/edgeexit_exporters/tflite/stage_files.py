"""Files of a network's stages and prefixes, converted once and quantized per precision, for TFLite."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from edgeexit_exporters.analysis.analysis import Analysis
from edgeexit_exporters.spec import ExportSpec
from edgeexit_exporters.tflite.buckets import convert_buckets, divide_buckets
from edgeexit_exporters.tflite.convert import convert_chain, convert_prefixes, convert_stage_files
from edgeexit_exporters.tflite.file.tflite_file import TfliteFile
from edgeexit_exporters.tflite.from_torch.stages import TorchStages, divide
from edgeexit_exporters.tflite.quantize import PrecisionFile, quantize_chain, quantize_prefixes
from edgeexit_exporters.tflite.tensors import as_file

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class StageFiles:
    """The files of one precision."""

    stages: TorchStages
    joined: list[PrecisionFile]
    """One file with a signature per stage; empty where no layout needs it."""
    chain: list[PrecisionFile]
    """The same file, or a file per stage."""
    prefixes: list[PrecisionFile]
    """A file per exit; empty where no layout needs them."""

    def quantized(self, precision: str, rows: Arrays | None, spec: ExportSpec) -> StageFiles:
        """These float files in another precision.

        Args:
            precision: of `spec.FORMATS`.
            rows: calibration inputs by name, `(n, ...)`, as the network takes them; None where it needs none.
            spec: ranges, and operations that may stay float.

        Raises:
            ModelError, DataError, BackendMissing: see `quantize.quantize_chain`.
        """
        inputs = None if rows is None else {e.name: as_file(rows[e.name], e) for e in self.stages.inputs}
        allow = [name for name in spec.keep_float if name.isupper()]
        ranges = spec.ranges or "minmax"
        chain = quantize_chain([f.file for f in self.chain], inputs, precision, ranges, allow_float=allow)
        joined = chain
        if self.joined is not self.chain:
            files = [f.file for f in self.joined]
            joined = quantize_chain(files, inputs, precision, ranges, allow_float=allow) if files else []
        prefixes = quantize_prefixes([f.file for f in self.prefixes], inputs, precision, ranges, allow_float=allow)
        return replace(self, joined=joined, chain=chain, prefixes=prefixes)


def convert(
    analysis: Analysis, parts: Collection[str], spec: ExportSpec, axis: str, progress: Callable[[str], None]
) -> StageFiles:
    """The float files that layouts are made of.

    Args:
        analysis: of a network that comes from a torch module.
        parts: fields of `StageFiles` that are needed besides the chain.
        spec: whether each stage has a file, and the buckets.
        axis: the free axis that the buckets are of; empty = there are none.
        progress: called with each step's name.

    Raises:
        ModelError: a stage or an operation that cannot be converted.
        BackendMissing: no converter.
    """
    source = analysis.source
    assert source.module is not None
    progress("dividing the torch module into stages")
    by_size = divide_buckets(source, axis, spec.buckets)
    stages = by_size[0] if by_size else divide(
        source.module, source.inputs, source.exits, source.joint.kinds, source.picks
    )  # fmt: skip
    progress("converting to TFLite")
    if by_size:
        joined = _in_float([convert_buckets(by_size, axis, spec.buckets)])
    else:
        joined = _in_float([convert_chain(stages)] if not spec.stage_files or "joined" in parts else [])
    chain = _in_float(convert_stage_files(stages)) if spec.stage_files and not by_size else joined
    prefixes = _in_float(convert_prefixes(stages) if "prefixes" in parts else [])
    return StageFiles(stages, joined, chain, prefixes)


def _in_float(files: Sequence[TfliteFile]) -> list[PrecisionFile]:
    return [PrecisionFile(f) for f in files]
