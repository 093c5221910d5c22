"""The fused file needs no EdgeExit: a script that knows docs/bundle-format.md and bare onnxruntime."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

BARE = """
import hashlib, json, sys
import numpy as np
import onnxruntime

folder = sys.argv[1] + "/"
manifest = json.load(open(folder + "manifest.json", encoding="utf-8"))
assert (manifest["format"], manifest["schema"]) == ("edgeexit", 1)
fused = next(a for a in manifest["artifacts"] if a["layout"] == "fused")
for spec in (*fused["models"], fused["vectors"]):
    raw = open(folder + spec["path"], "rb").read()
    assert len(raw) == spec["bytes"] and hashlib.sha256(raw).hexdigest() == spec["sha256"]
session = onnxruntime.InferenceSession(folder + fused["models"][0]["path"])
names = [i["name"] for i in manifest["inputs"]]
outputs = {o.name: (o.type, list(o.shape)) for o in session.get_outputs()}
assert outputs["exit_index"] == ("tensor(int64)", []) and outputs["exit_score"] == ("tensor(float)", []), outputs
assert {i.name: i.type for i in session.get_inputs()}["exit_thresholds"] == "tensor(float)"
vectors = np.load(folder + fused["vectors"]["path"], allow_pickle=False)
count, n = len(manifest["exits"]), len(vectors["exits"])

def run(row, thresholds):
    feed = {name: vectors[f"input_{i}"][row : row + 1] for i, name in enumerate(names)}
    feed["exit_thresholds"] = np.array(thresholds, np.float32)
    output, k, score = session.run(["output", "exit_index", "exit_score"], feed)
    return output, int(k), float(score)

def close(row, k, output, score):
    expected = vectors[f"output_{k}"]
    assert output.shape == (1, *expected.shape[1:])
    assert abs(output[0] - expected[row]).max() <= fused["check"]["tolerance"] * abs(expected).max()
    assert abs(score - vectors["scores"][row, k]) < 1e-5

inf = float("inf")
taken = []
for row in range(n):
    output, k, score = run(row, vectors["thresholds"])
    assert k == vectors["exits"][row]
    close(row, k, output, score)
    taken.append(k)
    for forced in range(count):  # inf forbids, -inf forces
        output, k, score = run(row, [-inf if j >= forced else inf for j in range(count - 1)])
        assert k == forced
        close(row, k, output, score)
    # a threshold of exactly the score stops, the next larger float32 does not
    for at in range(count - 1):
        score = np.float32(run(row, [-inf if j >= at else inf for j in range(count - 1)])[2])
        beyond = np.nextafter(score, np.float32(inf), dtype=np.float32)
        assert run(row, [score if j == at else inf for j in range(count - 1)])[1] == at
        assert run(row, [beyond if j == at else inf for j in range(count - 1)])[1] == count - 1
feed = {name: np.full_like(vectors[f"input_{i}"][:1], np.nan) for i, name in enumerate(names)}
feed["exit_thresholds"] = np.full(count - 1, -inf, np.float32)
output, k, score = session.run(["output", "exit_index", "exit_score"], feed)
assert k == count - 1 and np.isnan(score)  # NaN never stops
assert not {m for m in sys.modules if m.startswith("edgeexit")}
print(json.dumps(taken))
"""


def test_vectors_are_met_without_edgeexit(tiny: Path, tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", BARE, str(tiny)], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert found.returncode == 0, found.stderr
    taken = json.loads(found.stdout)
    assert len(taken) == 8 and set(taken) == {0, 1, 2}  # the vectors take every exit
