"""Files of a bundle's folder: entries in the manifest, writing, arrays of the stored scores."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.codec import from_json, to_json
from edgeexit.bundle.file_spec import FileSpec
from edgeexit.bundle.manifest import Manifest

MANIFEST = "manifest.json"


def version_of(folder: Path) -> tuple[int, ...] | None:
    """Identity of the folder's manifest file, which every replacement changes; None = it has none."""
    try:
        status = (folder / MANIFEST).stat()
    except (OSError, ValueError):  # an invalid file name
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def describe(path: str, data: bytes) -> FileSpec:
    """The manifest's entry for a file of these bytes."""
    return FileSpec(path, hashlib.sha256(data).hexdigest(), len(data))


def write_into(folder: Path, contents: Mapping[str, bytes], manifest: Manifest) -> None:
    """Write files and the manifest, which is checked first, into a folder of `writing_bundle`."""
    document = to_json(manifest)
    from_json(document)
    for name, data in contents.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    (folder / MANIFEST).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's bytes; missing folders are created."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def calibration_arrays(
    scores: NDArray[np.float32], agreement: NDArray[Any], correct: NDArray[Any] | None
) -> dict[str, NDArray[Any]]:
    """The arrays of ``calibration/<artifact>.npz``, from `(exits, n)` to the file's `(n, exits)`."""
    arrays = {"scores": scores.T, "agreement": agreement.T.astype(np.float32)}
    if correct is not None:
        arrays["correct"] = correct.T.astype(np.float32)
    return {name: np.ascontiguousarray(a) for name, a in arrays.items()}
