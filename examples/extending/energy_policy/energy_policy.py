"""Thresholds under a budget in joules per input, beside thresholds chosen by multiply-accumulates."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import edgeexit
from edgeexit.calibrate import calibrate
from edgeexit.policy.operating_point import OperatingPoint

ROOT = Path(__file__).resolve().parents[3]
JOULES = (0.0031, 0.0042, 0.0098)
"""Per input that answers at exit 0, 1 and 2. Made-up numbers: put those here that your power meter shows."""
BUDGET = 0.0036


def energy(point: OperatingPoint) -> float:
    """Mean joules per input at the exit rates of the held-out rows."""
    return float(np.dot(point.expected["exit_rates"], JOULES))


def main() -> None:
    engine = edgeexit.load(ROOT / "models/bundles/digits.edgeexit", artifact="chain")
    digits = np.load(ROOT / "models/edgeexit_models/data/optdigits.npz")
    x, y = digits["x_test"][:, None].astype(np.float32), digits["y_test"].astype(np.int64)
    recorded = engine.record(x, y)
    np.savez("recorded.npz", logits=np.stack(recorded.outputs), labels=y, cost=recorded.cost)  # for the command line
    design, held_out = recorded.split(0.5, seed=0)

    share = BUDGET / JOULES[-1]
    by_macs = calibrate(design, policy="threshold", budget=share, held_out=held_out)
    by_energy = calibrate(design, policy="energy", budget=f"{BUDGET} J", options={"joules": JOULES}, held_out=held_out)
    print(f"budget: {1000 * BUDGET:.2f} mJ per input, {share:.1%} of the last exit's")
    for name, point in (("MACs", by_macs), ("energy", by_energy)):
        print(f"chosen by {name}: {1000 * energy(point):.2f} mJ, accuracy {point.expected['accuracy']:.1%}")


if __name__ == "__main__":
    main()
