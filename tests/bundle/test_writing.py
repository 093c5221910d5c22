"""Nothing is ever half-written: whatever happens in between, the old bundle stands and nothing else is left."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.bundle.bundle import Bundle, write_bundle
from edgeexit.bundle.files import MANIFEST
from edgeexit.common import files
from edgeexit.errors import BundleError, EdgeExitError
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.policy.policies import Threshold


def contents(bundle: Path) -> dict[str, bytes]:
    return {f.relative_to(bundle).as_posix(): f.read_bytes() for f in sorted(bundle.rglob("*")) if f.is_file()}


def parts(tiny: Path) -> tuple[dict[str, bytes], Any]:
    bundle = Bundle.open(tiny)
    return {f.path: (tiny / f.path).read_bytes() for f in bundle.manifest.files}, bundle.manifest


POINT = OperatingPoint("new", Threshold((0.5, 0.5)), "onnx-fused-fp32")
FAILURES: dict[str, tuple[Callable[[], BaseException], type[BaseException]]] = {
    "a bug": (lambda: RuntimeError("bug"), RuntimeError),
    "Ctrl-C": (KeyboardInterrupt, KeyboardInterrupt),
    "a full disk": (lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), BundleError),
}


def fail_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, make: Callable[[], BaseException], n: int) -> None:
    """The n-th call (from 0) of a function raises."""
    real, calls = getattr(owner, name), [0]

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == n + 1:
            raise make()
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)


STEPS = [  # what fails, at which call
    (Path, "write_bytes", 0),
    (Path, "write_text", 0),
    (os, "fsync", 0),
    (os, "fsync", 5),
    (os, "chmod", 0),
    (Path, "rename", 0),
    (Path, "rename", 1),
]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize(("owner", "name", "n"), STEPS)
def test_rewriting(copy: Path, monkeypatch: pytest.MonkeyPatch, failure: str, owner: Any, name: str, n: int) -> None:
    bundle, before = Bundle.open(copy), contents(copy)
    make, raised = FAILURES[failure]
    with monkeypatch.context() as patched, pytest.raises(raised):
        if name == "rename":  # where folders cannot change places in one step
            patched.setattr(files, "_exchange", lambda a, b: False)
        fail_at(patched, owner, name, make, n)
        bundle.with_operating_point(POINT)
    assert os.listdir(copy.parent) == [copy.name]
    assert contents(copy) == before
    bundle.with_operating_point(POINT)
    assert "new" in Bundle.open(copy).manifest.policies
    assert os.listdir(copy.parent) == [copy.name]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("n", [0, 3])
def test_a_new_bundle(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str, n: int) -> None:
    made, manifest = parts(tiny)
    make, raised = FAILURES[failure]
    with monkeypatch.context() as patched, pytest.raises(raised) as e:
        fail_at(patched, Path, "write_bytes", make, n)
        write_bundle(tmp_path / "deep" / "new.edgeexit", made, manifest)
    assert not list((tmp_path / "deep").iterdir())
    if failure == "a full disk":
        assert "No space left on device; nothing was left behind" in str(e.value)
    write_bundle(tmp_path / "deep" / "new.edgeexit", made, manifest)
    assert Bundle.open(tmp_path / "deep" / "new.edgeexit").manifest == manifest


def test_a_manifest_that_could_not_be_read_back_is_not_written(tiny: Path, tmp_path: Path) -> None:
    made, manifest = parts(tiny)
    object.__setattr__(manifest, "name", "")
    with pytest.raises(BundleError, match="name"):
        write_bundle(tmp_path / "new.edgeexit", made, manifest)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_unasked(tiny: Path, copy: Path) -> None:
    made, manifest = parts(tiny)
    before = contents(copy)
    with pytest.raises(BundleError, match=r"exists already; .*--overwrite"):
        write_bundle(copy, made, manifest)
    assert contents(copy) == before


@pytest.mark.parametrize("there", ["file", "folder with work in it"])
def test_only_bundles_are_overwritten(tiny: Path, tmp_path: Path, there: str) -> None:
    """`--overwrite --out .` must not cost anybody a home folder."""
    made, manifest = parts(tiny)
    target = tmp_path / "work"
    if there == "file":
        target.write_text("thesis")
    else:
        target.mkdir()
        (target / "thesis.txt").write_text("thesis")
    with pytest.raises(BundleError, match="is no bundle, so it is not overwritten"):
        write_bundle(target, made, manifest, overwrite=True)
    assert (target if there == "file" else target / "thesis.txt").read_text() == "thesis"


def test_overwriting(tiny: Path, copy: Path, tmp_path: Path) -> None:
    made, manifest = parts(tiny)
    (copy / MANIFEST).write_text("{}")  # a damaged bundle may be replaced
    write_bundle(copy, made, manifest, overwrite=True)
    assert Bundle.open(copy).manifest == manifest
    (tmp_path / "empty").mkdir()
    write_bundle(tmp_path / "empty", made, manifest, overwrite=True)
    assert Bundle.open(tmp_path / "empty").manifest == manifest


def test_a_persons_files_in_the_folder_stay(copy: Path) -> None:
    (copy / "README.md").write_text("mine")
    (copy / "notes").mkdir()
    (copy / "notes" / "a.txt").write_text("mine too")
    Bundle.open(copy).with_operating_point(POINT)
    assert (copy / "README.md").read_text() == "mine"
    assert (copy / "notes" / "a.txt").read_text() == "mine too"


def test_what_the_manifest_no_longer_names_goes(copy: Path) -> None:
    bundle = Bundle.open(copy)
    left = {n: f for n, f in bundle.manifest.policies.items() if n != "half-chain"}
    bundle.rewrite({}, replace(bundle.manifest, policies=left))
    assert not (copy / "policies/half-chain.json").exists()
    assert (copy / "policies/half-fused.json").exists()


def test_behind_a_link_the_bundle_itself_changes(copy: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.edgeexit"
    link.symlink_to(copy)
    Bundle.open(link).with_operating_point(POINT)
    assert link.is_symlink()
    assert "new" in Bundle.open(copy).manifest.policies


def test_a_name_that_could_not_be_read_back(copy: Path) -> None:
    before = contents(copy)
    for name in ("../new", "", ".new", "a/b"):
        with pytest.raises(BundleError):
            Bundle.open(copy).with_operating_point(OperatingPoint(name, POINT.policy))
    assert contents(copy) == before
    assert os.listdir(copy.parent) == [copy.name]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_write_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str, step: str) -> None:
    path = tmp_path / "x.json"
    files.write_atomic(path, "old")
    make, raised = FAILURES[failure]
    expected = EdgeExitError if raised is BundleError else raised
    with monkeypatch.context() as patched, pytest.raises(expected):
        fail_at(patched, os, step, make, 0)
        files.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.json"]
    files.write_atomic(path, "new")
    assert path.read_text() == "new"


def test_modes_follow_the_umask(copy: Path, tmp_path: Path) -> None:
    """mkdtemp's 0700 and mkstemp's 0600 would lock a server's other users out."""
    before = os.umask(0o022)
    try:
        Bundle.open(copy).with_operating_point(POINT)
        files.write_atomic(tmp_path / "x", "x")
    finally:
        os.umask(before)
    assert copy.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


