"""Batteries and mains from /sys/class/power_supply (micro-volts, -amperes, -watts, -watt-hours, -ampere-hours)."""

from __future__ import annotations

import os
from collections.abc import Sequence

from edgeexit.monitor.files import ReadingBuilder, listed, text
from edgeexit.monitor.ranges import outside

_QUANTITIES = {
    # file: row of ranges.RANGES
    "capacity": "capacity",
    "energy_now": "energy",
    "energy_full": "energy_full",
    "charge_now": "charge",
    "charge_full": "charge_full",
    "voltage_now": "voltage",
    "voltage_avg": "voltage",
    "power_now": "power",
    "power_avg": "power",
    "current_now": "current",
    "current_avg": "current",
}
_POWER = (("power_now",), ("current_now", "voltage"), ("power_avg",), ("current_avg", "voltage"))
_ENERGY = (("energy_now",), ("charge_now", "voltage"))
_LEVEL = (("capacity",), ("energy_now", "energy_full"), ("charge_now", "charge_full"))
"""Sources in order of preference: files to multiply, or to divide for the level."""
_FILLED = 5.0
"""Level in percent from which an energy of 0 is a sensor that was never read."""
_STATUS = {"Discharging": True, "Charging": False, "Full": False, "Not charging": False, "Unknown": None}


class Battery:
    """One battery: each signal from the first of its files with a plausible value."""

    def __init__(self, name: str, files: dict[str, str]) -> None:
        self.name, self.files = name, files
        """File -> path, of the files it has."""

    def has(self, sources: Sequence[Sequence[str]]) -> bool:
        """Whether it has the files of one of the sources."""
        voltage = {"voltage"} if {"voltage_now", "voltage_avg"} & self.files.keys() else set()
        return any(set(source) <= self.files.keys() | voltage for source in sources)

    def read(self, builder: ReadingBuilder) -> Values:
        return Values(self, builder)

    def status(self, builder: ReadingBuilder) -> bool | None:
        """Whether it is being drained; None = unknown."""
        if "status" not in self.files:
            return None
        where = f"{self.name} status"
        if (word := text(self.files["status"])) is None:
            builder.problem("on_battery", where, "cannot be read")
        elif word not in _STATUS:
            builder.problem("on_battery", where, f"expected {', '.join(_STATUS)}, found {word[:24]!r}")
        return _STATUS.get(word or "")


class Values:
    """Values of a battery's files in one reading; each file is read at most once, when it is needed."""

    def __init__(self, battery: Battery, builder: ReadingBuilder) -> None:
        self.battery, self.builder = battery, builder
        self._values: dict[str, float] = {}
        self._failed: set[tuple[str, str]] = set()

    def of(self, file: str, field: str) -> float | None:
        """A file's value in V, A, W, Wh, Ah or %; "voltage" is the first plausible one of the two voltages."""
        if file == "voltage":
            now = self.of("voltage_now", field)
            return self.of("voltage_avg", field) if now is None else now
        if file not in self.battery.files:
            return None
        if file not in self._values and (file, field) not in self._failed:
            name = f"{self.battery.name} {file}"
            value = self.builder.quantity(_QUANTITIES[file], field, self.battery.files[file], name)
            if value is None:
                self._failed.add((file, field))
            else:
                self._values[file] = value
        return self._values.get(file)

    @property
    def level(self) -> float | None:
        """Percent."""
        for source in _LEVEL:
            if not self.battery.has([source]):
                continue
            parts = [self.of(file, "battery_percent") for file in source]
            if parts[-1] is not None and parts[0] is not None:
                # a battery may hold more than its nominal charge
                return parts[0] if len(parts) == 1 else min(100.0, 100 * parts[0] / parts[-1])
        return None

    @property
    def joules(self) -> float | None:
        for source in _ENERGY:
            if (hours := self._product(source, "battery_joules")) is None:
                continue
            now = source[0]
            if (why := self._wrong_unit(now)) is None:
                return hours * 3600
            self.builder.problem("battery_joules", f"{self.battery.name} {now}", why)
        return None

    @property
    def watts(self) -> float | None:
        """The sign of a current differs from driver to driver, so it is not used; the status gives the direction."""
        passed: list[tuple[str, float, str]] = []
        for source in _POWER:
            if (value := self._product(source, "power_w")) is None:
                continue
            if (why := outside("battery_power", abs(value))) is None:
                for file, _, wrong in passed:
                    self.builder.problem("power_w", f"{self.battery.name} {file}", f"{wrong} while it is drained")
                return abs(value)
            passed.append((source[0], abs(value), why))
        return passed[0][1] if passed else None  # 0 for one that is idle beside another, or a problem of the sum

    def _product(self, source: Sequence[str], field: str) -> float | None:
        if not self.battery.has([source]):
            return None
        product = 1.0
        for file in source:
            if (value := self.of(file, field)) is None:
                return None
            product *= value
        return product

    def _wrong_unit(self, now: str) -> str | None:
        """Why the number is implausible: by it, the full battery is too small; None = it is plausible."""
        row = now.replace("_now", "_full")
        part, full, level = self._values.get(now), self.of(row, "battery_joules"), self.level
        if full is None and level is None and row in self.battery.files:
            return f"its {row} is unknown, and so is the unit"
        if part == 0 and level and level >= _FILLED:
            return f"0 at a level of {level:g} %"
        if full is None and part and level and (why := outside(row, 100 * part / level)) is not None:
            return f"at {level:g} %, a full battery of {why}"
        return None


