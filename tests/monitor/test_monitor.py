"""Readings from trees of /sys and /proc as boards and containers have them, and from trees that are broken or lie."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import monitor_trees as trees
from edgeexit.monitor import SIGNALS, LinuxReader, Reading, Throttled, files
from edgeexit.monitor.reading import implausible
from edgeexit.testing import FakeClock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="reads the files of Linux")
NONE = {name: None for name in SIGNALS}


def reader(root: Path, tree: dict[str, str], answers: dict[str, str] | None = None, **settings: Any) -> LinuxReader:
    ask = None if answers is None else trees.firmware(answers)
    return LinuxReader(trees.write(root, tree), ask, **{"slow_seconds": 0, **settings})


def known(reading: Reading) -> dict[str, Any]:
    return {name: getattr(reading, name) for name in SIGNALS if getattr(reading, name) is not None}


PI = {"cpu_quota": 4.0, "available_bytes": 2957304 * 1024}
CASES: dict[str, tuple[dict[str, str], dict[str, str] | None, dict[str, Any]]] = {
    "Pi 4": (
        trees.PI4,
        trees.PI4_FIRMWARE,
        {
            **PI,
            "temperature_c": 48.199,
            "throttled": Throttled(0),
            "under_voltage": False,
            "cpu_frequency_ratio": 1.0,
            "load_per_cpu": 0.13,
            "cpu_pressure_avg10": 1.25,
            "memory_pressure_avg10": 0.0,
        },
    ),
    "Pi 4, hot and capped": (
        trees.PI4_HOT,
        trees.PI4_HOT_FIRMWARE,
        {
            **PI,
            "temperature_c": 82.3,
            "throttled": Throttled(0xF000F),
            "under_voltage": True,
            "cpu_frequency_ratio": 1000 / 1800,
            "load_per_cpu": 1.5,
        },
    ),
    "Pi 5": (
        trees.PI5,
        trees.PI5_FIRMWARE,
        {
            **PI,
            "temperature_c": 55.75,
            "throttled": Throttled(0),
            "under_voltage": False,
            "cpu_frequency_ratio": 1.0,
            "load_per_cpu": 0.25,
            "cpu_pressure_avg10": 1.25,
            "memory_pressure_avg10": 0.0,
            "power_w": trees.PMIC_WATTS,
        },
    ),
    "virtual machine": (
        trees.VM,
        None,
        {
            "load_per_cpu": 0.05,
            "cpu_pressure_avg10": 99.12,
            "memory_pressure_avg10": 0.0,
            "cpu_quota": 2.0,
            "available_bytes": 1500000 * 1024,
        },
    ),
    "control groups 1": (
        trees.CGROUP1,
        None,
        {
            "load_per_cpu": 0.1 / 1.5,
            "cpu_pressure_avg10": 99.12,
            "memory_pressure_avg10": 0.0,
            "cpu_quota": 1.5,
            "available_bytes": 536870912 - 400000000 + 100000000,
        },
    ),
    "control groups 2": (
        trees.CGROUP2,
        None,
        {
            "load_per_cpu": 0.2,
            "cpu_pressure_avg10": 99.12,
            "memory_pressure_avg10": 0.0,
            "cpu_quota": 0.5,
            "available_bytes": 150000000,
        },
    ),
    "laptop on its battery": (
        trees.LAPTOP,
        None,
        {
            "temperature_c": 61.0,
            "load_per_cpu": 0.05,
            "cpu_pressure_avg10": 99.12,
            "memory_pressure_avg10": 0.0,
            "cpu_quota": 2.0,
            "available_bytes": 1500000 * 1024,
            "battery_percent": 80.0,
            "on_battery": True,
            "battery_joules": 4 * 12 * 3600.0,
            "power_w": 18.0,
        },
    ),
    "nothing at all": ({"etc/hostname": "x"}, None, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_trees(tmp_path: Path, name: str) -> None:
    tree, answers, expected = CASES[name]
    found = reader(tmp_path, tree, answers, clock=FakeClock(7.5))
    reading = found.read()
    assert known(reading) == pytest.approx(expected)
    assert reading.problems == () and reading.at_seconds == 7.5
    # Every signal is known or said to be unknown, with the reason.
    assert found.sources.keys() | found.unknown.keys() == set(SIGNALS)
    assert not found.sources.keys() & found.unknown.keys()
    assert expected.keys() <= found.sources.keys() and all(found.unknown.values())


def test_a_recorded_tree_is_not_mixed_with_this_machine(tmp_path: Path) -> None:
    root = tmp_path / "bin"
    root.mkdir()
    (root / "vcgencmd").write_text("#!/bin/sh\necho throttled=0x1\n")
    (root / "vcgencmd").chmod(0o755)
    environment = {**os.environ, "PATH": f"{root}:{os.environ['PATH']}"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", environment)
        assert LinuxReader("/", slow_seconds=0).read().throttled == Throttled(1)
        assert LinuxReader(trees.write(tmp_path / "tree", trees.PI4)).read().throttled is None


ONE_SENSOR = {k: v for k, v in trees.EVERY.items() if "thermal_zone1" not in k and "hwmon0" not in k}
"""No second source of the temperature."""
LIES = [
    ("sys/class/thermal/thermal_zone0/temp", "0", "temperature_c"),
    ("sys/class/thermal/thermal_zone0/temp", "-273000", "temperature_c"),
    ("sys/class/thermal/thermal_zone0/temp", "4294967295", "temperature_c"),
    ("sys/class/thermal/thermal_zone0/temp", "18446744073709551342", "temperature_c"),
    ("sys/class/thermal/thermal_zone0/temp", "-274000", "temperature_c"),
    ("sys/class/thermal/thermal_zone0/temp", "65", "temperature_c"),  # it has shown thousandths before
    ("sys/class/thermal/thermal_zone0/temp", "-1000000000000000000", "temperature_c"),
    ("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "0", "cpu_frequency_ratio"),
    ("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "-1", "cpu_frequency_ratio"),
    ("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "4294967295", "cpu_frequency_ratio"),
    ("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "1800000000", "cpu_frequency_ratio"),  # Hz
    ("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "1800", "cpu_frequency_ratio"),  # MHz
    ("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "2", "under_voltage"),
    ("proc/loadavg", "nan 0 0", "load_per_cpu"),
    ("proc/loadavg", "-1.0 0 0", "load_per_cpu"),
    ("proc/loadavg", "1e9 0 0", "load_per_cpu"),
    ("proc/loadavg", "4294967295.00 0 0", "load_per_cpu"),
    ("proc/pressure/cpu", "some avg10=250.00 avg60=0", "cpu_pressure_avg10"),
    ("proc/pressure/memory", "some avg10=nan avg60=0", "memory_pressure_avg10"),
    ("proc/meminfo", "MemAvailable: -5 kB\n", "available_bytes"),
    ("proc/meminfo", "MemAvailable: 9999999999999999999 kB\n", "available_bytes"),
    ("proc/meminfo", "MemTotal: 2000000 kB\nMemAvailable: 4294967295 kB\n", "available_bytes"),
    ("sys/fs/cgroup/box/cpu.max", "0 100000", "cpu_quota"),
    ("sys/fs/cgroup/box/cpu.max", "9999999999 1", "cpu_quota"),
    ("sys/fs/cgroup/box/cpu.max", "garbage", "cpu_quota"),
    ("sys/fs/cgroup/box/cpu.max", "50000 0", "cpu_quota"),
    ("sys/fs/cgroup/box/memory.max", "-1", "available_bytes"),
    ("sys/class/power_supply/BAT0/capacity", "101", "battery_percent"),
    ("sys/class/power_supply/BAT0/capacity", "-1", "battery_percent"),
    ("sys/class/power_supply/BAT0/charge_now", "-1", "battery_joules"),
    ("sys/class/power_supply/BAT0/charge_now", "4000", "battery_joules"),  # mAh
    ("sys/class/power_supply/BAT0/charge_now", "4294967295", "battery_joules"),
    ("sys/class/power_supply/BAT0/current_now", "0", "power_w"),
    ("sys/class/power_supply/BAT0/current_now", "1500", "power_w"),  # mA
    ("sys/class/power_supply/BAT0/current_now", "65149000", "power_w"),  # 16 bits of mA without the sign
    ("sys/class/power_supply/BAT0/current_now", "4294967235", "power_w"),  # the error code -61
    ("sys/class/power_supply/BAT0/current_now", "-2147483648", "power_w"),
]


@pytest.mark.parametrize(("path", "said", "field"), LIES)
def test_lies_are_none_and_named(tmp_path: Path, path: str, said: str, field: str) -> None:
    found = reader(tmp_path, ONE_SENSOR)
    before = found.read()
    assert before.problems == () and getattr(before, field) is not None
    (tmp_path / path).write_text(said)
    after = found.read()
    assert getattr(after, field) is None
    assert len(after.problems) == 1 and field in after.problems[0]
    spoilt = {field, "load_per_cpu"} if field == "cpu_quota" else {field}
    assert known(after).keys() == known(before).keys() - spoilt


GARBAGE = ["", "\0", "\n\n", "garbage", "-", "+", "1_000", "0x10", "1e3", "9" * 40, "max", "--1--", "\udc80\udcff" * 9]


@pytest.mark.parametrize("said", [*GARBAGE, "some avg10= ", "Cpus_allowed_list: 0-99999999", ":" * 99, "0::/../../etc"])
@pytest.mark.parametrize("tree", [trees.EVERY, trees.EVERY | trees.CGROUP1], ids=["2", "1"])
def test_garbage_in_every_file(tmp_path: Path, tree: dict[str, str], said: str) -> None:
    found = reader(tmp_path / "a", tree)
    assert found.read().problems == ()
    trees.write(tmp_path / "a", dict.fromkeys(tree, said))
    reading = found.read()
    spared = {"cpu_quota", "load_per_cpu"} if said == "max" else set()
    assert known(reading).keys() <= {*spared, "on_battery"}
    assert {p.partition(":")[0] for p in reading.problems} & set(SIGNALS)
    json.dumps(reading.to_dict(), allow_nan=False)
    # found and read anew, and each file alone
    assert known(reader(tmp_path / "a", {}).read()).keys() <= spared
    trees.write(tmp_path / "a", tree)
    for path in tree:
        alone = reader(tmp_path / "a", {path: said}).read()
        trees.write(tmp_path / "a", {path: tree[path]})
        assert all(implausible(name, value) is None for name, value in known(alone).items())


def test_vanished_between_readings_and_back(tmp_path: Path) -> None:
    found = reader(tmp_path / "tree", trees.EVERY)
    before = known(found.read())
    (tmp_path / "tree").rename(tmp_path / "gone")
    reading = found.read()
    assert known(reading) == {}
    named = {n for p in reading.problems for n in p.partition(":")[0].split("/")}
    assert named == before.keys() - {"power_w"}  # asked for only while a battery is drained, which nothing tells now
    assert any("No such file" in p for p in reading.problems)
    (tmp_path / "gone").rename(tmp_path / "tree")
    assert known(found.read()) == before
    (tmp_path / "tree/sys/class/thermal/thermal_zone0/temp").unlink()
    reading = found.read()  # the package's own sensor stands in, and the processor's is still a problem
    assert reading.temperature_c == 61.0 and "thermal_zone0 (cpu-thermal)" in reading.problems[0]
    shutil.rmtree(tmp_path / "tree/sys/class/thermal/thermal_zone0")
    found.discover()
    assert found.read().temperature_c == 61.0


@pytest.fixture
def stranger() -> Iterator[Path]:
    """A folder that everybody may enter, as somebody who is not root."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        root = os.geteuid() == 0
        try:
            yield Path(folder)
        finally:
            if root:
                os.seteuid(0)
            for path in Path(folder).rglob("*"):
                path.chmod(0o755)


