"""Conversion of the digits bundle to ncnn, comparison with ONNX at every exit, and answers by an operating point."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pnnx
from numpy.typing import NDArray

import edgeexit
from edgeexit.bench.bench import interleaved
from edgeexit.bundle.bundle import Bundle, write_bundle
from edgeexit.bundle.files import describe
from edgeexit.bundle.manifest import Artifact, Check, Manifest
from edgeexit.calibrate import calibrate
from edgeexit.engine.inputs import relative_error

ROOT = Path(__file__).resolve().parents[3]
OUT = Path("digits-ncnn.edgeexit")
NAME = "ncnn-resume-fp32"
REFERENCE = "onnx-chain-fp32"
TOLERANCE = 1e-4
"""Largest allowed difference from ONNX, as a fraction of the exit's largest output."""


def convert(model: Path, shapes: Sequence[Sequence[int]]) -> tuple[bytes, bytes]:
    """An ONNX file as the bytes of ncnn's ``.param`` and ``.bin``; the inputs and outputs keep their names.

    Args:
        model: a file of all exits (layout `all`).
        shapes: of its inputs, with a batch axis of 1.

    Raises:
        CalledProcessError: pnnx fails.
    """
    network = ir.load(model)
    for node in network.graph:
        if node.op_type == "ReduceMax":  # over height and width; pnnx has no rule for it
            pool = ir.node("GlobalMaxPool", [node.inputs[0]])
            ir.convenience.replace_nodes_and_values(
                network.graph, node, [node], [pool], list(node.outputs), list(pool.outputs)
            )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "model.onnx")
        ir.save(network, source)
        inputs = ",".join(f"[{','.join(map(str, s))}]" for s in shapes)
        command = [pnnx.EXEC_PATH, source.name, f"inputshape={inputs}", "fp16=0"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        text = Path(folder, "model.ncnn.param").read_text()
        weights = Path(folder, "model.ncnn.bin").read_bytes()
    names = {f"in{i}": v.name for i, v in enumerate(network.graph.inputs)}
    names |= {f"out{i}": v.name for i, v in enumerate(network.graph.outputs)}
    lines = [" ".join(str(names.get(word, word)) for word in line.split()) for line in text.splitlines()]
    return ("\n".join(lines) + "\n").encode(), weights


def write(source: Bundle, path: Path) -> Bundle:
    """A bundle with the source's chain beside the same network for ncnn."""
    m = source.manifest
    shapes = [[a if isinstance(a, int) else 1 for a in t.shape] for t in m.inputs]
    param, weights = convert(source.file(m.artifact("onnx-all-fp32").models[0]), shapes)
    contents = {f"artifacts/{NAME}/model.param": param, f"artifacts/{NAME}/model.bin": weights}
    model, data = (describe(name, content) for name, content in contents.items())
    chain = m.artifact(REFERENCE)
    artifact = Artifact(
        NAME, "ncnn", "resume", "fp32", None, chain.temperatures, (model,), (data,), chain.vectors, batch="one", cuts=()
    )
    manifest: Manifest = replace(
        m, artifacts=(chain, artifact), policies={}, default_policy=None,
        provenance={**m.provenance, "pnnx": metadata.version("pnnx")},
    )  # fmt: skip
    contents |= {f.path: source.file(f).read_bytes() for f in chain.files}
    return write_bundle(path, contents, manifest, overwrite=True)


def compare(bundle: Bundle, x: NDArray[np.float32]) -> Bundle:
    """The bundle with ncnn's differences from ONNX written down.

    Raises:
        SystemExit: one is above the tolerance.
    """
    ours, theirs = (edgeexit.load(bundle, artifact=a).record(x).outputs for a in (NAME, REFERENCE))
    errors = tuple(relative_error(a, b) for a, b in zip(ours, theirs, strict=True))
    for k, error in enumerate(errors):
        print(f"exit {k}: largest difference from ONNX {error:.1e} of the largest output, {len(x)} rows")
    if max(errors) > TOLERANCE:
        raise SystemExit(f"ncnn differs from ONNX by {max(errors):.1e}; allowed is {TOLERANCE:.0e}")
    old = bundle.manifest.artifact(NAME)
    new = replace(old, check=Check(TOLERANCE, errors, len(x)))
    artifacts = tuple(new if a is old else a for a in bundle.manifest.artifacts)
    return bundle.rewrite({}, replace(bundle.manifest, artifacts=artifacts))


def time_exits(bundle: Bundle, n: int = 1000) -> None:
    """Print a table of latencies: an exit alone, after the exits before it, and those from new extractors each."""
    engine = edgeexit.load(bundle, artifact=NAME, exit=-1)
    driver: Any = engine.driver
    network = driver.models[0].network
    x, names = engine.example(), network.outputs

    def alone(k: int) -> None:
        network.extract(network.start(x), names[k])

    def resumed(k: int) -> None:
        extractor = network.start(x)
        for name in names[: k + 1]:
            network.extract(extractor, name)

    def restarted(k: int) -> None:
        for i in range(k + 1):
            alone(i)

    ways = (alone, resumed, restarted)
    calls = [lambda w=way, k=k: w(k) for way in ways for k in range(len(names))]  # type: ignore[misc]
    seconds = interleaved(calls, n, lambda i, total: None).reshape(len(ways), len(names), n)
    print(f"\n{engine.backend.version()}, 1 thread, {n} interleaved rounds: median (10th to 90th percentile)")
    print("| | " + " | ".join(f"exit {k}" for k in range(len(names))) + " |\n|---|" + "---|" * len(names))
    for way, rows in zip(ways, seconds, strict=True):
        cells = [np.quantile(r, (0.5, 0.1, 0.9)) * 1e6 for r in rows]
        print(f"| {way.__name__}, µs | " + " | ".join(f"{m:.0f} ({a:.0f}..{b:.0f})" for m, a, b in cells) + " |")
    for name, rows in (("resumed / last exit alone", seconds[1]), ("restarted / last exit alone", seconds[2])):
        cells = [np.quantile(r / seconds[0, -1], (0.5, 0.1, 0.9)) for r in rows]
        print(f"| {name} | " + " | ".join(f"{m:.2f} ({a:.2f}..{b:.2f})" for m, a, b in cells) + " |")


def main() -> None:
    digits = np.load(ROOT / "models/edgeexit_models/data/optdigits.npz")
    x, y = digits["x_test"][:, None].astype(np.float32), digits["y_test"].astype(np.int64)
    np.save("digits.npy", x[:8])  # for the command line
    bundle = compare(write(Bundle.open(ROOT / "models/bundles/digits.edgeexit"), OUT), x)
    design, held_out = edgeexit.load(bundle, artifact=NAME).record(x, y).split(0.5, seed=0)
    point = calibrate(design, policy="threshold", budget=0.2, held_out=held_out, artifact=NAME, name="balanced")
    bundle = bundle.with_operating_point(point)
    engine = edgeexit.load(bundle)
    for picture, digit in zip(x[:8], y, strict=False):
        d = engine.run(picture)
        print(f"a {digit}: {d.label} from exit {d.exit}, score {d.score:.2f}, {d.reason}, {d.macs:,} MACs")
    expected = point.expected
    print(f"held-out rows: accuracy {expected['accuracy']:.1%}, {expected['cost']:.1%} of the last exit's MACs")
    if "--time" in sys.argv[1:]:
        time_exits(bundle)


if __name__ == "__main__":
    main()