class Supplies:
    """All batteries of this system together; those of a mouse or a keyboard are left out.

    A battery that does not answer is a problem; the values are those of the others.
    """

    def __init__(self, batteries: Sequence[Battery], mains: dict[str, str]) -> None:
        self.batteries = batteries
        self.mains = mains
        self.where = "power_supply " + ", ".join([*(b.name for b in batteries), *mains])
        self.fields: tuple[str, ...] = ("on_battery",)
        for field, sources in (("battery_percent", _LEVEL), ("battery_joules", _ENERGY), ("power_w", _POWER)):
            if any(b.has(sources) for b in batteries):
                self.fields += (field,)

    def read(self, builder: ReadingBuilder) -> None:
        draining = self._draining(builder)
        if draining is not None:
            builder.put("on_battery", draining, self.where)
        values = [b.read(builder) for b in self.batteries]
        _put_level(values, builder)
        energy = [v.joules for v in values]
        if known := [e for e in energy if e is not None]:
            builder.put("battery_joules", sum(known), self.where)
        if not draining:
            return
        power = [v.watts for v in values]
        if known := [w for w in power if w is not None]:
            if (why := outside("battery_power", sum(known))) is not None:
                builder.problem("power_w", self.where, f"{why} while a battery is drained")
            else:
                builder.put("power_w", sum(known), self.where)

    def _draining(self, builder: ReadingBuilder) -> bool | None:
        states = [b.status(builder) for b in self.batteries]
        plugged = [builder.quantity("online", "on_battery", path, name) for name, path in self.mains.items()]
        if True in states:
            return True
        if False in states or any(plugged):
            return False
        return True if self.batteries and 0 in plugged else None


def _put_level(batteries: Sequence[Values], builder: ReadingBuilder) -> None:
    """Level of all batteries, weighted by their full energy where all have it."""
    levels = [(level, values) for values in batteries if (level := values.level) is not None]
    if not levels:
        return
    weights = [values.of("energy_full", "battery_percent") for _, values in levels] if len(levels) > 1 else [1.0]
    total = sum(w or 0.0 for w in weights)
    if None in weights or not total:
        mean = sum(level for level, _ in levels) / len(levels)
    else:
        mean = sum(level * (w or 0.0) for (level, _), w in zip(levels, weights, strict=True)) / total
    builder.put("battery_percent", float(mean), "capacity")


def find_supplies(root: str) -> Supplies | str:
    """Batteries and mains; a text = there are none."""
    base = os.path.join(root, "sys/class/power_supply")
    batteries: list[Battery] = []
    mains: dict[str, str] = {}
    for name in listed(base):
        folder = os.path.join(base, name)
        kind = text(os.path.join(folder, "type")) or ""
        if text(os.path.join(folder, "scope")) == "Device":
            continue
        if kind in ("Battery", "UPS"):
            if text(os.path.join(folder, "present")) != "0":
                paths = {f: os.path.join(folder, f) for f in (*_QUANTITIES, "status")}
                batteries.append(Battery(name, {f: p for f, p in paths.items() if os.path.isfile(p)}))
        elif (kind in ("Mains", "Wireless") or kind.startswith("USB")) and os.path.isfile(
            path := os.path.join(folder, "online")
        ):
            mains[name] = path
    if not batteries and not mains:
        return "no battery and no supply in /sys/class/power_supply"
    return Supplies(batteries, mains)
