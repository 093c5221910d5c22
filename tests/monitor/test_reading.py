"""What a reading holds, readers through psutil, and the choice of a reader."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import FrozenInstanceError
from types import SimpleNamespace
from typing import Any

import pytest

from edgeexit.errors import BackendMissing
from edgeexit.monitor import SIGNALS, LinuxReader, PsutilReader, Reader, Reading, Throttled, default_reader
from edgeexit.testing import FakeReader


def test_unknown_is_none() -> None:
    empty = Reading()
    assert all(getattr(empty, name) is None for name in SIGNALS) and empty.problems == ()
    assert set(empty.to_dict()) == {"at_seconds", *SIGNALS, "problems"}
    with pytest.raises(FrozenInstanceError):
        empty.power_w = 1.0  # type: ignore[misc]


def test_flags() -> None:
    found = Throttled(0x50005)
    assert found.now == found.since_boot == ("under_voltage", "throttled")
    assert found.under_voltage_now and found.throttled_now and found.under_voltage_since_boot
    assert not (found.frequency_capped_now or found.soft_temperature_limit_now)
    assert not (found.frequency_capped_since_boot or found.soft_temperature_limit_since_boot)
    assert Throttled(0xA0000).since_boot == ("frequency_capped", "soft_temperature_limit")
    assert Throttled(0xA0000).now == () and str(found) == "0x50005"
    for bit, name in enumerate(("under_voltage", "frequency_capped", "throttled", "soft_temperature_limit")):
        assert getattr(Throttled(1 << bit), f"{name}_now") and getattr(Throttled(1 << bit + 16), f"{name}_since_boot")


def test_json() -> None:
    values = {"temperature_c": 61.5, "throttled": Throttled(5), "on_battery": False, "available_bytes": 7}
    found = Reading.checked({"at_seconds": 1.5, **values})
    assert found.problems == ()
    table = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert table["throttled"] == 5 and table["temperature_c"] == 61.5 and table["power_w"] is None
    assert table["problems"] == [] and table["on_battery"] is False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("temperature_c", v) for v in (0, 0.0, -0.0, 0.065, -273.15, 4_294_967.295, math.nan, math.inf, "61", True)],
        *[("battery_percent", v) for v in (-0.1, 100.1, math.nan, -math.inf)],
        *[("cpu_frequency_ratio", v) for v in (0, -1, 5, math.nan)],
        *[("power_w", v) for v in (0, -3.0, 1e9)],
        *[("on_battery", v) for v in (0, 1, "yes")],
        *[("throttled", v) for v in (5, Throttled(-1), Throttled(0xFFFFFFFF))],
        ("cpu_pressure_avg10", 100.5),
        ("load_per_cpu", -0.1),
        ("cpu_quota", 0),
        ("available_bytes", -1),
        ("battery_joules", -1.0),
        ("at_seconds", math.nan),
    ],
)
def test_what_cannot_be(name: str, value: Any) -> None:
    found = Reading.checked({name: value, "memory_pressure_avg10": 3.0}, ("power_w: before",))
    assert getattr(found, name) is None and found.memory_pressure_avg10 == 3.0
    assert found.problems[0] == "power_w: before" and found.problems[1].startswith(f"{name}: ")
    json.dumps(found.to_dict(), allow_nan=False)


def test_zero_where_zero_can_be() -> None:
    zeros = {"load_per_cpu": 0.0, "cpu_pressure_avg10": 0.0, "battery_percent": 0.0, "available_bytes": 0}
    found = Reading.checked(zeros)
    assert found.problems == () and {k: getattr(found, k) for k in zeros} == zeros
    with pytest.raises(TypeError, match="warmth"):
        Reading.checked({"warmth": 1})


def host(**missing: Any) -> SimpleNamespace:
    """A psutil of a laptop, as its documentation describes the answers; None takes a function away."""
    functions = {
        "sensors_temperatures": lambda: {
            "acpitz": [SimpleNamespace(current=27.8)],
            "coretemp": [SimpleNamespace(current=55.0), SimpleNamespace(current=61.0)],
        },
        "cpu_freq": lambda: SimpleNamespace(current=1200.0, min=800.0, max=2400.0),
        "getloadavg": lambda: (3.0, 2.0, 1.0),
        "cpu_count": lambda: 4,
        "virtual_memory": lambda: SimpleNamespace(available=5 << 30),
        "sensors_battery": lambda: SimpleNamespace(percent=63, secsleft=3600, power_plugged=False),
        "Process": lambda: SimpleNamespace(),
    }
    return SimpleNamespace(**{k: f for k, f in (functions | missing).items() if f is not None})


def test_psutil_of_a_laptop() -> None:
    reader = PsutilReader(clock=lambda: 5.0, psutil=host())
    expected = {
        "temperature_c": 61.0,
        "cpu_frequency_ratio": 0.5,
        "load_per_cpu": 0.75,
        "cpu_quota": 4.0,
        "available_bytes": 5 << 30,
        "battery_percent": 63.0,
        "on_battery": True,
    }
    assert reader.read() == Reading(at_seconds=5.0, **expected)
    assert reader.sources.keys() == expected.keys()
    assert reader.unknown.keys() == set(SIGNALS) - expected.keys()


def test_psutil_where_little_is_told() -> None:
    def fails() -> None:
        raise RuntimeError("no sensors")

    small = host(sensors_temperatures=None, sensors_battery=lambda: None, cpu_freq=fails)
    reader = PsutilReader(psutil=small)
    reading = reader.read()
    assert (reading.temperature_c, reading.battery_percent, reading.cpu_frequency_ratio) == (None, None, None)
    assert reading.problems == ("cpu_frequency_ratio: psutil.cpu_freq: RuntimeError no sensors",)
    assert reading.load_per_cpu == 0.75 and "cpu_frequency_ratio" in reader.unknown
    vm = host(cpu_freq=lambda: SimpleNamespace(current=2000.0, max=0.0))
    assert PsutilReader(psutil=vm).read().cpu_frequency_ratio is None  # 0.0 is how psutil says unknown
    pinned = host(Process=lambda: SimpleNamespace(cpu_affinity=lambda: [0, 3]))
    assert PsutilReader(psutil=pinned).read().load_per_cpu == 1.5
    late = PsutilReader(psutil=host(), clock=lambda: math.nan).read()
    assert late.at_seconds is None and late.problems == ("at_seconds: clock: returned no time",)


def test_psutil_that_lies() -> None:
    """The first good source answers, and what the others did is listed."""

    def denied() -> None:
        raise PermissionError(13, "Permission denied")

    lying = host(
        sensors_temperatures=lambda: {
            "cpu_thermal": [SimpleNamespace(current=0.065), SimpleNamespace(current=-274.0)],
            "coretemp": [SimpleNamespace(current=4_294_967.3), SimpleNamespace(current=55.0)],
        },
        virtual_memory=lambda: SimpleNamespace(available=-1, free=1 << 30),
        cpu_freq=lambda: SimpleNamespace(current=1_200_000_000.0, max=2400.0),
        sensors_battery=lambda: SimpleNamespace(percent=255, power_plugged=True),
        Process=lambda: SimpleNamespace(cpu_affinity=denied),
    )
    reading = PsutilReader(psutil=lying).read()
    assert (reading.temperature_c, reading.available_bytes, reading.load_per_cpu) == (55.0, 1 << 30, 0.75)
    assert (reading.cpu_frequency_ratio, reading.battery_percent, reading.on_battery) == (None, None, False)
    for said in (
        "cpu_thermal: 0.065 C",
        "-274 C",
        "4294967 C",
        "available: -1 bytes",
        "500000 is implausible",
        "255 %",
        "denied",
    ):
        assert any(said in problem for problem in reading.problems), said


def test_load_on_windows_begins_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    reader = PsutilReader(psutil=host(getloadavg=lambda: (0.0, 0.0, 0.0)))
    assert reader.read().load_per_cpu is None and "load_per_cpu" in reader.sources
    reader._born -= 6
    assert reader.read().load_per_cpu == 0.0


def test_psutil_itself() -> None:
    pytest.importorskip("psutil", reason="psutil is not installed: pip install 'edgeexit[monitor]'")
    reading = PsutilReader().read()
    assert reading.available_bytes and reading.cpu_quota


def test_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(BackendMissing, match=r"on darwin: pip install 'edgeexit\[monitor\]'"):
        default_reader()
    monkeypatch.setitem(sys.modules, "psutil", host())
    assert isinstance(default_reader(), PsutilReader)
    monkeypatch.setattr(sys, "platform", "linux")
    assert isinstance(default_reader(), LinuxReader) and default_reader().name == "Linux (/proc, /sys)"


def test_fake_reader() -> None:
    hot, cool = Reading(temperature_c=80.0), Reading(temperature_c=50.0)
    fake: Reader = FakeReader(hot, OSError("dead"), cool)
    assert fake.read() is hot
    with pytest.raises(OSError, match="dead"):
        fake.read()
    assert fake.read() is fake.read() is cool
    with pytest.raises(ValueError, match="at least one"):
        FakeReader()
