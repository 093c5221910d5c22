"""Overhead of the governor: time of a step, share of a core at 5 Hz, and time added per input.

Targets: under 1 % of a core; within 5 us per input.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

import edgeexit
from benchmarks.common import finish, parser
from edgeexit.governor import Governor, GovernorSettings, Ladder
from edgeexit.monitor import default_reader

ROOT = Path(__file__).parents[1]


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--bundle", type=Path, default=ROOT / "models/bundles/digits.edgeexit", help="[default: digits]")
    p.add_argument(
        "--n", type=int, default=300, help="rounds of 50 inputs, alternately without and with governor [default: 300]"
    )
    a = p.parse_args()
    engine = edgeexit.load(a.bundle, artifact="fused", exit=0, warmup=20)
    x = engine.example()[0]
    reader = default_reader()
    # One step: the same work with and without, so that the difference is the governor alone.
    full = Ladder.solved(engine)
    ladder = Ladder((full.steps[0],), False)
    settings = GovernorSettings(interval_s=0.2, latency_p90_s=1.0)
    governor = Governor(engine, reader, settings, ladder=ladder)
    steps = []
    for _ in range(200):
        start = time.thread_time()
        governor.step()
        steps.append(time.thread_time() - start)
    off, on = [], []
    for i in range(2 * a.n):
        governed = i % 2 == 1
        governor = Governor(engine, reader, settings, ladder=ladder)
        if governed:
            governor.start()
        for _ in range(5):
            engine.run(x)
        start = time.perf_counter()
        for _ in range(50):
            engine.run(x)
        (on if governed else off).append((time.perf_counter() - start) / 50)
        if governed:
            governor.stop()
    added = np.array(on) - np.array(off)
    rows = [
        {"case": "step", "p50_us": 1e6 * float(np.median(steps)), "p90_us": 1e6 * float(np.quantile(steps, 0.9)),
         "share_of_core_at_5_hz": 5 * float(np.mean(steps))},
        {"case": "per input", "off_us": 1e6 * float(np.median(off)), "on_us": 1e6 * float(np.median(on)),
         "added_us": 1e6 * float(np.median(added)), "low": 1e6 * float(np.quantile(added, 0.1)),
         "high": 1e6 * float(np.quantile(added, 0.9))},
    ]  # fmt: skip
    finish("governor", rows, a, n=a.n, threads=1, engine=engine.backend.version(), bundle=engine.bundle.manifest.name)


if __name__ == "__main__":
    main()
