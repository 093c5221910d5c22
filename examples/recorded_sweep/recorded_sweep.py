"""An honest curve without a model: record what every exit answers once, then sweep the recording.

The recording may come from anywhere, e.g. from research code that only simulates exits: an npz with
`logits` (or `probs`) (exits, n, classes), `labels` (n,) and `cost` (exits,) cumulative.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import edgeexit
from edgeexit.calibrate.sweep import sweep
from edgeexit.report import write_report

ROOT = Path(__file__).resolve().parents[2]


def main(out: Path) -> None:
    engine = edgeexit.load(ROOT / "models/bundles/digits.edgeexit", artifact="chain")
    digits = np.load(ROOT / "models/edgeexit_models/data/optdigits.npz")
    x, y = digits["x_test"][:, None].astype(np.float32), digits["y_test"].astype(np.int64)
    records = engine.record(x, y)
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "recorded.npz", logits=records.outputs, labels=y, cost=records.cost)

    loaded = edgeexit.Records.load(out / "recorded.npz")  # from here on no model is needed
    design, held_out = loaded.split(0.5, seed=0)
    result = sweep(design, held_out, policies=("maxprob", "margin", "fixed", "random"))
    print(result.verdict.text)
    for path in write_report(result, out).values():
        print("wrote", path.name)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, default=Path("recorded-report"))
    main(arguments.parse_args().out)
