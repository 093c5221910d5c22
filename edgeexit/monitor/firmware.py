"""Raspberry Pi firmware through `vcgencmd`: throttling flags, power of a Pi 5's rails, temperature and clock.

Temperature and clock are asked only where the kernel's files fail. Starting the program takes milliseconds, so
`background.py` runs it in a thread.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Callable, Collection
from typing import Any

from edgeexit.monitor.files import ReadingBuilder, read
from edgeexit.monitor.ranges import outside
from edgeexit.monitor.reading import Throttled

Vcgencmd = Callable[[str], str]
"""A command such as "get_throttled" -> what the firmware printed."""

_SECONDS = 2.0
_MAX_TEXT = 8192
_FLAGS = re.compile(r"throttled=0x([0-9a-fA-F]{1,8})\s*")
_DEGREES = re.compile(r"temp=(-?[0-9]{1,4}(?:\.[0-9]{1,4})?)'C")
_CLOCK = re.compile(r"frequency\([0-9]{1,4}\)=([0-9]{1,12})|arm_freq=([0-9]{1,6})")
_RAIL = re.compile(r"\s*(\w{1,32})_[AV](?:\s+\w{1,16}\([0-9]{1,4}\))?=([0-9]{1,6}(?:\.[0-9]{1,12})?)([AV])\s*")
"""`VDD_CORE_A current(7)=2.5A` of most firmware, `VDD_CORE_A=2.5A` of some."""


def find_vcgencmd() -> Vcgencmd | None:
    """The program of that name, if this system has it."""
    program = shutil.which("vcgencmd")
    if program is None:
        return None

    def ask(command: str) -> str:
        import subprocess  # imported on a Raspberry Pi only

        done = subprocess.run(
            [program, *command.split()], capture_output=True, timeout=_SECONDS, stdin=subprocess.DEVNULL
        )
        return (done.stdout or done.stderr)[:_MAX_TEXT].decode("ascii", "replace")

    return ask


def flags(output: str) -> Throttled:
    """The flags in what `get_throttled` printed.

    Raises:
        ValueError: it printed something else.
    """
    if not (match := _FLAGS.fullmatch(output.strip())):
        raise ValueError(f"expected throttled=0x..., found {output.strip()[:60]!r}")
    return Throttled(int(match[1], 16))


def rail_watts(output: str) -> float:
    """Sum over the rails of volts times amperes, in what `pmic_read_adc` printed.

    Voltages without a current (the 5 V input, the clock's battery) do not count: the regulator does not measure
    those, so what USB ports and the 5 V pins feed is missing from the sum.

    Raises:
        ValueError: no rail, another kind of line, or a current without its voltage, as in a truncated text: the sum of
            the rest would be too small.
    """
    amperes: dict[str, float] = {}
    volts: dict[str, float] = {}
    for line in output[:_MAX_TEXT].splitlines():
        match = _RAIL.fullmatch(line)
        if match is None and line.strip("\0 "):
            raise ValueError(f"expected a current or voltage of a rail, found {line.strip()[:60]!r}")
        if match is not None:
            (amperes if match[3] == "A" else volts)[match[1]] = float(match[2])
    if not amperes:
        raise ValueError(f"expected currents and voltages of rails, found {output.strip()[:60]!r}")
    if lost := sorted(amperes.keys() - volts.keys()):
        raise ValueError(f"{len(lost)} rails have a current but no voltage, {lost[0]} first")
    return math.fsum(current * volts[rail] for rail, current in amperes.items())


def degrees(output: str) -> float:
    """The temperature in what `measure_temp` printed.

    Raises:
        ValueError: it printed something else.
    """
    if not (match := _DEGREES.fullmatch(output.strip())):
        raise ValueError(f"expected temp=...'C, found {output.strip()[:60]!r}")
    return float(match[1])


def hertz(output: str) -> float:
    """The clock in what `measure_clock arm` or `get_config arm_freq` printed, the latter in MHz.

    Raises:
        ValueError: it printed something else.
    """
    if not (match := _CLOCK.fullmatch(output.strip())):
        raise ValueError(f"expected frequency(..)=... or arm_freq=..., found {output.strip()[:60]!r}")
    value = int(match[1]) if match[1] else int(match[2]) * 1_000_000
    if (why := outside("clock", value)) is not None:
        raise ValueError(why)
    return float(value)


class Question:
    """One question to the firmware and the fields that its answer provides."""

    def __init__(self, ask: Vcgencmd, command: str, fields: tuple[str, ...], answer: Callable[[str], Any]) -> None:
        self.ask, self.command, self.fields, self.answer = ask, command, fields, answer
        self.where = f"vcgencmd {command}"

    def value(self) -> Any:
        """The answer, or what the callable or the parser raises."""
        return self.answer(str(self.ask(self.command)))

    def read(self, builder: ReadingBuilder) -> None:
        try:
            value = self.value()
        except Exception as e:  # the callable is the user's
            builder.problem(self.fields[0], self.where, error_text(e))
            return
        builder.put(self.fields[0], value, self.where)
        if "under_voltage" in self.fields and "throttled" in builder.values:
            builder.put("under_voltage", value.under_voltage_now, self.where)


class ThrottledFile:
    """The flags from a file of older kernels, for where vcgencmd fails; reading it makes the kernel log a warning."""

    fields = ("throttled", "under_voltage")

    def __init__(self, path: str) -> None:
        self.path, self.where = path, "soc:firmware get_throttled"

    def read(self, builder: ReadingBuilder) -> None:
        try:
            value = flags(f"throttled=0x{read(self.path, 64).strip().removeprefix('0x')}")
        except (OSError, ValueError) as e:
            builder.problem("throttled", self.where, e)
            return
        builder.put("throttled", value, self.where)
        if "throttled" in builder.values:
            builder.put("under_voltage", builder.values["throttled"].under_voltage_now, self.where)


def error_text(error: Exception) -> str:
    """An exception as one short line."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())[:120]
    return text if isinstance(error, ValueError | OSError) and text else f"{type(error).__name__} {text}".strip()


def find_firmware(
    root: str, ask: Vcgencmd | None, known: Collection[str] = (), highest_hz: float | None = None
) -> tuple[list[Question | ThrottledFile], dict[str, str]]:
    """Questions that this firmware answers, and for each field that stays unknown, why.

    Args:
        root: the folder that holds `sys`.
        ask: the program, if there is one.
        known: fields with a source that needs no program: for these the firmware is asked only where that fails.
        highest_hz: the processor's highest clock from cpufreq; None = ask the firmware.
    """
    questions: list[Question | ThrottledFile] = []
    unknown: dict[str, str] = {}
    if ask is None:
        why = "only a Raspberry Pi's vcgencmd reports it, which is not installed"
        unknown = dict.fromkeys(("throttled", "under_voltage", "power_w"), why)
    else:
        for question, hint in _questions(ask, highest_hz):
            try:
                if question.fields[0] not in known:
                    question.value()
                questions.append(question)
            except Exception as e:
                unknown |= dict.fromkeys(question.fields, hint.format(f"{question.where}", error_text(e)))
    path = os.path.join(root, "sys/devices/platform/soc/soc:firmware/get_throttled")
    if os.path.isfile(path):
        questions.append(ThrottledFile(path))
    return questions, unknown


def _questions(ask: Vcgencmd, highest_hz: float | None) -> list[tuple[Question, str]]:
    """Questions, each with the message for no answer."""

    def ratio(output: str) -> float:
        return hertz(output) / (highest_hz or hertz(str(ask("get_config arm_freq"))))

    return [
        (
            Question(ask, "get_throttled", ("throttled", "under_voltage"), flags),
            "{}: {} (is this user in the group `video`?)",
        ),
        (Question(ask, "pmic_read_adc", ("power_w",), rail_watts), "{}, which a Raspberry Pi 5 has: {}"),
        (Question(ask, "measure_temp", ("temperature_c",), degrees), "{}: {}"),
        (Question(ask, "measure_clock arm", ("cpu_frequency_ratio",), ratio), "{}: {}"),
    ]
