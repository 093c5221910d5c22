"""What every bundle that `augment` makes has to keep."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgeexit
from edgeexit.bundle.bundle import Bundle

Arrays = dict[str, NDArray[Any]]


def last_answers_as_before(bundle: Bundle, x: Arrays, expected: NDArray[Any]) -> None:
    """Forced to its last exit, chain (single inputs and a batch) and fused answer as the network did."""
    last = len(bundle.manifest.exits) - 1
    assert {a.layout for a in bundle.manifest.artifacts} == {"fused", "chain", "prefix", "all"}
    for artifact in bundle.manifest.artifacts:
        assert artifact.check is not None and artifact.check.max_error[-1] <= 1e-6
        if artifact.layout not in ("chain", "fused"):
            continue
        engine = edgeexit.load(bundle, artifact=artifact.name, warmup=0)
        engine.policy = edgeexit.fixed_exit(last, last + 1, artifact.score or "maxprob")
        one = [engine.run({n: a[k] for n, a in x.items()}).output for k in range(len(expected))]
        np.testing.assert_allclose(np.stack(one), expected, rtol=1e-5, atol=1e-5)
        if artifact.layout == "chain":
            np.testing.assert_allclose(engine.run_batch(x).outputs, expected, rtol=1e-5, atol=1e-5)


def batches_answer_as_single_inputs(bundle: Bundle, x: Arrays) -> None:
    """Some leave early, and cuts are thinned out for those that stay."""
    engine = edgeexit.load(bundle, artifact="chain", warmup=0)
    engine.policy = edgeexit.fixed_exit(0, engine.exits)
    level = float(np.median(engine.run_batch(x).scores))
    engine.policy = edgeexit.Threshold((level,) * (engine.exits - 1))
    many = engine.run_batch(x)
    one = [engine.run({n: a[k] for n, a in x.items()}) for k in range(len(many))]
    assert len(set(many.exits)) > 1
    assert list(many.exits) == [d.exit for d in one]
    np.testing.assert_allclose(many.outputs, np.stack([d.output for d in one]), rtol=1e-4, atol=1e-5)
