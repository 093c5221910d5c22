"""Bundles on disk: open one (executing nothing, trusting nothing), and add to one.

The format is specified in `docs/bundle-format.md`.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit import files
from edgeexit.errors import BundleError, PolicyError
from edgeexit.manifest import MAX_FILE_BYTES, FileSpec, Manifest
from edgeexit.manifest_json import from_json, to_json
from edgeexit.operating_point import OperatingPoint

MANIFEST = "manifest.json"
MAX_ARRAY_BYTES = 1 << 30
MAX_ZIP_ENTRIES = 4096


@dataclass(frozen=True, eq=False)
class Bundle:
    """An opened bundle: its folder and its checked manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        """Open a bundle folder, or a ``.zip`` of one.

        Reads the manifest and compares every file's size and sha256; executes nothing.

        Raises:
            BundleError: missing, damaged, changed, naming files outside itself, or of an unknown schema.
        """
        path = Path(path)
        try:
            if not path.exists():
                raise BundleError(f"{path}: no such bundle; {files.set_aside(path) or '`edgeexit export` makes one'}")
            if path.is_dir():
                return cls._read(path, path)
            folder = _unzip(path)
            try:
                bundle = cls._read(folder, path)
            except BaseException:
                shutil.rmtree(folder.parent, ignore_errors=True)
                raise
        except OSError as e:
            raise BundleError(f"{path}: cannot be read: {e.strerror or e}") from e
        # The unpacked copy lives as long as this object.
        weakref.finalize(bundle, shutil.rmtree, folder.parent, ignore_errors=True)
        return bundle

    @classmethod
    def _read(cls, folder: Path, path: Path) -> Bundle:
        """Check a folder that was given as `path`."""
        if not (folder / MANIFEST).is_file():
            raise BundleError(f"{path}: not a bundle, it has no {MANIFEST}")
        if (folder / MANIFEST).is_symlink():
            raise BundleError(f"{path}: {MANIFEST} is a symbolic link; a bundle has none")
        bundle = cls(folder, from_json(files.read_json(folder / MANIFEST), f"{path}/{MANIFEST}"))
        for spec in bundle.manifest.files:
            bundle._verify(spec, path)
        return bundle

    def file(self, spec: FileSpec) -> Path:
        """Where a file of the manifest lies; names are confined to the bundle."""
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

    def rewrite(self, changed: Mapping[str, bytes], manifest: Manifest) -> Bundle:
        """Replace files and manifest in one step; what fails leaves the bundle as it was.

        Raises:
            BundleError: the bundle was opened from a ``.zip``, or the disk refuses.
        """
        if self.path.suffix == ".unzipped":
            raise BundleError("a .zip bundle cannot be changed in place; unzip it first")
        with files.atomic_folder(self.path, overwrite=True) as folder:
            for name in self._others():
                _copy(self.path / name, folder / name)
            for spec in manifest.files:  # what only the old manifest named stays behind
                if spec.path not in changed:
                    _copy(self.file(spec), folder / spec.path)
            write_into(folder, changed, manifest)
        return Bundle(self.path, manifest)

    def become(self, other: Bundle) -> Bundle:
        """Take over everything of a changed copy of this bundle in one step.

        Raises:
            BundleError: as `rewrite`.
        """
        own = {(f.path, f.sha256) for f in self.manifest.files}
        changed = {f.path: other.file(f).read_bytes() for f in other.manifest.files if (f.path, f.sha256) not in own}
        return self.rewrite(changed, other.manifest)

    def _others(self) -> list[str]:
        """Files in the folder that are not the bundle's: a README that a person put there."""
        own = {MANIFEST, *(f.path for f in self.manifest.files)}
        found = (p for p in sorted(self.path.rglob("*")) if p.is_file() and not p.is_symlink())
        return [name for p in found if (name := p.relative_to(self.path).as_posix()) not in own]

    def with_operating_point(self, point: OperatingPoint) -> Bundle:
        """Store an operating point (one of the same name is replaced)."""
        data = (json.dumps(point.to_dict(), indent=1) + "\n").encode()
        spec = describe(f"policies/{point.name}.json", data)
        manifest = replace(self.manifest, policies={**self.manifest.policies, point.name: spec})
        from_json(to_json(manifest))  # refuses a name that could not be read back
        return self.rewrite({spec.path: data}, manifest)


def describe(path: str, data: bytes) -> FileSpec:
    """The manifest's entry for a file of these bytes."""
    import hashlib

    return FileSpec(path, hashlib.sha256(data).hexdigest(), len(data))


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
    return Bundle(Path(path), manifest)


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


def write_into(folder: Path, contents: Mapping[str, bytes], manifest: Manifest) -> None:
    """Write files and the manifest, which is checked first, into a folder of `writing_bundle`."""
    document = to_json(manifest)
    from_json(document)
    for name, data in contents.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    (folder / MANIFEST).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _unzip(path: Path) -> Path:
    """Unpack into a temporary folder: names confined, sizes bounded, no links."""
    home = Path(tempfile.mkdtemp(prefix="edgeexit-"))
    folder = home / "bundle.unzipped"
    folder.mkdir()
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ZIP_ENTRIES or sum(e.file_size for e in entries) > MAX_FILE_BYTES:
                raise BundleError(f"{path}: too many or too large entries for a bundle")
            names = [e.filename for e in entries if not e.is_dir()]
            # `zip -r kws.zip kws.edgeexit` puts everything one folder down.
            top = {n.split("/", 1)[0] for n in names}
            strip = f"{next(iter(top))}/" if MANIFEST not in names and len(top) == 1 else ""
            for entry in entries:
                name = entry.filename.removeprefix(strip)
                if entry.is_dir():
                    continue
                parts = PurePosixPath(name).parts
                if not parts or name.startswith("/") or "\\" in name or ":" in name or ".." in parts:
                    raise BundleError(f"{path}: entry {entry.filename!r} would leave the bundle")
                target = folder.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, target.open("wb") as out:
                    _pour(source, out, entry.file_size, path)
    except BaseException as e:
        shutil.rmtree(home, ignore_errors=True)
        if isinstance(e, Exception) and not isinstance(e, BundleError):  # zipfile and zlib raise a dozen kinds
            raise BundleError(f"{path}: not a bundle folder nor a readable .zip of one: {e}") from e
        raise
    return folder


def _pour(source: Any, out: Any, most: int, path: Path) -> None:
    left = most
    while block := source.read(1 << 20):
        left -= len(block)
        if left < 0:
            raise BundleError(f"{path}: an entry unpacks to more than it declares")
        out.write(block)


def calibration_arrays(
    scores: NDArray[np.float32], agreement: NDArray[Any], correct: NDArray[Any] | None
) -> dict[str, NDArray[Any]]:
    """The arrays of ``calibration/<artifact>.npz``, from `(exits, n)` to the file's `(n, exits)`."""
    found = {"scores": scores.T, "agreement": agreement.T.astype(np.float32)}
    if correct is not None:
        found["correct"] = correct.T.astype(np.float32)
    return {name: np.ascontiguousarray(a) for name, a in found.items()}
