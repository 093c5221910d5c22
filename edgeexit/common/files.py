"""Safe parsing of untrusted files, and writing of whole files or none."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.common.locking import folder_lock
from edgeexit.errors import BundleError, DataError, EdgeExitError

MAX_FILE_BYTES = 16 << 30
MAX_JSON_BYTES = 4 << 20
MAX_JSON_DEPTH = 64
MAX_NPZ_BYTES = 4 << 30
"""Sum of a data file's arrays once unpacked; a small file may unpack to much."""


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: Path, error: type[EdgeExitError] = BundleError) -> Any:
    """A JSON document in UTF-8: bounded in size and depth, all numbers finite, no key twice.

    Raises:
        error: unreadable, larger than 4 MiB, or not such a document.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        data = dict(pairs)
        if len(data) != len(pairs):
            raise ValueError("a key stands twice in one object")
        return data

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    def finite(word: str) -> float:
        if not math.isfinite(number := float(word)):
            raise ValueError(f"the number {word:.20} is too large")
        return number

    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise error(f"{path}: {size} bytes of JSON, at most {MAX_JSON_BYTES} are read")
        text = path.read_bytes().decode("utf-8")
        document = json.loads(text, object_pairs_hook=once, parse_constant=refuse, parse_float=finite)
        _check_document(document)
        return document
    except OSError as e:
        raise error(f"{path}: cannot be read: {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:
        raise error(f"{path}: not a valid JSON document: {e}") from e


def _check_document(document: Any) -> None:
    """Raise ValueError for documents that json.loads reads but later steps cannot handle."""
    level = [document]
    for _ in range(MAX_JSON_DEPTH):
        level = [
            child
            for value in level
            if isinstance(value, dict | list)
            for child in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            json.dumps(document, ensure_ascii=False).encode("utf-8")  # half a surrogate pair cannot be written
            return
    raise ValueError(f"nested deeper than {MAX_JSON_DEPTH} levels")


def read_npz(
    path: Path | str, *, limit: int = MAX_NPZ_BYTES, error: type[EdgeExitError] = DataError
) -> dict[str, NDArray[Any]]:
    """All arrays of an ``.npz``; no pickle, so object arrays are refused, and sizes are bounded.

    Raises:
        error: missing, not an npz, truncated, holding object arrays, or larger than `limit` unpacked.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
        if claimed > limit:
            raise error(f"{path}: unpacks to {claimed} bytes, at most {limit} are read")
        with np.load(path, allow_pickle=False) as arrays:
            contents = {name: arrays[name] for name in arrays.files}
    except EdgeExitError:
        raise
    except FileNotFoundError as e:
        raise error(f"{path}: no such file") from e
    except OSError as e:
        raise error(f"{path}: cannot be read: {e.strerror or e}") from e
    except Exception as e:  # damaged files: zipfile, zlib and numpy's header parser raise many kinds
        what = "it holds object arrays, which need pickle" if "allow_pickle" in str(e) else str(e)
        raise error(f"{path}: not a plain .npz of number arrays: {what}; write it with np.savez") from e
    for name, array in contents.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biufUS":
            raise error(f"{path}: {name!r} is not an array of numbers or text")
    return contents


def write_atomic(path: Path | str, data: bytes | str) -> None:
    """Write a file whole or not at all: temporary neighbour, fsync, rename."""
    path = Path(path)
    raw = data.encode() if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as e:
        raise EdgeExitError(f"{path}: cannot be written: {e.strerror or e}") from e
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(raw)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException as e:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(e, OSError):
            raise EdgeExitError(f"{path}: cannot be written: {e.strerror or e}; nothing was left behind") from e
        raise


@contextlib.contextmanager
def atomic_folder(path: Path | str, *, overwrite: bool = False, locked: bool = False) -> Iterator[Path]:
    """Yield a temporary neighbour of `path` that takes its place when the block ends well.

    On any error, Ctrl-C included, the temporary folder goes and `path` stays as it was.

    Args:
        path: the folder.
        overwrite: replace it if it is there.
        locked: the caller holds its `folder_lock`; otherwise it is taken for the replacement.

    Raises:
        BundleError: `path` exists and `overwrite` is false, or the disk refuses the write.
    """
    path = Path(os.path.realpath(path))  # behind a link, the folder itself is replaced
    if path.exists() and not overwrite:
        raise BundleError(f"{path}: exists already; choose another name or pass --overwrite")
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        yield temporary
        _sync(temporary)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o777 & ~umask)
        with contextlib.nullcontext() if locked else folder_lock(path):
            _swap(temporary, path)
    except OSError as e:
        reason = e.strerror or str(e)
        raise BundleError(f"{path}: cannot be written: {reason}; nothing was left behind") from e
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, path: Path) -> None:
    """Move a folder to a path; an old folder there is then in `new`, or deleted."""
    if not path.exists():
        new.rename(path)
        return
    if _exchange(new, path):
        return
    # A folder cannot be renamed over a full one: move that aside, and back if the second rename fails.
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
    try:
        path.rename(aside / "old")
        new.rename(path)
    except BaseException:
        if not path.exists():
            (aside / "old").rename(path)
        raise
    finally:
        with contextlib.suppress(OSError):  # a half-deleted one must not look like those of `set_aside`
            (aside / "old").rename(aside / "replaced")
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two folders in one step, so that readers always find one; False = the system cannot."""
    if sys.platform != "linux":
        return False
    import ctypes

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # a C library without it
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(a), here, os.fsencode(b), ctypes.c_uint(swap)) == 0)


def set_aside(path: Path) -> str | None:
    """How to restore a folder whose replacement was interrupted between its two renames; None = there is none."""
    for old in sorted(path.parent.glob(f".{glob.escape(path.name)}.old.*/old")):
        return f"its replacement was interrupted and the old one is whole: mv '{old}' '{path}'"
    return None


def _sync(folder: Path) -> None:
    for entry in sorted(folder.rglob("*")):
        if entry.is_file():
            with entry.open("rb") as stream:
                os.fsync(stream.fileno())


def npz_bytes(**arrays: NDArray[Any]) -> bytes:
    """An ``.npz`` in memory with fixed time stamps, so that equal arrays give equal bytes."""
    import io

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(arrays[name]), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, member.getvalue())
    return out.getvalue()
