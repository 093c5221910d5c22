"""Accuracy lost on new rows with thresholds chosen for an allowed drop, over random splits of recorded outputs.

Each split draws the calibration rows; all others are new rows. The expected figures come from the half of the
calibration rows that nothing was chosen on. `covered` is the share of splits whose 95 % interval contains the figure of
the new rows; the interval is widened by their own uncertainty, a factor of sqrt(1 + measuring rows / new rows).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.common import finish, parser
from edgeexit.calibrate import calibrate
from edgeexit.records.base import Rows, outcome, replay
from edgeexit.records.transcripts import load_rows


def over_splits(rows: Rows, n: int, splits: int, drop: float, policy: str | None) -> dict[str, float]:
    """Mean and worst accuracy lost on the rows left out, in points, mean cost, and how often the interval covers."""
    lost, cost, covered = [], [], []
    for seed in range(splits):
        calibration, new = rows.split(n / rows.n, seed)
        design, held_out = calibration.split(0.5, seed)
        point = calibrate(design, policy=policy, accuracy_drop=drop, held_out=held_out)
        result = outcome(replay(point.policy, new), new)
        lost.append(100 * (float(new.correct[-1].mean(dtype=float)) - result.accuracy))
        cost.append(result.cost)
        e = point.expected
        wide = (e["drop_high"] - e["drop"]) * (1 + held_out.n / new.n) ** 0.5
        covered.append(abs(lost[-1] / 100 - e["drop"]) <= wide)
    return {
        "mean_drop": float(np.mean(lost)),
        "error_of_mean": float(np.std(lost) / splits**0.5),
        "worst_drop": float(np.max(lost)),
        "kept": float(np.mean(np.array(lost) <= 100 * drop)),
        "mean_cost": float(np.mean(cost)),
        "covered": float(np.mean(covered)),
    }


def main() -> None:
    p = parser(__doc__)
    p.add_argument("records", nargs="+", type=Path, help="recorded outputs, as for calibrate --records")
    p.add_argument("--rows", default="200,400,1000,5000", help="calibration rows, comma-separated; half of them choose")
    p.add_argument("--splits", type=int, default=200, help="random splits [default: 200]")
    p.add_argument("--drop", type=float, default=0.01, help="allowed loss of accuracy [default: 0.01]")
    p.add_argument(
        "--policies", default="default", help="policy families, comma-separated [default: that of calibrate]"
    )
    a = p.parse_args()
    table = []
    for path in a.records:
        rows = load_rows(path)
        for n in (int(n) for n in a.rows.split(",")):
            for policy in a.policies.split(","):
                if n < rows.n * 0.95:
                    figures = over_splits(rows, n, a.splits, a.drop, None if policy == "default" else policy)
                    table.append({"network": path.stem, "rows": n, "policy": policy, **figures})
                    print(table[-1], flush=True)
    finish("few_rows", table, a)


if __name__ == "__main__":
    main()
