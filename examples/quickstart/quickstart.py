"""Quick start: load a bundle, answer pictures, print which exit answered and why. Needs numpy and onnxruntime."""

import edgeexit

engine = edgeexit.load("digits")  # a small bundle inside the package; a path opens your own
for picture in engine.examples():  # handwritten digits 0 to 7, 8 x 8 pixels each
    d = engine.run(picture)
    print(f"digit {d.label} from exit {d.exit}, score {d.score:.2f}, {d.reason}, {d.macs:,} MACs")
