"""Export of decoder language models: a file per stage, one head, an embedding, and what was proved of them."""

from edgeexit_exporters.lm.exporting import LmExport, export_lm
from edgeexit_exporters.lm.spec import LmExportSpec

__all__ = ["LmExport", "LmExportSpec", "export_lm"]
