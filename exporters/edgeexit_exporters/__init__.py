"""From a trained model to a bundle: stages, layouts, checks. Needed on the workstation only."""

from edgeexit_exporters.exporting import export

__all__ = ["export"]
