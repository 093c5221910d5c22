"""Throughput of feature extraction at every exit place, relative to the plain network with the same rows and threads.

Target: at least 80 % of plain onnxruntime's throughput on the same model.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir

from benchmarks.common import finish, parser
from edgeexit_exporters.augment.features import features
from edgeexit_exporters.augment.flow import places_of
from edgeexit_exporters.exporting import open_source
from edgeexit_exporters.onnx import measure

BATCH = 256


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--n", type=int, default=5, help="rounds; each measures both once [default: 5]")
    p.add_argument("--rows", type=int, default=4096, help="pictures [default: 4096]")
    p.add_argument("--threads", type=int, default=1, help="threads of the engine [default: 1]")
    a = p.parse_args()
    source = open_source("edgeexit_models:resnet20", single=True)
    places, _ = places_of(source)
    x = np.random.default_rng(0).uniform(0, 255, (a.rows, 3, 32, 32)).astype(np.float32)
    plain = measure.session(ir.to_proto(source.model).SerializeToString(), a.threads)
    rows = []
    for pool in ("average", "avgmax", "grid"):
        ratios = []
        for _ in range(a.n + 1):
            start = time.perf_counter()
            for at in range(0, a.rows, BATCH):
                plain.run(None, {"image": x[at : at + BATCH]})
            middle = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                features(source.model, places, {"image": x}, Path(folder), pool=pool, batch=BATCH, threads=a.threads)
            ratios.append((middle - start) / (time.perf_counter() - middle))
        r = np.array(ratios[1:])  # the first round warms up
        rows.append(
            {"pool": pool, "throughput_of_plain": float(np.median(r)), "low": float(r.min()), "high": float(r.max())}
        )
    settings = {"pictures": a.rows, "places": len(places), "model": "ResNet-20, random weights"}
    finish("augment", rows, a, n=a.n, threads=a.threads, **settings)


if __name__ == "__main__":
    main()
