"""Simulation of a Pi-class board with a camera, without and with governor.

Exits, scores and outputs are real (a shipped bundle on its own test set); clock, stage times and heat are simulated
(`edgeexit.testing.ThermalBoard`): the numbers are reproducible and say nothing about a real board.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.common import finish, parser
from edgeexit import fixed_exit
from edgeexit.bundle.bundle import Bundle
from edgeexit.engine.engine import Engine
from edgeexit.governor import Governor, GovernorSettings, Ladder
from edgeexit.testing import FakeClock, PacedBackend, ThermalBoard
from edgeexit_runtimes.onnx import OnnxBackend

ROOT = Path(__file__).parents[1]
STAGE_S = (0.008, 0.012, 0.016)
"""Seconds per stage at full frequency."""


@dataclass(frozen=True)
class Simulated:
    """One run."""

    governor: bool
    inputs: int
    hottest_c: float
    over_limit_share: float
    """Of the time, above the board's limit."""
    missed_share: float
    accuracy: float
    exit_rates: tuple[float, ...]
    mean_budget: float | None


def simulate(
    governed: bool, *, minutes: float = 20.0, rate: float = 25.0, settings: GovernorSettings | None = None
) -> Simulated:
    """One picture every 1/rate seconds, each with that deadline.

    Args:
        governed: with the governor; without it, the last exit is allowed always.
        minutes: of simulated time.
        rate: pictures per second.
        settings: of the governor; None = the default curves.
    """
    bundle = Bundle.open(ROOT / "models/bundles/digits.edgeexit")
    with np.load(ROOT / "models/edgeexit_models/data/optdigits.npz") as file:
        x, y = file["x_test"][:, None].astype(np.float32), file["y_test"]
    clock = FakeClock()
    board = ThermalBoard(clock)
    backend = PacedBackend(OnnxBackend(), clock, {})
    artifact = next(a for a in bundle.manifest.artifacts if a.layout == "chain")
    engine = Engine(bundle, artifact, backend, fixed_exit(2, 3), warmup=0, clock=clock)
    engine.use_profile(STAGE_S)
    governor = None
    if governed:
        fused = next(a for a in bundle.manifest.artifacts if a.layout == "fused")  # the scores are kept with this one
        solver = Engine(bundle, fused, OnnxBackend(), fixed_exit(2, 3), warmup=0)
        solver.use_profile(np.cumsum(STAGE_S).tolist())
        governor = Governor(engine, board, settings, ladder=Ladder.solved(solver), clock=clock)
        governor.attach()
    period = 1 / rate
    exits, right, missed, hot, budgets = [], 0, 0, 0.0, []
    count = int(minutes * 60 * rate)
    stepped = -np.inf
    for i in range(count):
        begin = clock()
        if governor is not None and begin - stepped >= governor.settings.interval_s:
            budgets.append(governor.step().budget)
            stepped = begin
        slow = board.frequency_ratio
        backend.seconds = {f"stage_{k}.onnx": s / slow for k, s in enumerate(STAGE_S)}
        decision = engine.run(x[i % len(x)])
        busy = clock() - begin
        missed += busy > period
        exits.append(decision.exit)
        right += int(decision.label == y[i % len(y)])
        idle = max(period - busy, 0.0)
        clock.advance(idle)
        board.spend(busy, idle)
        hot += (busy + idle) * (board.temperature_c > board.limit_c)
    return Simulated(
        governed, count, board.hottest_c, hot / clock(), missed / count, right / count,
        tuple((np.bincount(exits, minlength=3) / count).tolist()), float(np.mean(budgets)) if budgets else None,
    )  # fmt: skip


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--minutes", type=float, default=20.0, help="simulated time [default: 20]")
    a = p.parse_args()
    rows = [asdict(simulate(on, minutes=a.minutes)) for on in (False, True)]
    finish("sim_governor", rows, a, n=len(rows), threads=1, minutes=a.minutes, model="ThermalBoard, digits bundle")


if __name__ == "__main__":
    main()