def test_permission_denied(stranger: Path) -> None:
    found = reader(stranger, trees.EVERY)
    before = known(found.read())
    for path in trees.EVERY:
        (stranger / path).chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    reading = found.read()
    # a status that cannot be read leaves the supply to say it, and that cannot be read either
    assert known(reading) == {} and before
    assert any("Permission denied" in p for p in reading.problems)
    anew = LinuxReader(stranger, None)
    assert known(anew.read()) == {} and anew.unknown.keys() | anew.sources.keys() == set(SIGNALS)
    if os.geteuid() != os.getuid():
        os.seteuid(0)
    (stranger / "sys").chmod(0)
    (stranger / "proc").chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    assert known(LinuxReader(stranger, None).read()) == {}


def test_huge_files_loops_pipes_and_folders(tmp_path: Path) -> None:
    found = reader(tmp_path, trees.EVERY)
    for path in trees.EVERY:
        with (tmp_path / path).open("wb") as stream:
            stream.truncate(8 << 30)  # zeros that take no room on the disk
    assert known(found.read()) == {}
    assert known(LinuxReader(tmp_path, None).read()) == {}
    (tmp_path / "proc/meminfo").write_text("x" * 5000 + "\nMemAvailable: 1 kB\n")
    assert found.read().available_bytes is None
    for make in (lambda p: p.symlink_to(p), os.mkfifo, lambda p: p.mkdir()):
        for path in trees.EVERY:
            target = tmp_path / path
            target.rmdir() if target.is_dir() and not target.is_symlink() else target.unlink(missing_ok=True)
            make(target)
        assert known(found.read()) == {}
        assert known(LinuxReader(tmp_path, None).read()) == {}
    for folder in ("sys/class/thermal", "sys/class/power_supply", "sys/fs/cgroup", "proc"):
        shutil.rmtree(tmp_path / folder)
        (tmp_path / folder).symlink_to(tmp_path / folder)
    assert known(LinuxReader(tmp_path, None).read()) == {}
    for i in range(300):
        (tmp_path / f"many/thermal_zone{i}").mkdir(parents=True)
    assert len(files.listed(str(tmp_path / "many"))) == 256


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that opens and cannot be read")
def test_a_sensor_that_opens_and_fails(tmp_path: Path) -> None:
    found = reader(tmp_path, trees.PI4)
    path = tmp_path / "sys/class/thermal/thermal_zone0/temp"
    path.unlink()
    path.symlink_to("/proc/self/mem")
    reading = found.read()
    assert reading.temperature_c == 48.199 and reading.cpu_frequency_ratio == 1  # hwmon has it, too
    assert reading.problems == ("temperature_c: thermal_zone0 (cpu-thermal): Input/output error",)


