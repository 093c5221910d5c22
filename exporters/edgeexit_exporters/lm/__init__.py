"""From a decoder language model to a bundle: a file per stage, one head, an embedding; and what was proved of them."""

from edgeexit_exporters.lm.exporting import LmExport, LmWish, export_lm

__all__ = ["LmExport", "LmWish", "export_lm"]
