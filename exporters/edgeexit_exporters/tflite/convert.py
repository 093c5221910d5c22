"""Conversion of torch stages to .tflite files with litert-torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgeexit.errors import ModelError
from edgeexit_exporters.tflite import tools
from edgeexit_exporters.tflite.file.tflite_file import TfliteFile
from edgeexit_exporters.tflite.from_torch.pieces import TorchPiece, source_line
from edgeexit_exporters.tflite.from_torch.stages import TorchStages

_OP = re.compile(r"Lowering not found: (?:\w+\.)?(\w+)|call_function\[target=torch\.ops\.\w+\.(\w+)")


def convert_chain(stages: TorchStages) -> TfliteFile:
    """One file with a signature per stage, `stage_0`, `stage_1`, ...; weights are stored once.

    Raises:
        ModelError: an operation that the converter does not know, with the stage and the source line.
        BackendMissing: no converter, or another version of it.
    """
    return convert_pieces(stages.stages, stages.name)


def convert_prefixes(stages: TorchStages) -> list[TfliteFile]:
    """One self-contained file per exit, each with one signature: `exit_0`, `exit_1`, ... Raises as `convert_chain`."""
    return [convert_pieces([p], stages.name) for p in stages.prefixes]


def convert_stage_files(stages: TorchStages) -> list[TfliteFile]:
    """One file per stage, each with one signature: `stage_0`, `stage_1`, ... Raises as `convert_chain`."""
    return [convert_pieces([p], stages.name) for p in stages.stages]


def convert_pieces(pieces: Sequence[TorchPiece], name: str) -> TfliteFile:
    """One file with a signature per piece. Raises as `convert_chain`."""
    litert = tools.converter()
    printed = None
    try:
        with tools.quiet() as printed:
            converter = litert.Converter()
            for piece in pieces:
                converter.add_signature(piece.name, piece.module, sample_kwargs=dict(piece.example))
            return TfliteFile(bytes(converter.convert().model_content()))
    except Exception as e:
        text = printed.getvalue() if printed is not None else ""
        raise ModelError(_reason(e, text, pieces, name)) from e


def _reason(error: Exception, printed: str, pieces: Sequence[TorchPiece], name: str) -> str:
    if len(pieces) > 1:  # which of them is it?
        for piece in pieces:
            try:
                convert_pieces([piece], name)
            except ModelError as e:
                return str(e)
    message = " ".join(f"{error}".split())
    where = f"{pieces[0].name} of {name}" if len(pieces) == 1 else name
    for match in _OP.finditer(f"{error}\n{printed}"):
        op = match[1] or match[2]
        lines = [source_line(str(error)), *(at for called, at in pieces[0].lines if called == op)]
        at = next((f" (called in {line})" for line in lines if line), "")
        return (
            f"{where}: litert-torch cannot convert the operation {op!r}{at}; replace it in the model, or export to ONNX"
        )
    return f"{where}: litert-torch cannot convert it: {message[:200] or type(error).__name__}. Export to ONNX instead"
