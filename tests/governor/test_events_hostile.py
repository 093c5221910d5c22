"""Event logs on full disks, in missing folders, after power cuts, and logs that somebody else wrote."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import edgeexit
from edgeexit.engine.engine import Engine
from edgeexit.errors import DataError, PolicyError
from edgeexit.governor import read_curves
from edgeexit.governor.event_files import MAX_LINE, read_events, rotated_parts
from edgeexit.governor.events import EventLog

START = '{"event": "start", "at": 0, "schema": 1, "bundle": "b"}\n'


@pytest.fixture
def engine(tiny: Path) -> Engine:
    return edgeexit.load(tiny, artifact="chain", exit=-1, warmup=2)


def test_a_missing_folder_is_named(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written: No such file"):
        EventLog(tmp_path / "none" / "e.jsonl", engine)
    assert engine.observer is None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_stops_no_engine_and_is_told_at_the_end(engine: Engine) -> None:
    log = EventLog("/dev/full", engine, every_s=0.0)
    for _ in range(3):
        engine.run(engine.example()[0])
    with pytest.raises(DataError, match="ends early: No space left"):
        log.close()
    assert engine.observer is None
    log.close()  # again: nothing happens
    with pytest.raises(KeyError), EventLog("/dev/full", engine):
        raise KeyError("told first")


def test_lines_are_added_after_one_that_a_power_failure_cut(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text(START + '{"event": "win')
    with EventLog(path, engine) as log:
        log.write("note", text="x" * MAX_LINE, count=np.int64(3))
        log.write("note", count=np.int64(3), share=np.float32("nan"))
    events = read_events(path)
    assert [e["event"] for e in events] == ["start", "start", "note", "note"]
    assert "left out" in events[2]["text"] and events[3]["count"] == 3 and events[3]["share"] is None


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "note", "at": 1' + "0" * 400 + "}",
        '{"event": "note", "at": 1e308}',
        '{"event": "note", "at": 1, "y": NaN}',
        '{"event": "note", "at": 1, "y": ' + "[" * 30_000 + "}",
        '{"event": "window", "at": 1, "n": "abc"}',
        '{"event": "window", "at": 1, "n": null}',
        '{"event": "window", "at": 1, "n": 1, "exits": ["a"]}',
        '{"event": "window", "at": 1, "n": 1, "exits": [-1, 1]}',
        '{"event": "start", "at": 1, "environment": 5}',
    ],
)
def test_what_could_not_be_drawn_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "e.jsonl").write_text(START + line + "\n")
    with pytest.raises(DataError, match="line 2"):
        read_events(tmp_path / "e.jsonl")


def test_a_figure_of_odd_logs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="draws a figure")
    from edgeexit.report.plots.events import events_png

    more = [{"event": "window", "at": i, "n": 1, "exits": [1] * (1 + i % 3)} for i in range(4)]
    more += [{"event": "note", "at": i, "text": f"${i}_"} for i in range(500)]
    for lines in ([], more[:1], more):
        (tmp_path / "e.jsonl").write_text(START + "".join(json.dumps(e) + "\n" for e in lines))
        assert events_png(read_events(tmp_path / "e.jsonl"), "t", "f").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", '{"temperature_c": [[1' + "0" * 400 + ", 1], [2, 0.5]]}"),
        ("c.toml", "a = " + "[" * 100_000),
        ("c.toml", "temperature_c = [[1979-05-27, 1], [2, 0.5]]"),
        ("c.toml", 'temperature_c = {points = [[1, 1], [2, 0.5]], "' + "x" * 100_000 + '" = 1}'),
    ],
)
def test_hostile_curves(tmp_path: Path, name: str, text: str) -> None:
    if name.endswith(".toml"):
        pytest.importorskip("tomllib", reason="Python 3.11")
    (tmp_path / name).write_text(text)
    with pytest.raises(PolicyError) as found:
        read_curves(tmp_path / name)
    assert len(str(found.value)) < 500


def test_a_log_is_rotated_at_its_size_and_read_in_order(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    with EventLog(path, engine, max_bytes=1 << 18, keep=50) as log:
        for i in range(300):
            log.write("note", text="x" * 10_000, i=i)
    parts = rotated_parts(path)
    assert [p.name for p in parts] == [f"e.jsonl.{n:06d}" for n in range(1, len(parts) + 1)] and len(parts) > 5
    for part in (*parts, path):
        assert part.stat().st_size <= 1 << 18 and part.read_text().endswith("\n")
        assert read_events(part)[0]["event"] == "start", "every part can be read alone"
    events = read_events(path)
    assert [e["i"] for e in events if e["event"] == "note"] == list(range(300)), "no line is lost or doubled"
    assert sum(e["event"] == "start" for e in events) == len(parts) + 1
    times = [e["at"] for e in events]
    assert times == sorted(times)


def test_only_the_newest_parts_of_a_log_are_kept(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    (tmp_path / "e.jsonl.old").write_text("of somebody else")
    for keep, first in ((2, 300), (0, 600)):
        with EventLog(path, engine, max_bytes=1 << 18, keep=keep) as log:
            for i in range(300):
                log.write("note", text="x" * 10_000, i=first + i)
        parts = rotated_parts(path)
        assert len(parts) == keep and sum(p.stat().st_size for p in (*parts, path)) <= (keep + 1) << 18
        notes = [e["i"] for e in read_events(path) if e["event"] == "note"]
        assert notes == list(range(first + 300 - len(notes), first + 300))
        assert keep or read_events(path)[0]["at"] > 0, "the first line says that the beginning is gone"
    assert (tmp_path / "e.jsonl.old").exists()


def test_a_log_after_a_power_failure_during_rotation(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text(START)
    path.rename(tmp_path / "e.jsonl.000001")
    for rest in (None, "", '{"event": "sta'):
        if rest is not None:
            path.write_text(rest)
        assert len(read_events(path)) == 1
    with EventLog(path, engine):
        pass
    assert [e["event"] for e in read_events(path)] == ["start", "start"]
    (tmp_path / "e.jsonl.000003").write_text(START)
    with pytest.raises(DataError, match=r"part 2 of the log is missing"):
        read_events(path)


def test_a_log_that_cannot_be_rotated_ends_there(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.jsonl"
    log = EventLog(path, engine, max_bytes=1 << 18)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    for _ in range(40):
        log.write("note", text="x" * 10_000)
        engine.run(engine.example()[0])
    with pytest.raises(DataError, match="ends early: Permission denied"):
        log.close()
    assert engine.observer is None and len(read_events(path)) > 20 and not rotated_parts(path)


@pytest.mark.parametrize("options", [{"max_bytes": 1000}, {"keep": -1}])
def test_sizes_that_hold_no_log_are_refused(engine: Engine, tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(DataError, match=f"{next(iter(options))}: expected .* found"):
        EventLog(tmp_path / "e.jsonl", engine, **options)
    assert engine.observer is None and not (tmp_path / "e.jsonl").exists()


def test_logs_of_schema_1_are_read_with_the_names_of_today(tmp_path: Path) -> None:
    move = '{"event": "move", "at": 1, "wish": 0.5, "because": "temperature_c", "budget": 0.6}\n'
    (tmp_path / "e.jsonl").write_text(START + move)
    found = read_events(tmp_path / "e.jsonl")[1]
    assert found == {"event": "move", "at": 1, "target": 0.5, "limiting_signal": "temperature_c", "budget": 0.6}
