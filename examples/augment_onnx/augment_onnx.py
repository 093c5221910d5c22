"""A stranger's ONNX classifier made adaptive: no retraining, no torch, no code of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import edgeexit

ROOT = Path(__file__).resolve().parents[2]
STRANGER = ROOT / "models/bundles/digits.edgeexit/artifacts/onnx-prefix-fp32/exit_2.onnx"  # one input, one output


def main() -> None:
    digits = np.load(ROOT / "models/edgeexit_models/data/optdigits.npz")
    x, y = digits["x_train"][:, None].astype(np.float32), digits["y_train"].astype(np.int64)
    with tempfile.TemporaryDirectory() as folder:
        found = edgeexit.augment(STRANGER, {"x": x}, y, Path(folder, "adaptive.edgeexit"))
        print(found.text)
        engine = edgeexit.load(Path(folder, "adaptive.edgeexit"), policy="augmented")
        test = digits["x_test"][:, None].astype(np.float32)
        decisions = [engine.run(picture) for picture in test]
    right = np.mean([d.label == t for d, t in zip(decisions, digits["y_test"], strict=True)])
    spent = np.mean([d.macs for d in decisions if d.macs is not None])
    print(f"test: {right:.1%} right, {spent / found.total_macs:.0%} of the MACs")


if __name__ == "__main__":
    main()
