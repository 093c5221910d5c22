"""`edgeexit soak`: refuses before it begins, and leaves nothing running or half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeexit
from edgeexit.errors import DataError
from edgeexit.governor import GovernorSettings
from edgeexit.governor.event_files import read_events
from edgeexit.governor.events import EventLog
from edgeexit.governor.soak import check_soak, soak
from edgeexit.monitor import Reading
from edgeexit.testing import FakeReader

X = np.linspace(-1, 1, 40, dtype=np.float32).reshape(10, 4)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "d.npz", x=X, y=np.arange(10) % 3)
    return tmp_path / "d.npz"


def command(tiny: Path, data: Path, *more: str) -> list[str]:
    out = str(data.parent / "out")
    own = [sys.executable, "-m", "edgeexit", "soak", str(tiny), "--artifact", "chain", "--data", str(data)]
    return [*own, "--out", out, "--minutes", "1", *more]


@pytest.mark.parametrize(
    ("labels", "change", "message"),
    [
        (np.zeros(5, int), {}, "labels of shape"),
        (np.zeros((10, 4), int), {}, "labels of shape"),
        (None, {"rows": {"x": np.full((10, 4), np.nan, np.float32)}}, "NaN"),
        (None, {"rows": {"x": X[:0]}}, "at least one"),
        (None, {"rate": float("nan")}, "rate"),
        (None, {"seconds": float("inf")}, "seconds"),
        (None, {"deadline_s": 0.0}, "deadline"),
    ],
)
def test_refused_before_it_begins(tiny: Path, labels: Any, change: dict[str, Any], message: str) -> None:
    engine = edgeexit.load(tiny, artifact="chain", exit=-1, warmup=2)
    given = {"rows": {"x": X}, "seconds": 1.0, "governed": (True,), "rate": None, "deadline_s": None} | change
    with pytest.raises(edgeexit.errors.EdgeExitError, match=message):
        check_soak(engine, labels=labels, reader=FakeReader(Reading()), settings=GovernorSettings(), **given)


def test_a_pause_does_not_outlast_its_phase(tiny: Path, tmp_path: Path) -> None:
    engine = edgeexit.load(tiny, artifact="chain", exit=-1, warmup=2)
    start = time.monotonic()
    with EventLog(tmp_path / "e.jsonl", engine) as log:
        spans = soak(
            engine,
            {"x": X},
            None,
            FakeReader(Reading()),
            GovernorSettings(),
            log,
            seconds=0.2,
            governed=(False,),
            rate=0.01,
        )
    assert time.monotonic() - start < 5 and [s.n for s in spans] == [1]
    assert sum(e.get("n", 0) for e in read_events(tmp_path / "e.jsonl")) == 1


def test_a_refused_soak_leaves_the_earlier_one_alone(tiny: Path, data: Path) -> None:
    out = data.parent / "out"
    out.mkdir()
    (out / "events.jsonl").write_text("earlier")
    found = subprocess.run(command(tiny, data, "--latency-ms", "0"), capture_output=True, text=True)
    assert found.returncode == 1 and "set-point" in found.stderr and "Traceback" not in found.stderr
    assert (out / "events.jsonl").read_text() == "earlier"


def busy(of: int) -> list[int]:
    """Processes that compete for the soak with this number."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().rstrip(b"\0").endswith(b"\0" + str(of).encode()):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="counts processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_it_leaves_a_log_and_no_process(tiny: Path, data: Path, how: signal.Signals) -> None:
    out = data.parent / "out"
    out.mkdir()
    (out / "soak.json").write_text("of an earlier soak")
    own = command(tiny, data, "--compete", "2", "--minutes", "0.05")
    process = subprocess.Popen(own, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 20
        while len(busy(process.pid)) < 2:
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, how)
        _, said = process.communicate(timeout=10)
        end = time.monotonic() + 5
        while busy(process.pid):
            assert time.monotonic() < end, "the competitors go on"
            time.sleep(0.05)
    finally:
        process.kill()
    assert "Traceback" not in said
    assert read_events(out / "events.jsonl")[-1]["at"] >= 0
    assert not (out / "soak.json").exists(), "a summary of another soak than the log's"
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert json.loads((out / "events.jsonl").read_text().splitlines()[-1])["event"] == "window"


def test_an_input_that_has_fewer_rows(tiny: Path) -> None:
    engine = edgeexit.load(tiny, artifact="chain", exit=-1, warmup=2)
    with pytest.raises(DataError, match="10 rows of 'x', 3 rows of 'z'"):
        check_soak(
            engine, {"x": X, "z": X[:3]}, None, FakeReader(Reading()), GovernorSettings(), 1.0, (False,), None, None
        )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "rates", "policy"),
    [
        ((), None, "operating point half-chain, the only one stored for onnx-chain-fp32"),
        (("--exit", "1"), [0, 1, 0], "exit 1 as asked"),
        (("--exit", "2"), [0, 0, 1], "exit 2 as asked"),
    ],
)
def test_what_decides_where_the_governor_is_off(
    tiny: Path, data: Path, options: tuple[str, ...], rates: list[float] | None, policy: str
) -> None:
    short = command(tiny, data, "--governor", "off", "--minutes", "0.005", "--json", *options)
    document = json.loads(subprocess.run(short, capture_output=True, text=True, check=True).stdout)
    assert document["policy"] == policy
    (span,) = document["spans"]
    exits = [edgeexit.load(tiny, artifact="chain", warmup=0).run(x).exit for x in X]
    assert span["exit_rates"] == (rates or pytest.approx([exits.count(k) / 10 for k in range(3)], abs=0.05))


def test_a_report_of_a_rotated_log(cli: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="draws a figure")

    def part(name: str, at: int) -> None:
        start = {"event": "start", "at": at, "schema": 2, "bundle": "b", "environment": {}}
        window = {"event": "window", "at": at + 5, "n": 10, "exits": [4, 6], "missed": 1}
        (tmp_path / name).write_text(json.dumps(start) + "\n" + json.dumps(window) + "\n")

    for name, at in (("e.jsonl.000002", 20), ("e.jsonl.000003", 30), ("e.jsonl", 40)):
        part(name, at)
    found = cli("report", tmp_path / "e.jsonl", "--json")
    assert found.code == 0 and "begins at 20 s: its older parts were deleted" in found.err
    document = found.json
    assert (document["from_seconds"], document["seconds"], document["inputs"], document["missed"]) == (20, 45, 30, 3)
