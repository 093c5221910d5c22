"""Compare a shipped bundle's answers on a Raspberry Pi's instruction sets with those here: `make test-pi`.

The built wheel, its `onnx` and `tflite` extras as aarch64 wheels and Debian's arm64 Python run under qemu-user as
Cortex-A53, A72 and A76. Every artifact must pass its own vectors, and int8 TFLite must give the very bytes it gives on
this machine. Emulated: this says nothing about time, power or heat. Exit code 1 = an answer differs or a process died;
0 = passed, or skipped because packages cannot be had (1 with --require).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pi_space import CPUS, Space, Unobtainable, check_tools, install_tools

from edgeexit.cli.common import table

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "models/bundles/resnet8-cifar10.edgeexit"
REPLAY = ROOT / "scripts/pi_replay.py"
FORMATS = ("onnx", "tflite")
_TIMEOUT = 900


@dataclass(frozen=True)
class Side:
    """What one machine made of one format's artifacts."""

    told: dict[str, Any]
    """What `pi_replay.py` printed."""
    outputs: dict[str, Any]
    """`<artifact>/<exit>` -> `(n, ...)`"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--cache", type=Path, default=default_cache(), help="or EDGEEXIT_PI_CACHE; 290 MB")
    parser.add_argument("--suite", default="bookworm", help="Debian release")
    parser.add_argument("--install", action="store_true", help="apt-get install the tools that are missing")
    parser.add_argument("--require", action="store_true", help="exit code 1 instead of skipping")
    given = parser.parse_args()
    try:
        if given.install:
            install_tools()
        check_tools()
        with tempfile.TemporaryDirectory() as work, _alone(given.cache):
            space = Space(given.cache, given.suite, _wheel(Path(work)), say=lambda text: print(text, flush=True))
            problems = compare(space, given.bundle, Path(work))
    except Unobtainable as e:
        print(f"test-pi {'failed' if given.require else 'skipped'}: {e}")
        sys.exit(int(given.require))
    if problems:
        sys.exit("test-pi failed:\n" + "\n".join(f"  {p}" for p in problems))
    print("test-pi passed")


def default_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("EDGEEXIT_PI_CACHE") or Path(home) / "edgeexit/pi")


def compare(space: Space, bundle: Path, work: Path) -> list[str]:
    """Run everywhere and print the tables; what went wrong."""
    try:
        here = [_finish(_start_here(bundle, f, work / f"{f}.npz"), work / f"{f}.npz") for f in FORMATS]
    except RuntimeError as e:
        return [f"on this machine: {e}"]
    inside, replay = space.copy(bundle), space.copy(REPLAY)
    rows, machines, problems = [], [_machine("this machine", side) for side in here], []
    for cpu in CPUS:
        space.become(cpu)
        started = [space.start(cpu, replay, inside, f, f"/tmp/{f}.npz") for f in FORMATS]
        for f, process, reference in zip(FORMATS, started, here, strict=True):
            try:
                side = _finish(process, space.root / f"tmp/{f}.npz")
            except RuntimeError as e:
                problems.append(f"{cpu}, {f}: {e}")
                continue
            machines.append(_machine(cpu, side))
            for verified in side.told["verified"]:
                row, wrong = judge(cpu, verified, reference, side)
                rows.append(row)
                problems += wrong
    print(
        table([["cpu", "artifact", "exits agree", "largest error", "tolerance", "against this machine", "md5"], *rows])
    )
    print("\nPeak memory of the process (ru_maxrss); under qemu the emulator and its translated code are included.\n")
    print(table([["machine", "engine", "Python, numpy", "peak MB"], *machines]))
    return problems


def judge(cpu: str, verified: dict[str, Any], reference: Side, side: Side) -> tuple[list[str], list[str]]:
    """One artifact's row of the table, and what is wrong with it."""
    name = verified["artifact"]
    wrong = [] if verified["passed"] else [f"{cpu}, {name}: {verified['reason']}"]
    keys = [k for k in side.outputs if k.startswith(f"{name}/")]
    pairs = [(reference.outputs[k], side.outputs[k]) for k in keys]
    same = bool(pairs) and all(a.tobytes() == b.tobytes() and a.dtype == b.dtype for a, b in pairs)
    n = len(pairs[0][1]) if pairs else 0
    if same:
        told = f"identical, {n} inputs"
    else:
        told = f"off by {max((float(np.abs(a - b).max()) for a, b in pairs), default=np.nan):.1e}, {n} inputs"
        if name.startswith("tflite") and name.endswith("int8"):
            wrong.append(f"{cpu}, {name}: int8 outputs {told}, expected the same bytes")
    agree = "-" if verified["exits_agree"] is None else f"{verified['exits_agree']} of {verified['inputs']}"
    error, tolerance = max(verified["max_error"], default=np.nan), verified["tolerance"] or np.nan
    md5 = hashlib.md5(b"".join(b.tobytes() for _, b in pairs), usedforsecurity=False).hexdigest()[:8]
    return [cpu, name, agree, f"{error:.1e}", f"{tolerance:.0e}", told, md5], wrong


def _machine(name: str, side: Side) -> list[str]:
    t = side.told
    boards = f" ({CPUS[name][0]})" if name in CPUS else ""
    return [f"{name}{boards}, {t['machine']}", t["engine"], f"{t['python']}, {t['numpy']}", f"{t['max_rss_mb']:.0f}"]


def _start_here(bundle: Path, engine: str, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(REPLAY), str(bundle), engine, str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _finish(process: subprocess.Popen[str], out: Path) -> Side:
    """Wait for a replay and read what it left.

    Raises:
        RuntimeError: it died; the message has the signal, or its last line.
    """
    try:
        text, errors = process.communicate(timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise RuntimeError(f"no answer within {_TIMEOUT} s") from None
    if process.returncode != 0:
        signals = {-4: "illegal instruction", -11: "segmentation fault"}
        last = (errors.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"died of {signals.get(process.returncode, f'exit code {process.returncode}')}: {last}")
    with np.load(out) as arrays:
        return Side(json.loads(text.splitlines()[-1]), dict(arrays))


def _wheel(work: Path) -> Path:
    command = [sys.executable, "-m", "build", "--quiet", "--wheel", "--no-isolation", "--outdir", str(work), str(ROOT)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"test-pi failed: the wheel cannot be built\n{done.stdout}")
    return next(work.glob("*.whl"))


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Keep two runs out of one user space."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    main()
