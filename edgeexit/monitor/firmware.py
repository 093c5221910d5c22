"""What only a Raspberry Pi's firmware knows: throttling flags, and on a Pi 5 the power of the regulator's rails.

It is asked through the program `vcgencmd`, whose start costs milliseconds: `background.py` keeps it off the readings.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable

from edgeexit.monitor.files import Seen
from edgeexit.monitor.reading import Throttled

Vcgencmd = Callable[[str], str]
"""A command such as "get_throttled" -> what the firmware printed."""

_SECONDS = 2.0
_MAX_TEXT = 8192
_FLAGS = re.compile(r"throttled=0x([0-9a-fA-F]{1,8})\s*")
_RAIL = re.compile(r"\s*(\w{1,32})_[AV](?:\s+\w{1,16}\([0-9]{1,4}\))?=([0-9]{1,6}(?:\.[0-9]{1,12})?)([AV])\s*")
"""`VDD_CORE_A current(7)=2.5A` of most firmware, `VDD_CORE_A=2.5A` of some."""


def find_vcgencmd() -> Vcgencmd | None:
    """The program of that name, if this system has it."""
    program = shutil.which("vcgencmd")
    if program is None:
        return None

    def ask(command: str) -> str:
        import subprocess  # only a Raspberry Pi pays for it

        done = subprocess.run([program, command], capture_output=True, timeout=_SECONDS, stdin=subprocess.DEVNULL)
        return (done.stdout or done.stderr)[:_MAX_TEXT].decode("ascii", "replace")

    return ask


def flags(said: str) -> Throttled:
    """The flags in what `get_throttled` printed.

    Raises:
        ValueError: it printed something else.
    """
    if not (found := _FLAGS.fullmatch(said.strip())):
        raise ValueError(f"expected throttled=0x..., found {said.strip()[:60]!r}")
    return Throttled(int(found[1], 16))


def rail_watts(said: str) -> float:
    """Sum over the rails of volts times amperes, in what `pmic_read_adc` printed.

    Voltages without a current (the 5 V input, the clock's battery) do not count: the regulator does not measure
    those, so what USB ports and the 5 V pins feed is missing from the sum.

    Raises:
        ValueError: no rail, a line that is something else, or a current without its voltage, as in a text that was cut
            off: a sum of what is left would be too small.
    """
    amperes: dict[str, float] = {}
    volts: dict[str, float] = {}
    for line in said[:_MAX_TEXT].splitlines():
        found = _RAIL.fullmatch(line)
        if found is None and line.strip("\0 "):
            raise ValueError(f"expected a current or voltage of a rail, found {line.strip()[:60]!r}")
        if found is not None:
            (amperes if found[3] == "A" else volts)[found[1]] = float(found[2])
    if not amperes:
        raise ValueError(f"expected currents and voltages of rails, found {said.strip()[:60]!r}")
    if lost := sorted(amperes.keys() - volts.keys()):
        raise ValueError(f"{len(lost)} rails have a current but no voltage, {lost[0]} first")
    return math.fsum(current * volts[rail] for rail, current in amperes.items())


class Firmware:
    """The answers to two questions; which of them this firmware can answer was tried before."""

    where = "vcgencmd"

    def __init__(self, ask: Vcgencmd, fields: tuple[str, ...]) -> None:
        self.ask, self.fields = ask, fields

    def read(self, seen: Seen) -> None:
        if "throttled" in self.fields:
            try:
                found = flags(str(self.ask("get_throttled")))
                seen.put("throttled", found, "vcgencmd get_throttled")
                if "throttled" in seen.values and "under_voltage" in self.fields:
                    seen.put("under_voltage", found.under_voltage_now, "vcgencmd get_throttled")
            except Exception as e:  # the callable is anybody's
                seen.problem("throttled", "vcgencmd get_throttled", said_by(e))
        if "power_w" in self.fields:
            try:
                seen.put("power_w", rail_watts(str(self.ask("pmic_read_adc"))), "vcgencmd pmic_read_adc")
            except Exception as e:
                seen.problem("power_w", "vcgencmd pmic_read_adc", said_by(e))


def said_by(error: Exception) -> str:
    """An exception as one short line."""
    found = " ".join(str(getattr(error, "strerror", None) or error).split())[:120]
    return found if isinstance(error, ValueError | OSError) and found else f"{type(error).__name__} {found}".strip()


def find_firmware(ask: Vcgencmd | None) -> tuple[Firmware | None, dict[str, str]]:
    """What this firmware answers, and for each of its fields that stays unknown, why."""
    if ask is None:
        why = "only a Raspberry Pi's vcgencmd tells, and it is not here"
        return None, dict.fromkeys(("throttled", "under_voltage", "power_w"), why)
    fields: list[str] = []
    unknown: dict[str, str] = {}
    try:
        flags(str(ask("get_throttled")))
        fields += ["throttled", "under_voltage"]
    except Exception as e:
        hint = f"vcgencmd get_throttled: {said_by(e)} (is this user in the group `video`?)"
        unknown |= {"throttled": hint, "under_voltage": hint}
    try:
        rail_watts(str(ask("pmic_read_adc")))
        fields.append("power_w")
    except Exception as e:
        unknown["power_w"] = f"vcgencmd pmic_read_adc, which a Raspberry Pi 5 has: {said_by(e)}"
    return (Firmware(ask, tuple(fields)) if fields else None), unknown