def test_the_processors_zone(tmp_path: Path) -> None:
    zones = {"gpu-thermal": 90, "cpu0-thermal": 60, "cpu1-thermal": 70, "soc_max": 95, "acpitz": 28}
    tree = {}
    for i, (kind, degrees) in enumerate(zones.items()):
        tree |= {
            f"sys/class/thermal/thermal_zone{i + 8}/type": kind,
            f"sys/class/thermal/thermal_zone{i + 8}/temp": f"{degrees}000",
        }
    found = reader(tmp_path / "a", tree)
    assert found.read().temperature_c == 70.0
    (tmp_path / "a/sys/class/thermal/thermal_zone10/temp").write_text("0")  # the hotter one lies: the other counts
    reading = found.read()
    assert reading.temperature_c == 60.0 and len(reading.problems) == 1
    for zone in (9, 10):
        shutil.rmtree(tmp_path / f"a/sys/class/thermal/thermal_zone{zone}")
    assert reader(tmp_path / "a", {}).read().temperature_c == 95.0
    shutil.rmtree(tmp_path / "a/sys/class/thermal/thermal_zone11")
    none = reader(tmp_path / "a", {})
    assert none.read().temperature_c is None
    assert none.unknown["temperature_c"] == "no thermal zone is the processor's (here: gpu-thermal, acpitz)"
    chip = {"sys/class/hwmon/hwmon3/name": "k10temp\n", "sys/class/hwmon/hwmon3/temp1_input": "44500\n"}
    assert reader(tmp_path / "a", chip).read().temperature_c == 44.5


