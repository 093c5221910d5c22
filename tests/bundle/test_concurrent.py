"""Several processes on one bundle: nothing that was stored is lost, readers never fail, a killed one blocks nobody."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeexit import Bundle, OperatingPoint, Threshold
from edgeexit.bundle.bundle import write_bundle
from edgeexit.bundle.files import describe
from edgeexit.bundle.manifest import Manifest
from edgeexit.common import files, locking
from edgeexit.errors import BundleError

FUSED, CHAIN = "onnx-fused-fp32", "onnx-chain-fp32"
EXCHANGED = [True, False]
"""Whether folders change places in one step, or one after the other as on systems that cannot."""


def point(name: str, artifact: str | None = FUSED, threshold: float = 0.5) -> OperatingPoint:
    return OperatingPoint(name, Threshold((threshold, threshold)), artifact)


def warmed(manifest: Manifest, artifact: str) -> Manifest:
    """With other temperatures on one artifact, and without its points and scores: as `apply_temperatures` leaves it."""
    artifacts = tuple(
        replace(a, temperatures=(2.0,) * 3, calibration=None) if a.name == artifact else a for a in manifest.artifacts
    )
    gone = {FUSED: "half-fused", CHAIN: "half-chain"}[artifact]
    policies = {n: f for n, f in manifest.policies.items() if n != gone}
    return replace(manifest, artifacts=artifacts, policies=policies)


# --- one change on top of another --------------------------------------------------------------------------


def test_a_stale_handle_loses_nothing(copy: Path) -> None:
    bundle = Bundle.open(copy)
    bundle.with_operating_point(point("a"))
    bundle.with_operating_point(point("b", CHAIN))  # of the same, older object
    bundle.rewrite({}, replace(bundle.manifest, labels=("x", "y", "z")))
    found = Bundle.open(copy)
    assert list(found.manifest.policies) == ["half-fused", "half-chain", "a", "b"]
    assert found.manifest.labels == ("x", "y", "z") and found.manifest.default_policy is None


def test_a_change_of_another_part_is_merged(copy: Path) -> None:
    stale = Bundle.open(copy)
    stale.with_operating_point(point("chain", CHAIN), default=True)
    stale.rewrite({}, warmed(stale.manifest, FUSED))
    found = Bundle.open(copy).manifest
    assert list(found.policies) == ["half-chain", "chain"] and found.default_policy == "chain"
    assert [a.temperatures[0] for a in found.artifacts] == [2, 1, 1, 1]


@pytest.mark.parametrize("first", ["temperatures", "point"])
def test_what_cannot_be_merged_is_refused(copy: Path, first: str) -> None:
    stale = Bundle.open(copy)
    if first == "temperatures":
        stale.rewrite({}, warmed(stale.manifest, FUSED))
        before = Bundle.open(copy).manifest
        with pytest.raises(BundleError, match=f"{FUSED} was changed by another process .* calibrate again"):
            stale.with_operating_point(point("late"))
        with pytest.raises(BundleError, match=f"artifact {FUSED} was changed by another process meanwhile"):
            hot = replace(stale.manifest.artifacts[0], temperatures=(3.0,) * 3)
            stale.rewrite({}, replace(stale.manifest, artifacts=(hot, *stale.manifest.artifacts[1:])))
    else:
        stale.with_operating_point(point("early"))
        before = Bundle.open(copy).manifest
        with pytest.raises(BundleError, match=f"{FUSED}, which operating point early belongs to, was changed by"):
            stale.rewrite({}, warmed(stale.manifest, FUSED))
    assert Bundle.open(copy).manifest == before, "nothing was lost"
    assert os.listdir(copy.parent) == [copy.name]
    stale.with_operating_point(point("other", CHAIN))  # another artifact is not concerned
    assert "other" in Bundle.open(copy).manifest.policies


def test_two_changes_of_one_part(copy: Path) -> None:
    stale = Bundle.open(copy)
    Bundle.open(copy).with_operating_point(point("half-fused", FUSED, 0.1))
    left = {n: f for n, f in stale.manifest.policies.items() if n != "half-fused"}
    with pytest.raises(BundleError, match="operating point half-fused was changed by another process meanwhile"):
        stale.rewrite({}, replace(stale.manifest, policies=left))
    stale.rewrite({}, replace(stale.manifest, name="mine"))
    with pytest.raises(BundleError, match="name was changed by another process meanwhile"):
        stale.rewrite({}, replace(stale.manifest, name="yours"))
    stale.rewrite({}, replace(stale.manifest, name="mine"))  # the same change twice is none
    stale.with_operating_point(point("half-fused", FUSED, 0.2))  # a point is replaced, as ever
    found = Bundle.open(copy)
    assert found.manifest.name == "mine" and found.operating_point("half-fused").policy == Threshold((0.2, 0.2))


def test_a_dropped_default_is_none(copy: Path) -> None:
    bundle = Bundle.open(copy).with_operating_point(point("half-fused"), default=True)
    assert bundle.manifest.default_policy == "half-fused"
    stale = Bundle.open(copy)
    found = stale.rewrite({}, warmed(replace(bundle.manifest, default_policy=None), FUSED))
    assert found.manifest.default_policy is None
    Bundle.open(copy).with_operating_point(point("x", CHAIN), default=True)
    assert stale.rewrite({}, stale.manifest).manifest.default_policy == "x"


def test_labelled_rows_stored_meanwhile_stay(copy: Path) -> None:
    np = pytest.importorskip("numpy")
    pytest.importorskip("onnxruntime")
    from edgeexit import load
    from edgeexit.calibrate.on_bundle import store_calibration

    engine = load(copy, artifact="fused", exit=-1, warmup=0)
    x = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    store_calibration(load(copy, artifact="fused", exit=-1, warmup=0), engine.record(x, np.zeros(20, int)))
    store_calibration(engine, engine.record(x))
    bundle = Bundle.open(copy)
    assert "correct" in bundle.arrays(bundle.manifest.artifact(FUSED).calibration)  # type: ignore[arg-type]
    bundle.rewrite({}, warmed(bundle.manifest, FUSED))
    with pytest.raises(BundleError, match="calibrate again"):
        store_calibration(engine, engine.record(x, np.zeros(20, int)))


# --- processes ---------------------------------------------------------------------------------------------

WRITER = """
import sys
from edgeexit.common import files
from edgeexit.bundle.bundle import Bundle
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.policy.policies import Threshold
path, name, count, exchanged = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "True"
if not exchanged:
    files._exchange = lambda a, b: False
