"""Time of one system reading: on this machine, and on synthetic files of a Raspberry Pi, a battery and control groups.

Target: under 2 ms per reading; a governor that reads five times a second then takes under 1 % of one core.
Slow sensors (vcgencmd, batteries) are read in another thread unless the case says otherwise.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, finish, parser
from edgeexit.monitor import LinuxReader

sys.path.append(str(ROOT / "tests"))
import monitor_trees as trees


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--n", type=int, default=2000, help="readings of each case [default: 2000]")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = trees.write(Path(folder), trees.EVERY)
        ask = trees.firmware(trees.PI5_FIRMWARE)
        cases = {
            "this machine": LinuxReader(),
            "tree of every signal": LinuxReader(root, ask),
            "tree of every signal, slow sensors waited for": LinuxReader(root, ask, slow_seconds=0),
        }
        rows = []
        for name, reader in cases.items():
            wall, cpu = measured(reader, a.n)
            rows.append(
                {
                    "case": name,
                    "signals": len(reader.sources),
                    "p50_ms": float(np.median(wall)),
                    "p90_ms": float(np.quantile(wall, 0.9)),
                    "max_ms": float(wall.max()),
                    "percent_of_a_core_at_5_hz": 100 * 5 * cpu,
                }
            )
    finish("monitor", rows, a, n=a.n)


def measured(reader: LinuxReader, n: int) -> tuple[np.ndarray, float]:
    """Milliseconds of every reading `(n,)`, and CPU seconds of one, its threads included."""
    for _ in range(20):
        reader.read()
    wall = np.empty(n)
    begun = time.process_time()
    for i in range(n):
        start = time.perf_counter()
        reader.read()
        wall[i] = 1e3 * (time.perf_counter() - start)
    return wall, (time.process_time() - begun) / n


if __name__ == "__main__":
    main()
