"""Bundles on disk: opening (executes nothing, verifies every file) and changing.

The format is specified in `docs/bundle-format.md`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.archives import unzip
from edgeexit.bundle.codec import from_json, to_json
from edgeexit.bundle.file_spec import FileSpec
from edgeexit.bundle.files import MANIFEST, copy_file, describe, version_of, write_into
from edgeexit.bundle.manifest import Artifact, Manifest
from edgeexit.bundle.merging import check_unchanged, merged
from edgeexit.bundle.shipped import is_shipped, locate, shipped_names
from edgeexit.common import files
from edgeexit.common.locking import folder_lock, is_locked
from edgeexit.errors import BundleError, PolicyError
from edgeexit.policy.operating_point import OperatingPoint

MAX_ARRAY_BYTES = 1 << 30
_REOPEN_S = 10.0
"""How long opening is repeated while the bundle keeps being replaced."""

Change = tuple[Mapping[str, bytes], Manifest]
"""Bytes of new and changed files, and the manifest that names them."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """An opened bundle: its folder and its checked manifest."""

    path: Path
    manifest: Manifest
    _version: tuple[int, ...] | None = None
    """Identity of the manifest's file when it was read; see `is_current`."""

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        """Open a bundle folder, a ``.zip`` of one, or a bundle inside the package by its name ("digits").

        A path that exists is never taken for a name. Reads the manifest and compares every file's size and sha256;
        executes nothing. A folder that another process replaces meanwhile is opened again.

        Raises:
            BundleError: missing, damaged, changed, naming files outside itself, or of an unknown schema.
        """
        path = locate(path)
        end = time.monotonic() + _REOPEN_S
        while True:
            try:
                before = version_of(path)
                return cls._open(path)
            except (BundleError, OSError) as e:
                replaced = version_of(path) != before or is_locked(path)
                if not replaced or time.monotonic() > end:
                    if isinstance(e, OSError):
                        raise BundleError(f"{path}: cannot be read: {e.strerror or e}") from e
                    raise
                time.sleep(0.01)

    @classmethod
    def _open(cls, path: Path) -> Bundle:
        if not path.exists():
            known = f"; shipped inside the package: {', '.join(shipped_names())}" if path.name == str(path) else ""
            advice = files.set_aside(path) or f"`edgeexit export` makes one{known}"
            raise BundleError(f"{path}: no such bundle; {advice}")
        if path.is_dir():
            return cls._read(path, path)
        folder = unzip(path, MANIFEST)
        try:
            bundle = cls._read(folder, path)
        except BaseException:
            shutil.rmtree(folder.parent, ignore_errors=True)
            raise
        # The unpacked copy lives as long as this object.
        weakref.finalize(bundle, shutil.rmtree, folder.parent, ignore_errors=True)
        return bundle

    def is_current(self) -> bool:
        """Whether the folder still holds the manifest that was read."""
        return version_of(self.path) == self._version

    @classmethod
    def _read(cls, folder: Path, path: Path) -> Bundle:
        """Read and check a folder; `path` is its name in messages."""
        if not (folder / MANIFEST).is_file():
            raise BundleError(f"{path}: not a bundle, it has no {MANIFEST}")
        if (folder / MANIFEST).is_symlink():
            raise BundleError(f"{path}: {MANIFEST} is a symbolic link; a bundle has none")
        version = version_of(folder)
        bundle = cls(folder, from_json(files.read_json(folder / MANIFEST), f"{path}/{MANIFEST}"), version)
        for spec in bundle.manifest.files:
            bundle._verify(spec, path)
        return bundle

    def file(self, spec: FileSpec) -> Path:
        """Path of a file of the manifest; names are confined to the bundle."""
        return self.path / spec.path

    def _verify(self, spec: FileSpec, shown: Path) -> None:
        """Check one file; `shown` is the bundle as the user named it."""
        place = self.file(spec)
        step = self.path
        for part in PurePosixPath(spec.path).parts:
            step = step / part
            if step.is_symlink():
                raise BundleError(f"{shown}: {spec.path} is or lies behind a symbolic link; a bundle has none")
        if not place.is_file():
            raise BundleError(f"{shown}: {spec.path} is missing; copy or export the bundle again")
        if (size := place.stat().st_size) != spec.bytes:
            raise BundleError(f"{shown}: {spec.path} has {size} bytes, the manifest says {spec.bytes}: truncated?")
        if files.sha256(place) != spec.sha256:
            raise BundleError(f"{shown}: {spec.path} was changed: its sha256 is not the manifest's")

    def arrays(self, spec: FileSpec) -> dict[str, NDArray[Any]]:
        """The arrays of one of the bundle's ``.npz`` files."""
        return files.read_npz(self.file(spec), limit=MAX_ARRAY_BYTES, error=BundleError)

    def examples(self, artifact: Artifact) -> list[dict[str, NDArray[Any]]]:
        """The inputs of an artifact's test vectors, one by one: `(1, ...)` by input name.

        Raises:
            BundleError: the artifact has none, or they do not fit the manifest.
        """
        if artifact.vectors is None:
            raise BundleError(f"{self.path}: {artifact.name} ships no example inputs")
        arrays = self.arrays(artifact.vectors)
        columns = {t.name: arrays.get(f"input_{i}", np.array(0)) for i, t in enumerate(self.manifest.inputs)}
        counts = {len(a) if a.ndim else -1 for a in columns.values()}
        if len(counts) != 1 or -1 in counts:
            raise BundleError(f"{self.path}: {artifact.vectors.path} needs rows of every input: input_0 and so on")
        return [{name: a[i : i + 1] for name, a in columns.items()} for i in range(counts.pop())]

    def operating_point(self, name: str) -> OperatingPoint:
        """An operating point that `calibrate` stored.

        Raises:
            PolicyError: there is none of that name; the message lists what there is.
        """
        spec = self.manifest.policies.get(name)
        if spec is None:
            known = ", ".join(self.manifest.policies) or "none; `edgeexit calibrate` makes one"
            raise PolicyError(f"{self.path}: no operating point {name!r}; it holds: {known}")
        try:
            point = OperatingPoint.from_dict(files.read_json(self.file(spec)))
        except PolicyError as e:
            raise PolicyError(f"{self.path}: {spec.path}: {e}") from e
        if point.artifact is not None:
            self.manifest.artifact(point.artifact)
        return point

    def points_for(self, artifact: str | None = None) -> Iterator[OperatingPoint]:
        """Operating points in the order of preference where none is asked for by name.

        The default (`Manifest.default_policy`) first, then the others as they were stored.

        Args:
            artifact: only points that may run on this one; None = all.

        Raises:
            PolicyError: see `operating_point`; raised when the iteration reaches the point.
        """
        names = self.manifest.policies
        default = self.manifest.default_policy
        for name in names if default is None else dict.fromkeys((default, *names)):
            point = self.operating_point(name)
            if artifact is None or point.artifact in (None, artifact):
                yield point

    def default_point(self, artifact: str | None = None) -> OperatingPoint | None:
        """The operating point to follow where none is asked for; None = there is none.

        The one that the manifest names, else the first that was stored.

        Args:
            artifact: of the points that may run on this artifact; None = of all.

        Raises:
            PolicyError: see `operating_point`.
        """
        return next(self.points_for(artifact), None)

    def update(self, change: Callable[[Bundle], Change]) -> Bundle:
        """Change the bundle as it is on the disk now; a failure leaves it unchanged.

        One process at a time: others wait, and `change` sees what they wrote.

        Args:
            change: called with the current bundle; returns bytes of new and changed files, and the manifest. Its
                exceptions are passed on.

        Raises:
            BundleError: the bundle was opened from a ``.zip`` or is part of the package, another process changes it all
                the time, or the disk refuses.
        """
        if self.path.suffix == ".unzipped":
            raise BundleError("a .zip bundle cannot be changed in place; unzip it first")
        if is_shipped(self.path):
            raise BundleError(f"{self.path}: is part of the installed package; copy this folder and change the copy")
        try:
            with folder_lock(Path(os.path.realpath(self.path))):
                now = Bundle(self.path, from_json(files.read_json(self.path / MANIFEST), f"{self.path}/{MANIFEST}"))
                changed, manifest = change(now)
                with files.atomic_folder(self.path, overwrite=True, locked=True) as folder:
                    for name in now._others():
                        copy_file(self.path / name, folder / name)
                    for spec in manifest.files:  # what only the old manifest named stays behind
                        if spec.path not in changed:
                            copy_file(self.file(spec), folder / spec.path)
                    write_into(folder, changed, manifest)
                return Bundle(self.path, manifest, version_of(self.path))
        except OSError as e:
            raise BundleError(f"{self.path}: cannot be written: {e.strerror or e}; nothing was left behind") from e

    def rewrite(self, changed: Mapping[str, bytes], manifest: Manifest) -> Bundle:
        """Replace files and manifest in one step; a failure leaves the bundle unchanged.

        Changes of other parts by other processes since this bundle was opened are kept.

        Raises:
            BundleError: as `update`; or another process changed the same part, or an artifact whose operating points
                or scores are among the changes.
        """

        def change(now: Bundle) -> Change:
            def artifact_of(spec: FileSpec) -> str | None:
                mine = changed.get(spec.path)
                data = mine if mine is not None and describe(spec.path, mine) == spec else now.file(spec).read_bytes()
                try:
                    artifact = json.loads(data)["artifact"]
                except (ValueError, KeyError, TypeError, RecursionError) as e:
                    raise BundleError(f"{self.path}: {spec.path} is not an operating point: {e}") from e
                return artifact if isinstance(artifact, str) else None

            return changed, merged(self.manifest, manifest, now.manifest, artifact_of, self.path)

        return self.update(change)

    def become(self, other: Bundle) -> Bundle:
        """Take over everything of a changed copy of this bundle in one step.

        Raises:
            BundleError: as `rewrite`.
        """
        own = {(f.path, f.sha256) for f in self.manifest.files}
        changed = {f.path: other.file(f).read_bytes() for f in other.manifest.files if (f.path, f.sha256) not in own}
        return self.rewrite(changed, other.manifest)

    def _others(self) -> list[str]:
        """Files in the folder that the manifest does not name, e.g. a README."""
        own = {MANIFEST, *(f.path for f in self.manifest.files)}
        paths = (p for p in sorted(self.path.rglob("*")) if p.is_file() and not p.is_symlink())
        return [name for p in paths if (name := p.relative_to(self.path).as_posix()) not in own]

    def with_operating_point(self, point: OperatingPoint, *, default: bool | None = None) -> Bundle:
        """Store an operating point (one of the same name is replaced).

        Args:
            point: calibrated on the artifact as it is in this bundle.
            default: True = it becomes the default, False = it is not the default (any more); None = the default stays
                what it was, and the first point of a bundle becomes it.

        Raises:
            BundleError: as `update`; or its artifact was changed by another process, so that it does not hold.
        """
        data = (json.dumps(point.to_dict(), indent=1) + "\n").encode()
        spec = describe(f"policies/{point.name}.json", data)

        def change(now: Bundle) -> Change:
            m = now.manifest
            if point.artifact is not None:
                check_unchanged(self.manifest, m, point.artifact, self.path)
            name = m.default_policy
            if default or (default is None and not set(m.policies) - {point.name}):
                name = point.name
            elif default is False and name == point.name:
                name = None
            m = replace(m, policies={**m.policies, point.name: spec}, default_policy=name)
            from_json(to_json(m))  # refuses a name that could not be read back
            return {spec.path: data}, m

        return self.update(change)


