"""Units of sensors, and second sources where the first is dead or lies."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import monitor_trees as trees
from edgeexit.monitor import LinuxReader, Throttled
from edgeexit.testing import FakeClock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="reads the files of Linux")


def reader(root: Path, tree: dict[str, str]) -> LinuxReader:
    return LinuxReader(trees.write(root, tree), None, slow_seconds=0)


ZONE, BATTERY, CPU = (
    "sys/class/thermal/thermal_zone",
    "sys/class/power_supply/BAT",
    "sys/devices/system/cpu/cpufreq/policy",
)
OLD_MEMORY = "MemTotal: 4000 kB\nMemFree: 1000 kB\nBuffers: 100 kB\nCached: 500 kB\nShmem: 50 kB\n"
SECOND: dict[str, tuple[dict[str, str | None], str, Any, str]] = {
    # what is damaged (None = gone) and added: the field, its value from the second source, the problem of the first
    "zone of another kind": ({f"{ZONE}0/temp": "garbage"}, "temperature_c", 61.0, "thermal_zone0 (cpu-thermal)"),
    "zone that lies": ({f"{ZONE}0/temp": "-274000"}, "temperature_c", 61.0, "-274 C is implausible"),
    "hwmon": ({f"{ZONE}0/temp": "0", f"{ZONE}1/temp": None}, "temperature_c", 48.199, "exactly 0 C"),
    "other clock file": (
        {f"{CPU}0/scaling_cur_freq": "?", f"{CPU}0/cpuinfo_cur_freq": "900000"},
        "cpu_frequency_ratio",
        0.5,
        "policy0 scaling_cur_freq",
    ),
    "slower cores": (
        {f"{CPU}0/scaling_cur_freq": None, f"{CPU}4/cpuinfo_max_freq": "1000000", f"{CPU}4/scaling_cur_freq": "250000"},
        "cpu_frequency_ratio",
        0.25,
        "policy0 scaling_cur_freq",
    ),
    "pressure of the group": (
        {"proc/pressure/cpu": "?", "sys/fs/cgroup/cpu.pressure": "some avg10=7.50 avg60=0.00 avg300=0.00 total=1\n"},
        "cpu_pressure_avg10",
        7.5,
        "pressure cpu",
    ),
    "quota of the other version": (
        {
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "?",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        "cpu_quota",
        0.5,
        "cpu.cfs_quota_us",
    ),
    "old kernel's memory": ({"proc/meminfo": OLD_MEMORY}, "available_bytes", 1550 * 1024, "no MemAvailable"),
    "memory that lies": (
        {"proc/meminfo": OLD_MEMORY + "MemAvailable: 4001 kB\n"},
        "available_bytes",
        1550 * 1024,
        "MemAvailable: 4097024 bytes of 4096000",
    ),
    "number of CPUs": ({"sys/devices/system/cpu/online": "?"}, "load_per_cpu", 0.2, "cpu/online"),
    "level from energies": (
        {f"{BATTERY}0/capacity": "255", f"{BATTERY}0/charge_full": "5000000"},
        "battery_percent",
        80.0,
        "BAT0 capacity: 255 % is implausible",
    ),
    "other battery's level": (
        {f"{BATTERY}0/capacity": None, f"{BATTERY}1/type": "Battery", f"{BATTERY}1/capacity": "40"},
        "battery_percent",
        40.0,
        "BAT0 capacity",
    ),
    "other voltage": (
        {f"{BATTERY}0/voltage_now": "0", f"{BATTERY}0/voltage_avg": "11000000"},
        "power_w",
        16.5,
        "BAT0 voltage_now",
    ),
    "power from the current": ({f"{BATTERY}0/power_now": "garbage"}, "power_w", 18.0, "BAT0 power_now"),
    "power in mW": ({f"{BATTERY}0/power_now": "18000"}, "power_w", 18.0, "BAT0 power_now: 0.018 W is implausible"),
    "power that is stuck": ({f"{BATTERY}0/power_now": "0"}, "power_w", 18.0, "BAT0 power_now: 0 W is implausible"),
    "full battery that is dead": (
        {f"{BATTERY}0/charge_full": "?"},
        "battery_joules",
        4 * 12 * 3600.0,
        "BAT0 charge_full: expected a number",
    ),
    "power that wraps": ({f"{BATTERY}0/power_now": "4294967295"}, "power_w", 18.0, "4294967295: 4294.967 W"),
    "mean current": (
        {f"{BATTERY}0/current_now": "65149000", f"{BATTERY}0/current_avg": "1000000"},
        "power_w",
        12.0,
        "65149000: 65.149 A is implausible",
    ),
    "other battery's power": (
        {f"{BATTERY}0/current_now": None, f"{BATTERY}1/type": "Battery", f"{BATTERY}1/power_now": "5000000"},
        "power_w",
        5.0,
        "BAT0 current_now",
    ),
    "supply": ({f"{BATTERY}0/status": "garbage"}, "on_battery", True, "BAT0 status: expected Discharging"),
    "battery": ({"sys/class/power_supply/AC/online": "9"}, "on_battery", True, "AC: 9 is implausible"),
}


@pytest.mark.parametrize("name", SECOND)
def test_a_second_source_answers_and_the_problem_stays_listed(tmp_path: Path, name: str) -> None:
    damage, field, expected, problem = SECOND[name]
    # discovered whole, then damaged; and damaged from the start
    whole = {path: trees.EVERY.get(path, said or "") for path, said in damage.items()}
    found = reader(tmp_path, trees.EVERY | {p: s or trees.EVERY.get(p, "") for p, s in whole.items()})
    for path, said in damage.items():
        if said is None:
            (tmp_path / path).unlink()
        else:
            (tmp_path / path).write_text(said)
    for again in (False, True):
        if again or name == "number of CPUs":  # counted once, in the constructor
            found.discover()
        reading = found.read()
        assert getattr(reading, field) == pytest.approx(expected)
        gone = again and None in damage.values()  # a file that is not here is no problem
        assert gone or any(problem in p for p in reading.problems), reading.problems
        assert field in found.sources and field not in found.unknown


@pytest.mark.parametrize(
    ("said", "expected"),
    [("65", 65.0), ("1", 1.0), ("150", 150.0), ("-20", -20.0), ("65000", 65.0), ("1500", 1.5), ("-5000", -5.0)],
)
def test_whole_degrees_of_vendor_kernels(tmp_path: Path, said: str, expected: float) -> None:
    """docs/decisions/sensor-units.md"""
    found = reader(tmp_path, {f"{ZONE}0/type": "cpu_thermal_zone\n", f"{ZONE}0/temp": said + "\n"})
    assert found.read().temperature_c == expected and found.read().problems == ()


@pytest.mark.parametrize("said", ["151", "650", "999", "-274", "-41"])  # tenths, or within 1 C of freezing, or a lie
def test_degrees_of_no_certain_unit(tmp_path: Path, said: str) -> None:
    reading = reader(tmp_path, {f"{ZONE}0/type": "cpu-thermal", f"{ZONE}0/temp": said}).read()
    assert reading.temperature_c is None and len(reading.problems) == 1
    assert "thermal_zone0 (cpu-thermal)" in reading.problems[0] and said in reading.problems[0]


def test_small_thousandths_are_not_taken_for_whole_degrees(tmp_path: Path) -> None:
    found = reader(tmp_path, {f"{ZONE}0/type": "cpu-thermal", f"{ZONE}0/temp": "4000"})
    assert found.read().temperature_c == 4.0
    (tmp_path / f"{ZONE}0/temp").write_text("65")
    reading = found.read()
    assert reading.temperature_c is None and "0.065 C, as of whole degrees" in reading.problems[0]
    (tmp_path / f"{ZONE}0/temp").write_text("-650")
    assert found.read().temperature_c == -0.65


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(("microamperes", "watts"), [(-387_000, 3.0186), (387_000, 3.0186), (-30_000_000, 234.0)])
def test_currents_without_their_sign(tmp_path: Path, bits: int, microamperes: int, watts: float) -> None:
    """A gauge that writes its signed current as unsigned: -387 mA as 4294580296 uA."""
    tree = trees.LAPTOP | {
        f"{BATTERY}0/voltage_now": "7800000",
        f"{BATTERY}0/current_now": str(microamperes % (1 << bits)),
    }
    reading = reader(tmp_path, tree).read()
    assert reading.power_w == pytest.approx(watts) and reading.problems == ()


@pytest.mark.parametrize(
    ("files", "field", "problem"),
    [
        ({"power_now": "12000"}, "power_w", "0.012 W is implausible while a battery is drained"),  # mW
        ({"power_now": "12000000000"}, "power_w", "12000000000: 12000 W is implausible"),  # nW
        ({"current_now": "1500000", "voltage_now": "12000"}, "power_w", "12000: 0.012 V is implausible"),  # mV
        ({"energy_now": "40000", "energy_full": "50000"}, "battery_joules", "energy_full"),  # mWh
        ({"energy_now": "40000", "capacity": "80"}, "battery_joules", "a full battery of 0.05 Wh"),
        ({"energy_now": "0", "capacity": "71"}, "battery_joules", "0 at a level of 71 %"),
        ({"energy_now": "9000000000000"}, "battery_joules", "Wh is implausible"),
    ],
)
def test_units_of_batteries(tmp_path: Path, files: dict[str, str], field: str, problem: str) -> None:
    if "a full battery" in problem:
        files = files | {"energy_now": "32000"}
        problem = "a full battery of 0.04 Wh"
    tree = {f"{BATTERY}0/{f}": said for f, said in files.items()}
    reading = reader(tmp_path, tree | {f"{BATTERY}0/type": "Battery", f"{BATTERY}0/status": "Discharging"}).read()
    assert getattr(reading, field) is None and any(problem in p and "0" in p for p in reading.problems), reading


def test_the_firmware_answers_where_files_fail(tmp_path: Path) -> None:
    answers = dict(trees.PI4_FIRMWARE) | {
        "measure_temp": "temp=51.6'C\n",
        "measure_clock arm": "frequency(48)=1200000000\n",
        "get_config arm_freq": "arm_freq=1500\n",
    }
    calls: list[str] = []

    def ask(command: str) -> str:
        calls.append(command)
        return answers[command]

    tree = {k: v for k, v in trees.PI4.items() if "hwmon0" not in k}
    clock = FakeClock(100)
    found = LinuxReader(trees.write(tmp_path, tree), ask, clock=clock, slow_seconds=2)
    assert found.read().temperature_c == 48.199 and "measure_temp" not in calls  # no program for what a file tells
    assert found.sources["temperature_c"] == "thermal_zone0 (cpu-thermal); else vcgencmd measure_temp"
    (tmp_path / f"{ZONE}0/temp").write_text("0")
    (tmp_path / f"{CPU}0/scaling_cur_freq").unlink()
    reading = found.read()
    assert (reading.temperature_c, reading.cpu_frequency_ratio) == (51.6, 1.2 / 1.8)
    assert any("exactly 0 C" in p for p in reading.problems) and any("scaling_cur_freq" in p for p in reading.problems)
    shutil.rmtree(tmp_path / "sys")
    found.discover()
    reading = found.read()
    assert (reading.temperature_c, reading.cpu_frequency_ratio) == (51.6, 0.8) and reading.problems == ()
    for wrong in ("temp=-274.0'C", "temp=0.0'C", "temp=4294967.3'C", "temp=nan'C", "65", ""):
        answers["measure_temp"] = wrong
        clock.advance(60)
        reading = found.read()
        assert reading.temperature_c is None and any("measure_temp" in p for p in reading.problems)


@pytest.mark.parametrize(
    ("said", "flags"), [("50005\n", 0x50005), ("0", 0), ("0x4", 4), ("?", None), ("ffffffff", None)]
)
def test_flags_from_the_older_file(tmp_path: Path, said: str, flags: int | None) -> None:
    tree = trees.PI5 | {"sys/devices/platform/soc/soc:firmware/get_throttled": said}
    answers = dict(trees.PI5_FIRMWARE)
    found = LinuxReader(trees.write(tmp_path, tree), lambda command: answers.get(command, ""), slow_seconds=0)
    assert found.read().throttled == Throttled(0)  # the program is preferred: reading the file makes the kernel warn
    answers["get_throttled"] = "VCHI initialization failed"
    reading = found.read()
    assert reading.throttled == (None if flags is None else Throttled(flags)) and "VCHI" in " ".join(reading.problems)
    alone = LinuxReader(tmp_path, None, slow_seconds=0)
    assert alone.read().throttled == (None if flags is None else Throttled(flags))
    assert alone.read().under_voltage is False and "throttled" in alone.sources


def test_a_second_slow_source_that_hangs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def ask(command: str) -> str:
        if command == "measure_temp":
            assert gate.wait(20)
            return "temp=50.0'C"
        return trees.PI4_FIRMWARE.get(command, "")

    monkeypatch.setattr("edgeexit.monitor.background._PATIENCE_SECONDS", 0.05)
    tree = {k: v for k, v in trees.PI4.items() if "hwmon0" not in k}
    found = LinuxReader(trees.write(tmp_path, tree), ask, slow_seconds=2)
    (tmp_path / f"{ZONE}0/temp").unlink()
    reading = found.read()
    assert reading.temperature_c is None and reading.throttled == Throttled(0)
    assert "temperature_c: vcgencmd measure_temp: no answer yet" in reading.problems
    gate.set()
    for _ in range(2000):
        if (reading := found.read()).temperature_c is not None:
            break
        time.sleep(0.005)
    assert reading.temperature_c == 50.0


def test_a_highest_clock_that_cannot_be(tmp_path: Path) -> None:
    tree = {f"{CPU}0/cpuinfo_max_freq": "1800000000", f"{CPU}0/scaling_cur_freq": "900000000"}
    found = reader(tmp_path, tree)
    assert found.read().cpu_frequency_ratio is None
    assert "policy0 cpuinfo_max_freq: 1800000000: 1.8e+12 Hz is implausible" in found.unknown["cpu_frequency_ratio"]
    tree[f"{CPU}0/scaling_max_freq"], tree[f"{CPU}0/scaling_cur_freq"] = "1800000", "900000"
    assert reader(tmp_path, tree).read().cpu_frequency_ratio == 0.5
