"""Temperatures of an artifact, written into the manifest and into a fused graph's named constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.files import describe
from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.bundle.manifest import Artifact
from edgeexit.errors import BackendMissing, ModelError
from edgeexit_exporters.layouts.fuse import set_temperatures


def apply_temperatures(bundle: Bundle, artifact: str, temperatures: Sequence[float]) -> Bundle:
    """Give an artifact per-exit temperatures; what was calibrated under the old ones is dropped with them.

    Raises:
        ModelError: not one positive temperature per exit.
        BundleError: no such artifact.
    """
    old = bundle.manifest.artifact(artifact)
    if len(temperatures) != len(old.temperatures) or not all(t > 0 for t in temperatures):
        raise ModelError(
            f"{artifact}: expected {len(old.temperatures)} positive temperatures, found {list(temperatures)}"
        )
    changed: dict[str, bytes] = {}
    models = old.models
    if LAYOUTS[old.layout].scored:
        raw = _rewritten(old.format, bundle.file(models[0]).read_bytes(), temperatures)
        models = (describe(models[0].path, raw),)
        changed[models[0].path] = raw
    new = replace(old, temperatures=tuple(float(t) for t in temperatures), models=models, calibration=None)
    default = bundle.manifest.default_policy
    manifest = replace(
        bundle.manifest,
        default_policy=None if default is not None and _made_on(bundle, default, old) else default,
        artifacts=tuple(new if a.name == artifact else a for a in bundle.manifest.artifacts),
        policies={n: f for n, f in bundle.manifest.policies.items() if not _made_on(bundle, n, old)},
    )
    return bundle.rewrite(changed, manifest)


def _rewritten(format_: str, data: bytes, temperatures: Sequence[float]) -> bytes:
    if format_ == "onnx":
        return set_temperatures(data, temperatures)
    try:
        from edgeexit_exporters.tflite.fuse import with_temperatures
    except ImportError as e:
        raise BackendMissing(f"rewriting a .tflite needs {e.name or e}: pip install 'edgeexit[tflite-export]'") from e
    return with_temperatures(data, temperatures)


def _made_on(bundle: Bundle, name: str, artifact: Artifact) -> bool:
    return bundle.operating_point(name).artifact == artifact.name
