"""Ten lines: load a bundle, answer pictures, see which exit did and why. Needs numpy and onnxruntime."""

from pathlib import Path

import numpy as np

import edgeexit

root = Path(__file__).resolve().parents[2]
engine = edgeexit.load(root / "models/bundles/digits.edgeexit", policy="balanced")
pictures = np.load(root / "models/edgeexit_models/data/optdigits.npz")["x_test"].astype(np.float32)
for picture in pictures[:8]:
    d = engine.run(picture[None])  # (1, 8, 8): one channel
    print(f"digit {d.label} from exit {d.exit}, score {d.score:.2f}, {d.reason}, {d.macs:,} MACs")