bundle = Bundle.open(path)
print("ready", flush=True)
sys.stdin.readline()
for i in range(count):
    bundle.with_operating_point(OperatingPoint(f"{name}-{i}", Threshold((0.5, 0.5)), "onnx-chain-fp32"))
    print(f"{name}-{i}", flush=True)
"""


@contextmanager
def writers(path: Path, count: int, points: int, exchanged: bool = True) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that store points as soon as a line comes to their standard input."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), f"w{k}", str(points), str(exchanged)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for k in range(count)
    ]  # fmt: skip
    try:
        for p in started:
            assert p.stdout is not None and p.stdout.readline() == "ready\n"
        yield started
    finally:
        for p in started:
            p.kill()
            p.communicate()


def go(processes: list[subprocess.Popen[str]]) -> None:
    for p in processes:
        assert p.stdin is not None
        p.stdin.write("go\n")
        p.stdin.flush()


@pytest.mark.parametrize("exchanged", EXCHANGED)
def test_eight_at_once(copy: Path, exchanged: bool) -> None:
    with writers(copy, 8, 2, exchanged) as processes:
        go(processes)
        for p in processes:
            _, err = p.communicate(timeout=120)
            assert p.returncode == 0, err
    found = Bundle.open(copy)
    expected = {f"w{k}-{i}" for k in range(8) for i in range(2)}
    assert set(found.manifest.policies) == {"half-fused", "half-chain"} | expected
    assert all(found.operating_point(n).artifact == CHAIN for n in expected)
    assert os.listdir(copy.parent) == [copy.name]


@pytest.mark.parametrize("exchanged", EXCHANGED)
def test_readers_meanwhile(copy: Path, exchanged: bool) -> None:
    reads, seen = 0, 0
    with writers(copy, 2, 12, exchanged) as processes:
        go(processes)
        while any(p.poll() is None for p in processes):
            count = len(Bundle.open(copy).manifest.policies)
            assert count >= seen, "an older bundle came back"
            reads, seen = reads + 1, count
        assert [p.wait() for p in processes] == [0, 0]
    assert len(Bundle.open(copy).manifest.policies) == 26 and reads > 2


@pytest.mark.parametrize("exchanged", EXCHANGED)
def test_engines_are_loaded_meanwhile(copy: Path, exchanged: bool) -> None:
    pytest.importorskip("onnxruntime")
    from edgeexit import load

    with writers(copy, 2, 8, exchanged) as processes:
        go(processes)
        while any(p.poll() is None for p in processes):
            assert load(copy, artifact="chain", warmup=0).point is not None
        assert [p.wait() for p in processes] == [0, 0]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs SIGKILL, and folders that change places in one step")
def test_killed_at_any_moment(copy: Path) -> None:
    rng = random.Random(0)
    stored = {"half-fused", "half-chain"}
    for turn in range(6):
        with writers(copy, 2, 15) as processes:
            go(processes)
            time.sleep(rng.uniform(0, 0.15))
            os.kill(processes[0].pid, signal.SIGKILL)
            said = [p.communicate(timeout=60)[0].split() for p in processes]
            assert processes[0].returncode == -signal.SIGKILL and processes[1].returncode == 0, "the other one goes on"
        found = set(Bundle.open(copy).manifest.policies)
        assert stored | {n for lines in said for n in lines} <= found, turn
        stored |= set(said[0])
        bundle = Bundle.open(copy)
        bundle.rewrite({}, replace(bundle.manifest, policies={n: bundle.manifest.policies[n] for n in sorted(stored)}))
    assert all(p.name.startswith(f".{copy.name}.") for p in copy.parent.iterdir() if p != copy)


@pytest.mark.parametrize("exchanged", EXCHANGED)
def test_an_export_over_it_stays(copy: Path, tiny: Path, exchanged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new bundle takes the place of the old one while others change that: never half of each, never the old one."""
    fresh = Bundle.open(tiny)
    data = {f.path: fresh.file(f).read_bytes() for f in fresh.manifest.files}
    path = fresh.manifest.artifact(CHAIN).models[0]
    other = describe(path.path, data[path.path] + b"\0")
    data[path.path] += b"\0"
    artifacts = tuple(
        replace(a, models=(other, *a.models[1:])) if a.name == CHAIN else a for a in fresh.manifest.artifacts
    )
    new = replace(fresh.manifest, artifacts=artifacts)
    if not exchanged:
        monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    with writers(copy, 2, 20, exchanged) as processes:
        go(processes)
        time.sleep(0.05)
        write_bundle(copy, data, new, overwrite=True)
        errors = [p.communicate(timeout=60)[1] for p in processes]
    assert all("calibrate again" in e for e, p in zip(errors, processes, strict=True) if p.returncode)
    found = Bundle.open(copy).manifest
    assert found.artifact(CHAIN).models[0] == other
    assert list(found.policies) == ["half-fused", "half-chain"]


