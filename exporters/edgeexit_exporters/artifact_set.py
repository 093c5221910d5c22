"""Artifacts of a bundle while it is being made: files, counts of kernels, memory and remarks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from edgeexit.bundle.manifest import Artifact, Manifest
from edgeexit_exporters.int8.sensitivity import LayerSensitivity


@dataclass
class ArtifactSet:
    """Files, and the artifacts they are."""

    contents: dict[str, bytes] = field(default_factory=dict)
    artifacts: list[Artifact] = field(default_factory=list)
    kernels: dict[str, list[list[int]]] = field(default_factory=dict)
    """Artifact -> per stage (or exit, where files are whole): how many operations run quantized, of how many."""
    memory: dict[str, list[dict[str, int]]] = field(default_factory=dict)
    """TFLite artifact -> per file or stage: bytes of flash and of the tensor arena, as TFLite Micro plans it."""
    layers: tuple[LayerSensitivity, ...] = ()
    remarks: list[str] = field(default_factory=list)
    """Notes for the user."""

    left_out: dict[str, str] = field(default_factory=dict)
    """Artifact of the default layouts that failed -> why."""

    def add(self, other: ArtifactSet) -> None:
        self.contents |= other.contents
        self.artifacts += other.artifacts
        self.kernels |= other.kernels
        self.memory |= other.memory
        self.remarks += other.remarks
        self.left_out |= other.left_out

    def into(self, manifest: Manifest) -> Manifest:
        """The manifest of an analysis with these artifacts."""
        notes: dict[str, Any] = {"int8_kernels": self.kernels} if self.kernels else {}
        notes |= {"tflite_memory": self.memory} if self.memory else {}
        notes |= {"remark": "; ".join(self.remarks)} if self.remarks else {}
        notes |= {"left_out": self.left_out} if self.left_out else {}
        return replace(manifest, artifacts=tuple(self.artifacts), provenance={**manifest.provenance, **notes})
