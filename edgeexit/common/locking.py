"""Lock on a bundle's folder: one process at a time changes it.

The lock is a hidden file beside the folder, ``.<folder>.lock``, held with the system's advisory file locks: flock on
POSIX (on NFS the kernel passes it on to the server), a locked byte on Windows. The system releases the lock of a
process that is killed. The file holds nothing and is removed by its holder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from edgeexit.errors import BundleError

WAIT_S = 600.0
"""How long a change waits for another one, which may be copying gigabytes."""
_POLL_S = 0.02
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def lock_path(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


@contextlib.contextmanager
def folder_lock(folder: Path, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold the lock of a folder; its parent must exist. Not reentrant.

    Args:
        folder: its real path, without symbolic links.
        wait_s: longest wait for another holder, in seconds.

    Raises:
        BundleError: another process held it all the time.
        OSError: the lock file cannot be created.
    """
    path = lock_path(folder)
    handle = _acquired(path, wait_s)
    try:
        yield
    finally:
        if os.name == "nt":  # an open file cannot be removed there
            os.close(handle)
            with contextlib.suppress(OSError):
                path.unlink()
        else:
            with contextlib.suppress(OSError):  # removed before release: waiting processes see it
                path.unlink()
            os.close(handle)


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock of a folder (links are followed); creates no file."""
    try:
        handle = os.open(lock_path(Path(os.path.realpath(folder))), os.O_RDONLY)
    except (OSError, ValueError):
        return False
    try:
        return not _try_lock(handle, shared=True)
    except OSError:
        return False
    finally:
        os.close(handle)


def _acquired(path: Path, wait_s: float) -> int:
    end = time.monotonic() + wait_s
    while True:
        handle = _opened(path, end)
        if handle is None:
            continue
        try:
            held = _try_lock(handle)
        except OSError as e:
            if e.errno not in _UNSUPPORTED:
                os.close(handle)
                raise
            warnings.warn(
                f"{path.parent}: this file system has no file locks ({e.strerror}); of two changes at once one may be "
                "lost",
                stacklevel=4,
            )
            return handle
        if held and _is_at(handle, path):
            return handle
        os.close(handle)
        if not held:
            _wait(path, end)


def _opened(path: Path, end: float) -> int | None:
    """The opened lock file, created where it is missing; None = it was removed meanwhile."""
    link = getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | link, 0o666)
    except PermissionError as refused:
        # Another user's lock file: reading is enough for a lock. On Windows one that is being removed.
        try:
            return os.open(path, os.O_RDONLY | link)
        except FileNotFoundError:
            if not os.access(path.parent, os.W_OK):
                raise refused from None
            _wait(path, end)
            return None


def _wait(path: Path, end: float) -> None:
    if time.monotonic() > end:
        raise BundleError(
            f"{path.parent / path.name.removeprefix('.').removesuffix('.lock')}: another process has been changing it "
            f"all the time and holds {path}; nothing was written: try again when it has ended"
        )
    time.sleep(_POLL_S)


def _is_at(handle: int, path: Path) -> bool:
    """Whether the locked file is still the one that others will open."""
    try:
        other = os.open(path, os.O_RDONLY)  # on NFS stat may answer from a cache, open asks the server
    except FileNotFoundError:
        return False
    try:
        return os.path.samestat(os.fstat(handle), os.fstat(other))
    finally:
        os.close(other)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int, shared: bool = False) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError as e:
            if e.errno in (errno.EACCES, errno.EDEADLK):
                return False
            raise
        return True

else:
    import fcntl

    def _try_lock(handle: int, shared: bool = False) -> bool:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as e:
            if e.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise
        return True