def test_clocks_of_unequal_cores(tmp_path: Path) -> None:
    base = "sys/devices/system/cpu/cpufreq/policy"
    tree = {f"{base}0/cpuinfo_max_freq": "1000", f"{base}0/scaling_cur_freq": "1000"}
    for i, now in ((4, 500), (10, 1500)):
        tree |= {f"{base}{i}/cpuinfo_max_freq": "2000", f"{base}{i}/scaling_cur_freq": f"{now}"}
    assert reader(tmp_path, tree).read().cpu_frequency_ratio == 0.75


@pytest.mark.parametrize(
    ("status", "online", "expected"),
    [
        ("Discharging", "1", True),
        ("Discharging", "0", True),
        ("Charging", "0", False),
        ("Full", "0", False),
        ("Not charging", "1", False),
        ("Unknown", "1", False),
        ("Unknown", "0", True),
        ("Unknown", "7", None),
    ],
)
def test_what_it_runs_on(tmp_path: Path, status: str, online: str, expected: bool | None) -> None:
    supply = "sys/class/power_supply"
    tree = trees.LAPTOP | {f"{supply}/BAT0/status": status, f"{supply}/AC/online": online}
    reading = reader(tmp_path, tree).read()
    assert reading.on_battery is expected
    assert reading.power_w == (18.0 if expected else None)
    assert reading.battery_percent == 80


