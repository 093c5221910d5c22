"""`edgeexit monitor`: a sheet, a live table, JSON lines, and a clean end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import monitor_trees as trees

Cli = Callable[..., Any]


def test_sheet(cli: Cli, tmp_path: Path) -> None:
    done = cli("monitor", "--once", "--root", trees.write(tmp_path, trees.PI4_HOT))
    assert (done.code, done.err) == (0, "")
    rows = {line.split()[0]: line for line in done.out.splitlines()[1:]}
    assert "82.3 C" in rows["temperature_c"] and "thermal_zone0 (cpu-thermal)" in rows["temperature_c"]
    assert "2,888 MiB" in rows["available_bytes"] and rows["under_voltage"].split()[1] == "yes"
    assert "unknown here: no /proc/pressure/cpu" in rows["cpu_pressure_avg10"]
    assert "psi=1" in rows["cpu_pressure_avg10"] and "0 %" not in rows["cpu_pressure_avg10"]


def test_table(cli: Cli, tmp_path: Path) -> None:
    root = trees.write(tmp_path, trees.LAPTOP)
    (root / "sys/class/thermal/thermal_zone1/temp").write_text("4294967295")
    done = cli("monitor", "--count", 3, "--interval", 0.05, "--root", root)
    lines = done.out.splitlines()
    assert done.code == 0 and "unknown here: throttled, under_voltage: " in done.out
    head = next(i for i, line in enumerate(lines) if "heat C" in line)
    rows = [line for line in lines[head + 1 :] if "problem" not in line]
    assert len(rows) == 3 and all(" battery " in row and "18.00" in row for row in rows)
    assert rows[0].split()[1] == "-", "a sensor that lies shows nothing"
    assert [line.strip() for line in lines if "problem" in line] == [  # once, not in every line
        "problem: temperature_c: thermal_zone1 (x86_pkg_temp): 4294967 C is implausible"
    ]


def test_json_lines(cli: Cli, tmp_path: Path) -> None:
    done = cli("monitor", "--json", "--count", 2, "--interval", 0.05, "--root", trees.write(tmp_path, trees.PI5))
    first, second = (json.loads(line) for line in done.out.splitlines())
    assert first["temperature_c"] == 55.75 and first["throttled"] is None and first["problems"] == []
    assert 0.04 < second["at_seconds"] - first["at_seconds"] < 5
    assert len(cli("monitor", "--json", "--once").out.splitlines()) == 1  # this machine


def test_hostile_names_do_not_reach_the_terminal(cli: Cli, tmp_path: Path) -> None:
    tree = {"sys/class/thermal/thermal_zone0/type": "cpu\x1b[2J\x07", "sys/class/thermal/thermal_zone0/temp": "\x1b[2J"}
    for arguments in (["--once"], ["--count", 1]):
        done = cli("monitor", *arguments, "--root", trees.write(tmp_path, tree))
        assert done.code == 0 and "\x1b" not in done.out and "\x07" not in done.out and "problem" in done.out


def test_refused(cli: Cli, tmp_path: Path) -> None:
    assert "no such folder" in cli("monitor", "--root", tmp_path / "none").error
    assert "--interval" in cli("monitor", "--interval", 0).error
    assert "found nan" in cli("monitor", "--interval", "nan", "--count", 1).error
    assert "--count" in cli("monitor", "--count", 0).error


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_and_a_closed_pipe() -> None:
    command = [sys.executable, "-m", "edgeexit", "monitor", "--json", "--interval", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stderr is not None
        json.loads(running.stdout.readline())
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)
        assert running.returncode == 0 and err == "stopped\n"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read() == "" and running.wait(timeout=30) in (0, 1)
