"""Safe unpacking of a zipped bundle: confined names, bounded sizes, no links."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from edgeexit.common.files import MAX_FILE_BYTES
from edgeexit.errors import BundleError

MAX_ZIP_ENTRIES = 4096


def unzip(path: Path, manifest: str) -> Path:
    """Unpack into a temporary folder, whose parent the caller removes.

    Args:
        path: the archive.
        manifest: name of the file that stands at the top, or in the archive's only folder.

    Raises:
        BundleError: not a .zip, damaged, or with entries that are refused.
    """
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
            strip = f"{next(iter(top))}/" if manifest not in names and len(top) == 1 else ""
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
        if isinstance(e, Exception) and not isinstance(e, BundleError):  # zipfile and zlib raise many kinds
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