def test_two_batteries(tmp_path: Path) -> None:
    supply = "sys/class/power_supply/BAT"
    tree = {}
    for i, (percent, now, full) in enumerate([(100, 30_000_000, 30_000_000), (20, 2_000_000, 10_000_000)]):
        tree |= {f"{supply}{i}/type": "Battery", f"{supply}{i}/capacity": f"{percent}"}
        tree |= {f"{supply}{i}/energy_now": f"{now}", f"{supply}{i}/energy_full": f"{full}"}
        tree |= {f"{supply}{i}/status": "Discharging", f"{supply}{i}/power_now": "3000000"}
    found = reader(tmp_path, tree)
    reading = found.read()
    assert (reading.battery_percent, reading.battery_joules, reading.power_w) == (80.0, 32 * 3600.0, 6.0)
    (tmp_path / f"{supply}1/capacity").write_text("?")
    (tmp_path / f"{supply}1/energy_now").write_text("?")
    reading = found.read()
    # What the other battery says counts, and what is missing of this one is listed.
    assert (reading.battery_percent, reading.battery_joules, reading.power_w) == (100.0, 30 * 3600.0, 6.0)
    assert all(any(f"BAT1 {f}" in p for p in reading.problems) for f in ("capacity", "energy_now"))
    (tmp_path / f"{supply}1/present").write_text("0")
    found.discover()
    assert found.read().battery_percent == 100


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("throttled=garbage", "expected throttled=0x..., found 'throttled=garbage'"),
        ("", "expected throttled"),
        ("throttled=0xffffffff", "is not a set of flags"),
        ("throttled=0x123456789", "expected throttled"),
        ("VCHI initialization failed", "VCHI"),
        (OSError(13, "Permission denied"), "Permission denied"),
        (KeyError("?"), "KeyError '?'"),
    ],
)
def test_firmware_that_turns_bad(tmp_path: Path, answer: str | Exception, says: str) -> None:
    answers: dict[str, Any] = dict(trees.PI5_FIRMWARE)

    def ask(command: str) -> str:
        if isinstance(found := answers[command], Exception):
            raise found
        return str(found)

    tree = {k: v for k, v in trees.PI5.items() if "hwmon1" not in k}  # the flags alone tell of the supply
    found = LinuxReader(trees.write(tmp_path, tree), ask, slow_seconds=0)
    assert found.read().under_voltage is False
    answers["get_throttled"] = answer
    reading = found.read()
    assert (reading.throttled, reading.under_voltage) == (None, None)
    assert reading.power_w == pytest.approx(trees.PMIC_WATTS)
    assert len(reading.problems) == 1 and says in reading.problems[0] and reading.problems[0].startswith("throttled:")
    answers["pmic_read_adc"] = answer
    reading = found.read()
    assert reading.power_w is None and len(reading.problems) == 2 and reading.temperature_c == 55.75
    # from the start: unknown, with the reason, and not asked again
    if isinstance(answer, str) and "ffffffff" not in answer:
        anew = LinuxReader(tmp_path, ask, slow_seconds=0)
        assert anew.read().problems == () and "group `video`" in anew.unknown["throttled"]
        assert "pmic_read_adc" in anew.unknown["power_w"]


@pytest.mark.parametrize(
    ("said", "watts"),
    [
        (trees.PMIC, trees.PMIC_WATTS),
        (trees.PMIC.replace("\n", "\r\n"), trees.PMIC_WATTS),
        ("VDD_CORE_V=0.8750V\nVDD_CORE_A=2.0000A\nVDD_IO_V=1.8V\nVDD_IO_A=0.5A\n", 2.65),
        ("\n".join(trees.PMIC.splitlines()[:7]), None),  # cut off: currents without their voltages
        (trees.PMIC.replace("=2.0", "=nan"), None),
        (trees.PMIC.replace("A\n", "B\n"), None),
        ("VDD_CORE_A current(7)=0.0A\nVDD_CORE_V volt(15)=0.0V\n", None),
        ("VDD_CORE_A current(7)=999999A\nVDD_CORE_V volt(15)=999999V\n", None),
        ("x" * 100_000, None),
        ("\0\n" * 10, None),
    ],
)
def test_power_of_the_rails(tmp_path: Path, said: str, watts: float | None) -> None:
    reading = reader(tmp_path, trees.PI5, {"get_throttled": "throttled=0x50000", "pmic_read_adc": said}).read()
    assert reading.power_w == (None if watts is None else pytest.approx(watts))
    assert reading.throttled == Throttled(0x50000)


