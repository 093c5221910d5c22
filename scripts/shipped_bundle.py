"""Build the bundle inside the wheel, `edgeexit/bundles/digits.edgeexit`, from the float network of `models/bundles`.

int8 keeps it small. Weights have 7 bits, so that x86-64 processors without VNNI give the same answers. The vectors hold
real test digits instead of random inputs, as `Engine.examples` gives them.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from edgeexit_models.optdigits import OptDigits, load_optdigits

import edgeexit
from edgeexit.bundle.bundle import Bundle, describe, write_bundle
from edgeexit.calibrate.on_bundle import calibrate_artifact
from edgeexit.common.files import npz_bytes
from edgeexit_exporters import formats

ROOT = Path(__file__).resolve().parent.parent
NETWORK = ROOT / "models/bundles/digits.edgeexit/artifacts/onnx-all-fp32/model.onnx"
OUT = ROOT / "edgeexit/bundles/digits.edgeexit"
POINTS = {"onnx-fused-int8": "balanced", "onnx-chain-int8": "balanced-chain"}
VECTORS = "vectors/onnx-int8.npz"
EXAMPLES = 8


def vectors(bundle: Bundle, digits: np.ndarray) -> bytes:
    """Test vectors of these inputs `(n, 1, 8, 8)`; `docs/bundle-format.md` lists the arrays."""
    records = edgeexit.load(bundle, artifact="chain", exit=-1).record(digits)
    scores = records.scores("maxprob")  # (exits, n)
    thresholds = np.array([middle_of_widest_gap(s) for s in scores[:-1]], np.float32)
    stops = np.vstack([scores[:-1] >= thresholds[:, None], np.ones(len(digits), bool)])
    outputs = {f"output_{k}": o for k, o in enumerate(records.outputs)}
    return npz_bytes(
        input_0=digits, **outputs, scores=scores.T.copy(), thresholds=thresholds, exits=np.argmax(stops, 0),
        score=np.array("maxprob"),
    )  # fmt: skip


def middle_of_widest_gap(scores: np.ndarray) -> float:
    """A threshold that rounding on another machine cannot put on the other side of a score."""
    s = np.sort(scores)[1:-1]
    i = int(np.argmax(np.diff(s)))
    return float(s[i] + s[i + 1]) / 2


def main() -> None:
    data = load_optdigits(seed=0)
    formats.quantize = partial(formats.quantize, reduce_range=True)  # no option of `export`
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / OUT.name
        bundle = edgeexit.export(
            NETWORK,
            Path(folder) / "whole.edgeexit",
            exits=["exit0", "exit1", "exit2"],
            layouts=["fused", "chain"],
            labels=[str(k) for k in range(10)],
            name="digits",
            data={"image": data.x_train},
            precisions=["int8"],
        )
        raw = vectors(bundle, data.x_test[:EXAMPLES])
        m = bundle.manifest
        artifacts = tuple(replace(a, vectors=describe(VECTORS, raw), calibration=None) for a in m.artifacts)
        manifest = replace(m, artifacts=artifacts, policies={}, default_policy=None)
        contents = {f.path: raw if f.path == VECTORS else bundle.file(f).read_bytes() for f in manifest.files}
        write_bundle(out, contents, manifest)
        for artifact, name in POINTS.items():
            calibrate(out, artifact, name, data)
        shutil.rmtree(OUT, ignore_errors=True)
        shutil.copytree(out, OUT)


def calibrate(path: Path, artifact: str, name: str, data: OptDigits) -> None:
    """Store an operating point and print what it does on the test digits, which are of other writers."""
    calibrate_artifact(
        edgeexit.load(path, artifact=artifact, exit=-1),
        {"image": data.x_design},
        data.y_design,
        data={"file": "UCI optical digits, 1,000 of the official training rows"},
        accuracy_drop=0.01,
        name=name,
    )
    engine = edgeexit.load(path, policy=name)
    answers = engine.run_batch(data.x_test)
    rates = np.bincount(answers.exits, minlength=engine.exits) / len(answers)
    cost = (answers.macs or 0) / len(answers) / (engine.bundle.manifest.exits[-1].macs or 1)
    alone = engine.record(data.x_test, data.y_test).correct.mean(1)
    accuracy = float(np.mean(answers.labels == data.y_test))
    print(f"{name}: test accuracy {accuracy:.4f}, cost {cost:.4f}, exits {rates.round(3)}, alone {alone.round(4)}")


if __name__ == "__main__":
    main()
