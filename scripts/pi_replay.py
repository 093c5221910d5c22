"""Replay a bundle's vectors with one engine: `pi_replay.py BUNDLE FORMAT OUT.npz`. Both sides of `test_pi.py` run it.

Prints one JSON object (versions, peak memory, what `edgeexit.bench.verify` says of every artifact of that format) and
saves what every exit gave as `OUT.npz`: arrays `<artifact>/<exit>` of shape `(n, ...)`.
"""

from __future__ import annotations

import json
import platform
import resource
import sys
from dataclasses import asdict
from typing import Any

import numpy as np

from edgeexit.bench.verify import verify
from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.manifest import Artifact
from edgeexit.engine import backends
from edgeexit.engine.loading import load

SHIFTS = 8
"""int8 chains also get every shipped input turned by 1..7 places along its last axis: more inputs, and moving numbers
makes the same bytes on every machine. The other layouts hold the same numbers, and emulation is slow."""


def main(path: str, engine: str, out: str) -> None:
    bundle = Bundle.open(path)
    verified, outputs = [], dict[str, Any]()
    for artifact in bundle.manifest.artifacts:
        if artifact.format == engine and artifact.vectors is not None:
            verified += [asdict(v) for v in verify(bundle, artifact.name)]
            outputs |= {f"{artifact.name}/{k}": given for k, given in enumerate(_answers(bundle, artifact))}
    np.savez(out, **outputs)
    about = {
        "engine": backends.get(engine).version(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps({**about, "verified": verified}))


def _answers(bundle: Bundle, artifact: Artifact) -> list[Any]:
    """`(n, ...)` per exit, one input at a time."""
    assert artifact.vectors is not None
    arrays = bundle.arrays(artifact.vectors)
    shipped = [arrays[f"input_{i}"] for i in range(len(bundle.manifest.inputs))]
    shifts = SHIFTS if (artifact.layout, artifact.precision) == ("chain", "int8") else 1
    inputs = [np.concatenate([np.roll(a, s, axis=-1) for s in range(shifts)]) for a in shipped]
    driver = load(bundle, artifact=artifact.name, exit=-1, warmup=0).driver
    rows = [driver.all_exits([a[i : i + 1] for a in inputs]).outputs for i in range(len(inputs[0]))]
    return [np.concatenate(given) for given in zip(*rows, strict=True)]


if __name__ == "__main__":
    main(*sys.argv[1:])
