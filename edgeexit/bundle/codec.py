"""Manifest as JSON, and strict reading from untrusted JSON.

Fields are declared in `edgeexit.bundle.manifest`, rules between them in `edgeexit.bundle.checks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeexit.bundle.checks import check_parts
from edgeexit.bundle.manifest import FORMAT, SCHEMA, Manifest
from edgeexit.errors import BundleError


def to_json(manifest: Manifest) -> dict[str, Any]:
    """The manifest as JSON-ready data; `from_json` reads it back."""
    return {"format": FORMAT, "schema": SCHEMA, **manifest.to_dict()}


def from_json(data: Any, at: str = "manifest") -> Manifest:
    """Read and check a manifest.

    Args:
        data: what `json.loads` returned.
        at: name of the document, for messages.

    Raises:
        BundleError: not a manifest, of an unknown schema, or with parts that do not fit each other.
    """
    if not isinstance(data, Mapping):
        raise BundleError(f"{at}: expected an object, found {type(data).__name__}")
    if data.get("format") != FORMAT:
        raise BundleError(f"{at}.format: expected {FORMAT!r}, found {data.get('format')!r:.60}")
    if data.get("schema") != SCHEMA or isinstance(data.get("schema"), bool):
        raise BundleError(
            f"{at}: bundle schema {data.get('schema')!r:.40}; this version of EdgeExit knows {SCHEMA}: "
            "export the bundle again, or install the version that wrote it"
        )
    manifest = Manifest.from_dict(data, at)
    check_parts(manifest, at)
    return manifest