def test_slow_sensors_are_not_waited_for(tmp_path: Path) -> None:
    clock = FakeClock(100)
    gate, asked = threading.Event(), threading.Event()
    answers = ["throttled=0x0", "throttled=0x4"]
    calls: list[str] = []

    def ask(command: str) -> str:
        calls.append(command)
        if len(calls) > 3:  # the constructor tries both questions, and asks what it will answer
            asked.set()
            assert gate.wait(20)
            return answers[1]
        return answers[0]

    found = LinuxReader(trees.write(tmp_path, trees.PI4), ask, clock=clock, slow_seconds=2)
    assert found.read().throttled == Throttled(0) and len(calls) == 3
    clock.advance(1.9)
    found.read()
    assert len(calls) == 3
    clock.advance(0.2)
    assert found.read().throttled == Throttled(0)  # the old answer, while the thread waits
    assert asked.wait(20)
    for _ in range(5):
        assert found.read().throttled == Throttled(0)
    assert len(calls) == 4, "a question that hangs is not asked twice"
    clock.advance(20)
    reading = found.read()
    assert reading.throttled is None and "throttled: slow sensors: no answer for 22 s" in reading.problems
    assert reading.temperature_c == 48.199
    gate.set()
    for _ in range(2000):
        if (reading := found.read()).throttled is not None:
            break
        time.sleep(0.005)
    assert reading.throttled == Throttled(4) and reading.problems == ()
    clock.now = 3.0  # a clock that jumps back: the answers still stand, and are asked for anew
    assert found.read().throttled == Throttled(4) and found.read().at_seconds == 3.0
    for _ in range(2000):
        if len(calls) > 4:
            break
        time.sleep(0.005)
        found.read()
    assert len(calls) > 4


def test_after_a_long_pause_the_answers_are_new(tmp_path: Path) -> None:
    clock, answers = FakeClock(), dict(trees.PI4_FIRMWARE)
    found = LinuxReader(trees.write(tmp_path, trees.PI4), lambda command: answers.get(command, ""), clock=clock)
    answers["get_throttled"] = "throttled=0x2"
    clock.advance(1)
    assert found.read().throttled == Throttled(0)
    clock.advance(60)
    reading = found.read()
    assert reading.throttled == Throttled(2) and reading.problems == ()


@pytest.mark.parametrize("bad", [lambda: math.nan, lambda: 1 / 0, lambda: "soon", lambda: math.inf])
def test_a_clock_that_fails(tmp_path: Path, bad: Any) -> None:
    reading = reader(tmp_path, trees.PI4, trees.PI4_FIRMWARE, clock=bad).read()
    assert reading.at_seconds is None and reading.problems == ("at_seconds: clock: returned no time",)
    assert reading.temperature_c == 48.199


def test_few_files_and_under_two_milliseconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = reader(tmp_path, trees.EVERY)
    spent = []
    for _ in range(50):
        start = time.perf_counter()
        found.read()
        spent.append(time.perf_counter() - start)
    assert min(spent) < 0.002
    opened: list[str] = []
    real = os.open
    monkeypatch.setattr(files.os, "open", lambda path, *a: (opened.append(path), real(path, *a))[1])
    monkeypatch.setattr(files.os, "scandir", lambda *_: pytest.fail("a reading looks for nothing"))
    found.read()
    assert 10 < len(opened) <= 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the machine itself")
def test_this_machine() -> None:
    found = LinuxReader()
    reading = found.read()
    assert all(implausible(name, value) is None for name, value in known(reading).items())
    assert reading.available_bytes and reading.cpu_quota and reading.cpu_quota <= len(os.sched_getaffinity(0))
    assert found.read().at_seconds >= reading.at_seconds