def write_bundle(
    path: Path | str, contents: Mapping[str, bytes], manifest: Manifest, *, overwrite: bool = False
) -> Bundle:
    """Write a new bundle whole or not at all.

    Args:
        path: the bundle's folder.
        contents: the bytes of every file that the manifest names.
        manifest: what it holds.
        overwrite: replace a bundle that is there.

    Raises:
        BundleError: `path` exists (or, with `overwrite`, is anything but a bundle or an empty folder), or the
            disk refuses.
    """
    with writing_bundle(path, overwrite=overwrite) as folder:
        write_into(folder, contents, manifest)
    return Bundle(Path(path), manifest, version_of(Path(path)))


@contextlib.contextmanager
def writing_bundle(path: Path | str, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a folder that becomes the bundle when the block ends well: for files too large to hold them all.

    The block writes every file and, with `write_into`, the manifest.

    Raises:
        BundleError: as `write_bundle`.
    """
    path = Path(path)
    if overwrite and path.exists() and not _replaceable(path):
        raise BundleError(f"{path}: exists and is no bundle, so it is not overwritten; choose another name")
    with files.atomic_folder(path, overwrite=overwrite) as folder:
        yield folder


def _replaceable(path: Path) -> bool:
    return path.is_dir() and ((path / MANIFEST).is_file() or not any(path.iterdir()))
