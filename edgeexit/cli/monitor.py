"""`edgeexit monitor`"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from edgeexit.cli.common import printable, say, table
from edgeexit.errors import DataError
from edgeexit.monitor import SIGNALS, LinuxReader, PsutilReader, Reading, default_reader

_Column = tuple[str, Callable[[Reading], str]]


@click.command()
@click.option(
    "--interval", type=click.FloatRange(0.05, 3600), default=1.0, show_default=True, help="Seconds between readings."
)
@click.option("--count", type=click.IntRange(1), help="Stop after this many readings. [default: at Ctrl-C]")
@click.option("--once", is_flag=True, help="Print one reading, a line per signal with its source.")
@click.option("--json", "as_json", is_flag=True, help="Print every reading as one line of JSON.")
@click.option("--root", type=click.Path(path_type=Path), help="Folder with a recorded tree of /sys and /proc to read.")
def monitor(interval: float, count: int | None, once: bool, as_json: bool, root: Path | None) -> None:
    """Print system readings: temperature, throttling, load, memory, battery, power.

    A line per reading until Ctrl-C. Readings that this machine lacks are listed once, with the reason; null in JSON.
    """
    if not math.isfinite(interval):  # click's range lets it through, and pauses would be none
        raise DataError(f"--interval is a number of seconds, found {interval}")
    if root is not None and not root.is_dir():
        raise DataError(f"{root}: no such folder; expected one with sys and proc in it")
    reader = default_reader() if root is None else LinuxReader(root)
    try:
        if as_json:
            for reading in _readings(reader, interval, 1 if once else count):
                click.echo(json.dumps(reading.to_dict()))
        elif once:
            _print_once(reader, reader.read())
        else:
            _print_lines(reader, interval, count)
    except KeyboardInterrupt:  # how to end it, so no error
        say("stopped")


def _readings(reader: LinuxReader | PsutilReader, interval: float, count: int | None) -> Iterator[Reading]:
    """Readings at a steady pace."""
    start = time.monotonic()
    for done in itertools.count(1) if count is None else range(1, count + 1):
        yield reader.read()
        if done != count:
            time.sleep(max(0.0, start + done * interval - time.monotonic()))


def _print_once(reader: LinuxReader | PsutilReader, reading: Reading) -> None:
    click.echo(f"reader: {printable(reader.name)}")
    rows = [["signal", "value", "from"]]
    for name in SIGNALS:
        text = _TEXT[name](reading)
        text += f" {_UNITS[name]}" if name in _UNITS and text != "-" else ""
        why = reader.sources.get(name) if name in reader.sources else f"unknown here: {reader.unknown.get(name, '')}"
        rows.append([name, text, printable(str(why))])
    click.echo(table(rows))
    for problem in reading.problems:
        click.echo(f"problem: {printable(problem)}")


def _print_lines(reader: LinuxReader | PsutilReader, interval: float, count: int | None) -> None:
    columns = [(head, name) for name, head in _HEADS.items() if name in reader.sources]
    click.echo(f"reader: {printable(reader.name)}")
    for why, names in _by_reason(reader).items():
        click.echo(f"unknown here: {', '.join(names)}: {printable(why)}")
    widths = [max(len(head), _WIDTHS.get(name, 8)) for head, name in columns]
    click.echo("  ".join(["     s", *(h.rjust(w) for (h, _), w in zip(columns, widths, strict=True))]))
    start = time.monotonic()
    shown: tuple[str, ...] = ()
    for reading in _readings(reader, interval, count):
        cells = [_TEXT[name](reading).rjust(w) for (_, name), w in zip(columns, widths, strict=True)]
        click.echo("  ".join([f"{time.monotonic() - start:6.1f}", *cells]))
        for problem in reading.problems:
            if problem not in shown:
                click.echo(f"      problem: {printable(problem)}")
        shown = reading.problems


def _by_reason(reader: LinuxReader | PsutilReader) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name in SIGNALS:
        if name in reader.unknown:
            reasons.setdefault(reader.unknown[name], []).append(name)
    return reasons


def _number(name: str, form: str, scale: float = 1) -> Callable[[Reading], str]:
    def show(reading: Reading) -> str:
        value = getattr(reading, name)
        return "-" if value is None else format(value * scale, form)

    return show


def _truth(name: str, yes: str, no: str) -> Callable[[Reading], str]:
    return lambda reading: {None: "-", True: yes, False: no}[getattr(reading, name)]


def _flags(reading: Reading) -> str:
    """What is so now; a star = something has been since boot."""
    if reading.throttled is None:
        return "-"
    now = ", ".join(name.replace("_", " ") for name in reading.throttled.now) or "no"
    return now + ("*" if set(reading.throttled.since_boot) - set(reading.throttled.now) else "")


_TEXT: dict[str, Callable[[Reading], str]] = {
    "temperature_c": _number("temperature_c", ".1f"),
    "throttled": _flags,
    "under_voltage": _truth("under_voltage", "yes", "no"),
    "cpu_frequency_ratio": _number("cpu_frequency_ratio", ".2f"),
    "load_per_cpu": _number("load_per_cpu", ".2f"),
    "cpu_pressure_avg10": _number("cpu_pressure_avg10", ".1f"),
    "memory_pressure_avg10": _number("memory_pressure_avg10", ".1f"),
    "cpu_quota": _number("cpu_quota", ".3g"),
    "available_bytes": _number("available_bytes", ",.0f", 1 / (1 << 20)),
    "battery_percent": _number("battery_percent", ".0f"),
    "on_battery": _truth("on_battery", "battery", "mains"),
    "battery_joules": _number("battery_joules", ",.0f", 1e-3),
    "power_w": _number("power_w", ".2f"),
}
_HEADS = {
    "temperature_c": "heat C",
    "cpu_frequency_ratio": "clock",
    "load_per_cpu": "load/CPU",
    "cpu_pressure_avg10": "CPU wait %",
    "memory_pressure_avg10": "memory wait %",
    "cpu_quota": "CPUs",
    "available_bytes": "free MiB",
    "battery_percent": "battery %",
    "on_battery": "runs on",
    "battery_joules": "left kJ",
    "power_w": "power W",
    "under_voltage": "weak supply",
    "throttled": "throttled",
}
"""Columns in order; the longest text stands last."""
_UNITS = {
    "temperature_c": "C",
    "cpu_pressure_avg10": "%",
    "memory_pressure_avg10": "%",
    "cpu_quota": "CPUs",
    "available_bytes": "MiB",
    "battery_percent": "%",
    "battery_joules": "kJ",
    "power_w": "W",
}
_WIDTHS = {"cpu_quota": 5, "cpu_frequency_ratio": 5, "temperature_c": 6}
