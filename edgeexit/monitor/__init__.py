"""System readings: temperature, throttling, contention, memory, battery, power.

::

    from edgeexit.monitor import default_reader

    reading = default_reader().read()  # Reading(temperature_c=61.8, throttled=None, load_per_cpu=0.4, ...)

None = unknown on this device (docs/monitor.md).
"""

from edgeexit.monitor.hosts import PsutilReader, default_reader
from edgeexit.monitor.linux import LinuxReader
from edgeexit.monitor.reading import SIGNALS, Reader, Reading, Throttled

__all__ = ["LinuxReader", "PsutilReader", "Reader", "Reading", "SIGNALS", "Throttled", "default_reader"]
