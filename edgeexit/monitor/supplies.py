"""Batteries and mains, from /sys/class/power_supply (micro-volts, -amperes, -watts, -watt-hours, -ampere-hours)."""

from __future__ import annotations

import os

from edgeexit.monitor.files import Seen, listed, text

_FILES = ("capacity", "energy_now", "energy_full", "charge_now", "voltage_now", "power_now", "current_now")


class Supplies:
    """All batteries of this system together; those of a mouse or a keyboard are left out."""

    def __init__(self, batteries: dict[str, dict[str, str]], mains: dict[str, str]) -> None:
        self.batteries = batteries
        """Name -> file -> path, of the files it has."""
        self.mains = mains
        self.where = "power_supply " + ", ".join([*batteries, *mains])
        has = batteries.values()
        self.fields: tuple[str, ...] = ("on_battery",)
        if any("capacity" in files for files in has):
            self.fields += ("battery_percent",)
        if any("energy_now" in files or {"charge_now", "voltage_now"} <= files.keys() for files in has):
            self.fields += ("battery_joules",)
        if any("power_now" in files or {"current_now", "voltage_now"} <= files.keys() for files in has):
            self.fields += ("power_w",)

    def read(self, seen: Seen) -> None:
        status = [self._status(name, files, seen) for name, files in self.batteries.items()]
        plugged = [seen.number("on_battery", path, name) for name, path in self.mains.items()]
        draining: bool | None = None
        if "Discharging" in status:
            draining = True
        elif any(s in ("Charging", "Full", "Not charging") for s in status) or 1 in plugged:
            draining = False
        elif self.batteries and 0 in plugged:
            draining = True
        if draining is not None:
            seen.put("on_battery", draining, self.where)
        levels, joules, watts = [], [], []
        for name, files in self.batteries.items():
            now = {
                file: seen.number(_field(file), path, f"{name} {file}")
                for file, path in files.items()
                if file != "status" and (draining or file not in ("power_now", "current_now"))
            }
            levels.append((now.get("capacity"), now.get("energy_full")))
            joules.append(_joules(now))
            watts.append(_watts(now))
        _put_level(levels, seen)
        if joules and None not in joules:
            seen.put("battery_joules", sum(j for j in joules if j is not None), self.where)
        known = [w for w in watts if w is not None]
        if draining and known and len(known) == len(watts):
            seen.put("power_w", sum(known), self.where)

    def _status(self, name: str, files: dict[str, str], seen: Seen) -> str | None:
        if "status" not in files:
            return None
        if (found := text(files["status"])) is None:
            seen.problem("on_battery", f"{name} status", "cannot be read")
        return found


def _field(file: str) -> str:
    if file == "capacity":
        return "battery_percent"
    return "power_w" if file in ("power_now", "current_now") else "battery_joules"


def _joules(now: dict[str, int | None]) -> float | None:
    if (energy := now.get("energy_now")) is not None:
        return energy * 3600e-6
    charge, volts = now.get("charge_now"), now.get("voltage_now")
    return None if charge is None or volts is None else charge * volts * 3600e-12


def _watts(now: dict[str, int | None]) -> float | None:
    """The sign of a current differs from driver to driver, so it is not used: `status` says the direction."""
    if (power := now.get("power_now")) is not None:
        return abs(power) * 1e-6
    amperes, volts = now.get("current_now"), now.get("voltage_now")
    return None if amperes is None or volts is None else abs(amperes) * volts * 1e-12


def _put_level(levels: list[tuple[int | None, int | None]], seen: Seen) -> None:
    """Percent over all batteries, by what each holds where all say it."""
    known = [(percent, full) for percent, full in levels if percent is not None]
    for percent, _ in known:
        if not 0 <= percent <= 100:
            seen.put("battery_percent", percent, "capacity")
            return
    if not known or len(known) != len(levels):
        return
    weights = [full if full is not None and full > 0 else None for _, full in known]
    total = None if None in weights else sum(w for w in weights if w is not None)
    if total is None:
        level = sum(p for p, _ in known) / len(known)
    else:
        level = sum(p * (w or 0) for (p, _), w in zip(known, weights, strict=True)) / total
    seen.put("battery_percent", float(level), "capacity")


def find_supplies(root: str) -> Supplies | str:
    """Batteries and mains; a text = there are none."""
    base = os.path.join(root, "sys/class/power_supply")
    batteries: dict[str, dict[str, str]] = {}
    mains: dict[str, str] = {}
    for name in listed(base):
        folder = os.path.join(base, name)
        kind = text(os.path.join(folder, "type")) or ""
        if text(os.path.join(folder, "scope")) == "Device":
            continue
        if kind in ("Battery", "UPS"):
            if text(os.path.join(folder, "present")) != "0":
                has = {f: os.path.join(folder, f) for f in (*_FILES, "status")}
                batteries[name] = {f: p for f, p in has.items() if os.path.isfile(p)}
        elif (kind in ("Mains", "Wireless") or kind.startswith("USB")) and os.path.isfile(
            path := os.path.join(folder, "online")
        ):
            mains[name] = path
    if not batteries and not mains:
        return "no battery and no supply that the system knows of"
    return Supplies(batteries, mains)
