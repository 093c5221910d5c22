"""Export of trained models to bundles: stages, layouts, checks. Needed on the workstation only."""

from edgeexit_exporters.exporting import export

__all__ = ["export"]