def test_equal_arrays_give_equal_bytes() -> None:
    a = files.npz_bytes(x=np.arange(5), y=np.ones(3))
    assert a == files.npz_bytes(y=np.ones(3), x=np.arange(5)) != files.npz_bytes(x=np.arange(5), y=np.zeros(3))


def test_killed_between_the_two_renames(copy: Path) -> None:
    aside = copy.parent / f".{copy.name}.old.abc"
    aside.mkdir()
    copy.rename(aside / "old")
    with pytest.raises(BundleError, match=rf"interrupted and the old one is whole: mv '{aside}/old' '{copy}'"):
        Bundle.open(copy)


KILLED = """
import os, signal, sys
from pathlib import Path
from edgeexit.bundle.bundle import Bundle
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.policy.policies import Threshold
real, left = os.fsync, int(sys.argv[2])
def fsync(*args):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)
os.fsync = fsync
Bundle.open(sys.argv[1]).with_operating_point(OperatingPoint("new", Threshold((0.5, 0.5))))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("after", [0, 7])
def test_killed(copy: Path, after: int) -> None:
    before = contents(copy)
    found = subprocess.run([sys.executable, "-c", KILLED, str(copy), str(after)], timeout=60)
    assert found.returncode < 0
    assert contents(copy) == before
    Bundle.open(copy)
    # nothing can tidy up after SIGKILL; what is left is hidden and does not look like a bundle
    assert all(p.name.startswith(".tiny.edgeexit.") for p in copy.parent.iterdir() if p != copy)


FULL = """
import resource, signal, sys
from edgeexit.bundle.bundle import Bundle
from edgeexit.errors import BundleError
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.policy.policies import Threshold
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
bundle = Bundle.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    bundle.with_operating_point(OperatingPoint("new", Threshold((0.5, 0.5))))
except BundleError as e:
    print(e)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs resource limits")
def test_the_system_refuses_to_write(copy: Path) -> None:
    before = contents(copy)
    found = subprocess.run([sys.executable, "-c", FULL, str(copy)], capture_output=True, text=True, timeout=60)
    assert "cannot be written: File too large; nothing was left behind" in found.stdout, found.stderr
    assert contents(copy) == before
    assert os.listdir(copy.parent) == [copy.name]


@pytest.mark.skipif(shutil.which("mount") is None or os.name != "posix" or os.getuid() != 0, reason="needs root")
def test_a_really_full_disk(tiny: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        shutil.copytree(tiny, disk / "tiny.edgeexit")  # 16 files in pages of 4 KiB: no second copy fits
        before = contents(disk / "tiny.edgeexit")
        with pytest.raises(BundleError, match="No space left on device; nothing was left behind"):
            Bundle.open(disk / "tiny.edgeexit").with_operating_point(POINT)
        assert contents(disk / "tiny.edgeexit") == before
        assert os.listdir(disk) == ["tiny.edgeexit"]
    finally:
        subprocess.run(["umount", disk], check=True)
