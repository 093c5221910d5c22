"""From a decoder language model to a bundle: a file per stage, one head, an embedding; and what was proved of them."""

from edgeexit_exporters.lm.exporting import LmExport, LmTarget, export_lm

__all__ = ["LmExport", "LmTarget", "export_lm"]
