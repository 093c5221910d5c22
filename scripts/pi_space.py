"""Arm64 Debian user space with EdgeExit in it, built without running a foreign program.

`mmdebstrap --variant=extract` only unpacks packages, and the host's pip unpacks aarch64 wheels beside them, so neither
binfmt nor emulation is needed to make it. What is slow to get is kept in a cache folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

QEMU = "qemu-aarch64-static"
TOOLS = {QEMU: "qemu-user-static", "mmdebstrap": "mmdebstrap"}
"""Program -> its Debian package."""
PACKAGES = ("base-files", "python3", "libstdc++6", "ca-certificates")
"""base-files: since Debian 13 it brings the link /lib."""
ENGINES = ("onnxruntime", "ai-edge-litert")
"""Installed in the version that is installed here: two versions of an engine may round differently."""
PLATFORMS = ("manylinux2014", *(f"manylinux_2_{minor}" for minor in (17, 27, 28, 31, 34, 35, 36)))
"""Wheels that Debian 12's glibc 2.36 can load."""
CPUS = {
    "cortex-a53": ("Pi 3, Zero 2 W", "0xd03", "fp asimd evtstrm crc32 cpuid"),
    "cortex-a72": ("Pi 4", "0xd08", "fp asimd evtstrm crc32 cpuid"),
    "cortex-a76": (
        "Pi 5",
        "0xd0b",
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
}
"""QEMU's name -> boards, part number, features. Never `max`: under QEMU 7.2's SVE, LiteRT's int8 kernels are wrong."""
_TIMEOUT = 300
_IMPATIENT = ("Acquire::http::Timeout=20", "Acquire::Retries=1")
"""apt's options: without a network it shall say so soon."""


class Unobtainable(Exception):
    """Something that has to be downloaded or installed first is not there."""


class Space:
    """The user space in `cache`, ready for `run`; `say` hears what takes time.

    Raises:
        Unobtainable: a tool is missing, or Debian packages or wheels cannot be had.
    """

    def __init__(self, cache: Path, suite: str, wheel: Path, say: Callable[[str], None]) -> None:
        check_tools()
        self.root = cache / f"debian-{suite}-arm64"
        if not (self.root / "usr/bin/python3").is_symlink():
            say(f"Debian {suite} for arm64 into {self.root}")
            _debian(self.root, suite)
        found = sorted((self.root / "usr/lib").glob("python3.*"))
        self.python = found[-1].name.removeprefix("python")
        try:
            pins = [f"{name}=={metadata.version(name)}" for name in ENGINES]
        except metadata.PackageNotFoundError as e:
            raise Unobtainable(f"{e.name} is not installed here to compare with: make setup") from e
        key = hashlib.sha256("\n".join([*_requirements(wheel), *pins, *PLATFORMS, self.python]).encode()).hexdigest()
        libraries = self.root / f"opt/libraries-{key[:12]}"
        if not libraries.exists():
            for old in self.root.glob("opt/libraries-*"):
                shutil.rmtree(old)
            say(f"aarch64 wheels for Python {self.python}: edgeexit[onnx,tflite] with {', '.join(pins)}")
            _wheels(libraries, [f"{wheel}[onnx,tflite]", *pins], self.python)
        # The libraries came with a wheel of an earlier day: the one under test comes first on the path.
        shutil.rmtree(self.root / "opt/edgeexit", ignore_errors=True)
        _wheels(self.root / "opt/edgeexit", ["--no-deps", str(wheel)], self.python)
        self.path = f"/opt/edgeexit:/opt/{libraries.name}"
        shutil.copy2(str(shutil.which(QEMU)), self.root / QEMU)
        (self.root / "tmp").mkdir(exist_ok=True)

    def copy(self, source: Path) -> str:
        """Put a file or folder inside; its path there."""
        there = self.root / "opt" / source.name
        if source.is_dir():
            shutil.rmtree(there, ignore_errors=True)
            shutil.copytree(source, there)
        else:
            shutil.copy2(source, there)
        return f"/opt/{source.name}"

    def become(self, cpu: str) -> None:
        """Describe `cpu` in /proc and /sys as a Pi would.

        These are small files of our own: shown the x86 host's, onnxruntime dies of a segmentation fault.
        """
        _, part, features = CPUS[cpu]
        entry = (
            f"BogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
            f"CPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 3\n"
        )
        files = {f"sys/devices/system/cpu/{name}": "0-3\n" for name in ("possible", "present", "online")}
        files["proc/cpuinfo"] = "\n".join(f"processor\t: {i}\n{entry}" for i in range(4))
        for name, text in files.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(text)

    def start(self, cpu: str, *words: str) -> subprocess.Popen[str]:
        """Python inside, on that instruction set."""
        command = ["chroot", str(self.root), f"/{QEMU}", "-cpu", cpu, "/usr/bin/python3", *words]
        clean = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": self.path,
            "OMP_NUM_THREADS": "1",
            "HOME": "/tmp",
        }
        return subprocess.Popen(command, env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def check_tools() -> None:
    """Raise Unobtainable unless this machine can make and enter the user space."""
    if os.geteuid() != 0:
        raise Unobtainable("needs root, for chroot (a container will do)")
    if lacking := [package for tool, package in TOOLS.items() if shutil.which(tool) is None]:
        raise Unobtainable(f"apt-get install --no-install-recommends {' '.join(lacking)}  (or give --install)")
    _run(["chroot", "/", "true"], "chroot is not allowed here")


def install_tools() -> None:
    """Install with apt-get what `check_tools` would miss.

    Raises:
        Unobtainable: there is no apt-get, or it fails.
    """
    lacking = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if lacking and os.geteuid() == 0:
        apt = ["apt-get", "-q", *(word for option in _IMPATIENT for word in ("-o", option))]
        _run([*apt, "update"], "Debian's package lists cannot be had")
        _run([*apt, "install", "-y", "--no-install-recommends", *lacking], "Debian packages cannot be had")


def _debian(root: Path, suite: str) -> None:
    part = root.with_name(root.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    wanted = ["--arch=arm64", "--variant=extract", f"--include={','.join(PACKAGES)}"]
    wanted += [f"--aptopt={name} {value}" for name, _, value in (option.partition("=") for option in _IMPATIENT)]
    _run(["mmdebstrap", *wanted, suite, str(part)], f"Debian {suite} for arm64 cannot be had")
    part.rename(root)


def _wheels(target: Path, wanted: Sequence[str], python: str) -> None:
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    foreign = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    foreign += [word for p in PLATFORMS for word in ("--platform", f"{p}_aarch64")]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(part)]
    _run([*pip, *foreign, *wanted], "aarch64 wheels cannot be had")
    part.rename(target)


def _run(command: Sequence[str], problem: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Unobtainable(f"{problem}: {e}") from e
    if done.returncode != 0:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        told = [line for line in lines if line.startswith(("E:", "ERROR"))] or lines or ["no reason given"]
        raise Unobtainable(f"{problem}: {' '.join(told[:2])}")


def _requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return [line for line in archive.read(name).decode().splitlines() if line.startswith("Requires-Dist")]
