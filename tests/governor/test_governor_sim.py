"""The governor on a simulated board, and beside a real competitor for this machine's processors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgeexit

pytest.importorskip("benchmarks", reason="the repository's benchmarks are not here")

from benchmarks.sim_governor import simulate
from edgeexit.governor import GovernorSettings
from edgeexit.governor.event_files import read_events
from edgeexit.governor.events import EventLog
from edgeexit.governor.soak import settled_after, soak
from edgeexit.monitor import Reading

ROOT = Path(__file__).parents[2]


def test_the_board_stays_cool_and_deadlines_are_met_with_the_governor() -> None:
    off, on = simulate(False, minutes=6), simulate(True, minutes=6)
    assert off.hottest_c > 84 and off.missed_share > 0.5, "without it, the board must get too hot"
    assert on.hottest_c < 80 and on.over_limit_share == 0 and on.missed_share < 0.01
    assert 0 < off.accuracy - on.accuracy < 0.01
    assert on == simulate(True, minutes=6), "the same every time"


def test_it_keeps_a_temperature_set_point() -> None:
    found = simulate(True, minutes=10, settings=GovernorSettings(curves=(), temperature_c=65.0))
    assert found.hottest_c < 69 and found.missed_share < 0.01


class Nothing:
    def read(self) -> Reading:
        return Reading()


def test_a_soak_with_and_without_the_governor(tmp_path: Path) -> None:
    engine = edgeexit.load(ROOT / "models/bundles/digits.edgeexit", artifact="fused", exit=-1, warmup=5)
    with np.load(ROOT / "models/edgeexit_models/data/optdigits.npz") as file:
        x, y = file["x_test"][:200, None].astype(np.float32), file["y_test"][:200]
    with EventLog(tmp_path / "e.jsonl", engine, every_s=0.1) as log:
        spans = soak(
            engine, {engine.bundle.manifest.inputs[0].name: x}, y, Nothing(), GovernorSettings(interval_s=0.05), log,
            seconds=0.6, deadline_s=1.0, compete=1,
        )  # fmt: skip
    assert [(s.governor, s.competing) for s in spans] == [
        (False, 0),
        (False, 1),
        (False, 0),
        (True, 0),
        (True, 1),
        (True, 0),
    ]
    for s in spans:
        assert s.n > 50 and s.p50_s <= s.p90_s <= s.p99_s and sum(s.exit_rates) == pytest.approx(1)
        assert s.missed == 0 and s.accuracy is not None and s.accuracy > 0.9 and s.temperature_c is None
        assert (s.budget is None) == (not s.governor)
    events = read_events(tmp_path / "e.jsonl")
    assert sum(e["n"] for e in events if e["event"] == "window") == sum(s.n for s in spans)
    assert any(e["event"] == "move" for e in events)
    from edgeexit.report.plots.events import events_png

    assert events_png(events, "digits", "here").startswith(b"\x89PNG")


def test_when_a_latency_has_settled() -> None:
    calm = np.full(600, 1.0)
    assert settled_after(calm, 2.0) == 64 and settled_after(calm, None) is None and settled_after(calm, 0.5) is None
    disturbed = np.r_[np.full(200, 5.0), calm]
    found = settled_after(disturbed, 2.0)
    assert found is not None and 200 < found <= 264


def test_half_an_hour_of_inputs_fits_into_memory() -> None:
    """Every window of three million latencies at once would be gigabytes."""
    import tracemalloc

    seconds = np.full(3_000_000, 1.0)
    seconds[:900_000] = 5.0
    tracemalloc.start()
    found = settled_after(seconds, 2.0)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is not None and 900_000 <= found <= 901_000 and most < 200e6
