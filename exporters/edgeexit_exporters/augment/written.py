"""Export of a network with fitted exits, which are saved if the export fails.

Fitting takes minutes to hours, and what fails comes last. Where an asked-for layout fails, or none works, the network
with its exits is saved as an .onnx file, from which `edgeexit export` goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgeexit.bundle.bundle import Bundle
from edgeexit.common.files import write_atomic
from edgeexit.errors import ModelError
from edgeexit.pictures.preprocess import Preprocess
from edgeexit_exporters.exporting import export_source
from edgeexit_exporters.onnx import pieces, serialize
from edgeexit_exporters.source.source import Source
from edgeexit_exporters.spec import ExportSpec


def export_exits(
    grafted: Source,
    draft: Path,
    out: Path,
    spec: ExportSpec,
    *,
    preprocess: Mapping[str, Preprocess],
    data: Mapping[str, NDArray[Any]],
    progress: Callable[[str], None],
) -> Bundle:
    """Export a network with exits to a draft bundle.

    Args:
        grafted: the network with exits.
        draft: the draft's folder.
        out: the bundle's folder; exits that cannot be exported are saved beside it.
        spec: of the export; what it leaves out is in the manifest's provenance.
        preprocess: by the inputs' names.
        data: rows that files are compared on besides random inputs.
        progress: called with each step's name.

    Raises:
        ModelError: an asked-for layout fails, or none is left that can be run; says where the exits were saved.
    """
    try:
        return export_source(
            grafted, draft, spec, preprocess=preprocess, data=data, exact=(len(grafted.exits) - 1,), progress=progress
        )
    except ModelError as e:
        raise type(e)(f"{e}; {_saved(grafted, out)}") from e


def _saved(grafted: Source, out: Path) -> str:
    """Save the exits, and say where they are."""
    names = ",".join(e.answer for e in grafted.exits)
    path = _free(out.with_name(f"{out.name.removesuffix('.edgeexit')}-exits.onnx"))
    try:
        write_atomic(path, serialize.to_bytes(pieces.all_exits(grafted.model, grafted.tensors), path.name))
    except (ModelError, OSError) as e:
        return f"the fitted exits could not be saved either: {e}"
    return (
        f"the network with its fitted exits is saved: edgeexit export {path} --exits {names} --out {out}, with other "
        "--layouts or a larger --tolerance"
    )


def _free(path: Path) -> Path:
    free, k = path, 2
    while free.exists():
        free, k = path.with_stem(f"{path.stem}-{k}"), k + 1
    return free