# --- the lock ----------------------------------------------------------------------------------------------


def test_who_waits_too_long_is_told(copy: Path) -> None:
    with locking.folder_lock(copy):
        assert locking.is_locked(copy)
        with (
            pytest.raises(BundleError, match=f"{copy}: another process .* holds {locking.lock_path(copy)}"),
            locking.folder_lock(copy, wait_s=0.1),
        ):
            pass
    assert not locking.is_locked(copy)
    with locking.folder_lock(copy, wait_s=0):
        pass
    assert os.listdir(copy.parent) == [copy.name]


def test_a_lock_file_that_was_left_blocks_nobody(copy: Path) -> None:
    locking.lock_path(copy).write_bytes(b"")
    assert not locking.is_locked(copy)
    Bundle.open(copy).with_operating_point(point("a"))
    assert os.listdir(copy.parent) == [copy.name]


def test_a_file_system_without_locks(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locking, "_try_lock", refuse)
    with pytest.warns(UserWarning, match="has no file locks"):
        Bundle.open(copy).with_operating_point(point("a"))
    assert "a" in Bundle.open(copy).manifest.policies
    assert os.listdir(copy.parent) == [copy.name]


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need rights on Windows")
def test_a_link_in_the_place_of_the_lock_is_not_followed(copy: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    locking.lock_path(copy).symlink_to(victim)
    with pytest.raises(BundleError, match="cannot be written"):
        Bundle.open(copy).with_operating_point(point("a"))
    assert not victim.exists() and "a" not in Bundle.open(copy).manifest.policies
