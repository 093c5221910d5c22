"""Trees of /sys and /proc as small boards and containers have them, written from dicts; and their firmware's answers.

The texts follow the formats of the kernel's documentation and of outputs that owners of boards have published; none
was recorded on a board of our own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

Files = dict[str, str]


def write(root: Path, files: Mapping[str, str]) -> Path:
    """Write a tree; returns its root."""
    for path, said in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # truncating would make some file systems flush, which takes long
        target.write_bytes(said.encode("utf-8", "surrogateescape"))
    return root


def firmware(answers: Mapping[str, str]) -> Callable[[str], str]:
    """A `vcgencmd` that gives these answers, and the firmware's own words to any other question."""
    return lambda command: answers.get(command, 'error=1 error_msg="Command not registered"\n')


def _pi(model: str, highest: int, clock: int, millidegrees: int, load: str, psi: bool = True) -> Files:
    found = {
        "proc/device-tree/model": f"{model}\0",
        "proc/loadavg": f"{load} 2/180 4321\n",
        "proc/meminfo": "MemTotal:        3882212 kB\nMemFree:          402812 kB\nMemAvailable:    2957304 kB\n",
        "proc/self/status": "Name:\tpython3\nCpus_allowed:\tf\nCpus_allowed_list:\t0-3\n",
        "proc/self/cgroup": "0::/user.slice/user-1000.slice/session-1.scope\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": f"{millidegrees}\n",
        "sys/class/hwmon/hwmon0/name": "cpu_thermal\n",
        "sys/class/hwmon/hwmon0/temp1_input": f"{millidegrees}\n",
        "sys/class/hwmon/hwmon1/name": "rpi_volt\n",
        "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "0\n",
        "sys/devices/system/cpu/online": "0-3\n",
        "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq": f"{highest}\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": f"{highest}\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": f"{clock}\n",
        # cgroup v2 as Raspberry Pi OS has it: no memory controller, no quota in a session
        "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n",
        "sys/fs/cgroup/user.slice/cpu.max": "max 100000\n",
    }
    if psi:
        found["proc/pressure/cpu"] = "some avg10=1.25 avg60=0.80 avg300=0.40 total=123456\nfull avg10=0.00 avg60=0.00\n"
        found["proc/pressure/memory"] = "some avg10=0.00 avg60=0.00 avg300=0.00 total=12\n"
    return found


PI4 = _pi("Raspberry Pi 4 Model B Rev 1.4", 1_800_000, 1_800_000, 48_199, "0.52 0.58 0.59")
PI4_FIRMWARE = {"get_throttled": "throttled=0x0\n"}

PI4_HOT = _pi("Raspberry Pi 4 Model B Rev 1.4", 1_800_000, 1_000_000, 82_300, "6.00 4.20 2.10", psi=False) | {
    "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1\n",
}
PI4_HOT_FIRMWARE = {"get_throttled": "throttled=0xf000f\n"}

PI5 = _pi("Raspberry Pi 5 Model B Rev 1.0", 2_400_000, 2_400_000, 55_750, "1.00 0.90 0.70")
PMIC = """\
   3V7_WL_SW_A current(0)=0.05000000A
     3V3_SYS_A current(1)=0.10000000A
    VDD_CORE_A current(7)=2.00000000A
    DDR_VDDQ_A current(4)=0.00000000A
   3V7_WL_SW_V volt(8)=3.70000000V
     3V3_SYS_V volt(9)=3.30000000V
    VDD_CORE_V volt(15)=0.80000000V
    DDR_VDDQ_V volt(12)=0.60000000V
       EXT5V_V volt(24)=5.10000000V
        BATT_V volt(25)=0.00512820V
"""
PMIC_WATTS = 0.05 * 3.7 + 0.1 * 3.3 + 2.0 * 0.8
PI5_FIRMWARE = {"get_throttled": "throttled=0x0\n", "pmic_read_adc": PMIC}

VM = {
    "proc/loadavg": "0.10 0.20 0.30 1/90 77\n",
    "proc/meminfo": "MemTotal: 2000000 kB\nMemFree: 100 kB\nMemAvailable: 1500000 kB\n",
    "proc/pressure/cpu": "some avg10=99.12 avg60=50.00 avg300=10.00 total=1\n",
    "proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "proc/self/status": "Cpus_allowed_list:\t0-1\n",
    "proc/self/cgroup": "0::/\n",
    "sys/devices/system/cpu/online": "0-1\n",
    "sys/class/thermal/cooling_device0/type": "Processor\n",
}
"""Nothing to measure heat, clock or power with."""

CGROUP1 = VM | {
    "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n0::/\n",
    "sys/devices/system/cpu/online": "0-7\n",
    "proc/self/status": "Cpus_allowed_list:\t0-7\n",
    # in a container the mount is already the group: the path of /proc/self/cgroup is the host's
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "400000000\n",
    "sys/fs/cgroup/memory/memory.stat": "cache 9\ninactive_file 1\ntotal_inactive_file 100000000\n",
    "sys/fs/cgroup/unified/cgroup.controllers": "\n",
}

CGROUP2 = VM | {
    "proc/self/cgroup": "0::/box/job\n",
    "sys/devices/system/cpu/online": "0-3\n",
    "proc/self/status": "Cpus_allowed_list:\t0-3\n",
    "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
    "sys/fs/cgroup/box/cpu.max": "50000 100000\n",
    "sys/fs/cgroup/box/memory.max": "1000000000\n",
    "sys/fs/cgroup/box/memory.current": "900000000\n",
    "sys/fs/cgroup/box/memory.stat": "anon 1\ninactive_file 50000000\n",
    "sys/fs/cgroup/box/job/cpu.max": "200000 100000\n",
    "sys/fs/cgroup/box/job/memory.max": "max\n",
    "sys/fs/cgroup/box/job/memory.current": "900000000\n",
}
"""The outer group's half a CPU and 1 GB hold, whatever the inner one says."""

LAPTOP = VM | {
    "sys/class/thermal/thermal_zone0/type": "acpitz\n",
    "sys/class/thermal/thermal_zone0/temp": "27800\n",
    "sys/class/thermal/thermal_zone1/type": "x86_pkg_temp\n",
    "sys/class/thermal/thermal_zone1/temp": "61000\n",
    "sys/class/power_supply/AC/type": "Mains\n",
    "sys/class/power_supply/AC/online": "0\n",
    "sys/class/power_supply/BAT0/type": "Battery\n",
    "sys/class/power_supply/BAT0/present": "1\n",
    "sys/class/power_supply/BAT0/status": "Discharging\n",
    "sys/class/power_supply/BAT0/capacity": "80\n",
    "sys/class/power_supply/BAT0/charge_now": "4000000\n",
    "sys/class/power_supply/BAT0/voltage_now": "12000000\n",
    "sys/class/power_supply/BAT0/current_now": "-1500000\n",
    "sys/class/power_supply/hid-mouse/type": "Battery\n",
    "sys/class/power_supply/hid-mouse/scope": "Device\n",
    "sys/class/power_supply/hid-mouse/status": "Discharging\n",
    "sys/class/power_supply/hid-mouse/capacity": "3\n",
}

EVERY = PI4 | LAPTOP | CGROUP2 | {"sys/class/thermal/thermal_zone0/type": "cpu-thermal\n"}
"""Every file that a reader opens, for trees that damage each of them. Version 1 of control groups has its own."""
