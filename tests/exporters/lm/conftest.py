"""One export in several precisions, made once: tracing is what takes time."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="exporting a decoder needs torch")
pytest.importorskip("onnxruntime")

from lm_nets import built, text_ids

from edgeexit_exporters.lm import LmExport, LmExportSpec, export_lm
from once import once

PRECISIONS = ("fp32", "int8", "int4", "int4-float", "int8-dynamic")


@pytest.fixture(scope="session")
def made() -> LmExport:
    """The tied decoder with exits after each of its layers, maps and a short list."""
    wish = LmExportSpec(stages=(1, 2), precisions=PRECISIONS, maps=True, shortlist=40)

    def export(folder: Path) -> LmExport:
        return export_lm(built(), folder / "small.edgeexit", wish, tokenizer=None, text=text_ids())

    return once("small-lm", export)
