"""Promises: a mean cost that is kept, a proven bound, sets that hold the truth, and an alarm when all that ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import edgeexit
from edgeexit.calibrate import calibrate
from edgeexit.calibrate.guarantees.risk import Guarantee
from edgeexit.policy.drift import DriftMonitor, DriftRegime

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    engine = edgeexit.load(ROOT / "models/bundles/digits.edgeexit", artifact="chain")
    digits = np.load(ROOT / "models/edgeexit_models/data/optdigits.npz")
    x, y = digits["x_test"][:, None].astype(np.float32), digits["y_test"].astype(np.int64)
    design, held_out = engine.record(x, y).split(0.5, seed=0)

    kept = calibrate(design, policy="eero", score="margin", budget=0.1, held_out=held_out)
    print(f"EERO: {kept.expected['cost']:.1%} of the cost (10 % allowed), accuracy {kept.expected['accuracy']:.1%}")

    asked = Guarantee.parse("disagreement<=0.03@0.9")
    proven = calibrate(design, guarantee=asked, held_out=held_out, sets=0.01)
    assert proven.promise is not None
    print(f"proven: {proven.promise['text']}")
    print(f"its cost: {proven.expected['cost']:.1%}, measured disagreement {proven.promise['measured']:.3f}")

    engine.follow(proven)
    assert engine.sets is not None and proven.drift is not None
    decisions = [engine.run(row) for row in x[:200]]
    found = next(d for d in decisions if d.prediction_set is not None and d.prediction_set.sum() > 1)
    print(f"set at 0.99: {np.flatnonzero(found.prediction_set).tolist()}, the answer alone would be {found.label}")

    engine.drift = DriftMonitor(DriftRegime.from_dict(proven.drift))
    for row in x[:1000]:
        engine.run(row)
    print(f"clean: {engine.drift.seen} inputs, alarm {engine.drift.alarm}")
    noise = np.random.default_rng(0).normal(0, 4, x.shape).astype(np.float32)
    alarm = next(i for i, row in enumerate(x + noise, 1) if engine.run(row).drifted)
    print(f"noisy: alarm after {alarm} inputs")


if __name__ == "__main__":
    main()
