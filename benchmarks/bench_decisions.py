"""Run time of EERO, Learn-then-Test and the drift monitor on synthetic arrays.

Targets: EERO's solve and thresholds on 100,000 x 6 scores under 100 ms; Learn-then-Test over 1,000 policies on
100,000 rows under 2 s; drift adds under 10 us per input.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from benchmarks.common import finish, parser
from edgeexit.calibrate.guarantees.ordered import OrderedCandidates
from edgeexit.calibrate.guarantees.risk import Guarantee, certify
from edgeexit.calibrate.search.eero import eero
from edgeexit.policy.drift import DriftMonitor, DriftRegime
from edgeexit.policy.policies import Threshold
from edgeexit.records.classification import Records


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--n", type=int, default=9, help="repeats [default: 9]")
    a = p.parse_args()
    rng = np.random.default_rng(0)
    scores = rng.random((6, 100_000)).astype(np.float32)
    correct = (rng.random((6, 100_000)) < np.linspace(0.6, 0.9, 6)[:, None]).astype(np.float32)
    cost = np.arange(1.0, 7.0)
    rows = [
        timed("EERO, beta given", lambda: eero(scores, correct, cost, 3.0, beta=0.04), a.n),
        timed("EERO, beta chosen of five", lambda: eero(scores, correct, cost, 3.0), a.n),
        timed("EERO, survivors", lambda: eero(scores, correct, cost, 3.0, beta=0.04, mode="survivors"), a.n),
    ]
    outputs = rng.normal(size=(6, 100_000, 2)).astype(np.float32)
    outputs[:, :, 0] += 3
    records = Records(outputs, cost, np.zeros(100_000, np.int64))
    records.scores("maxprob")  # computed once for all policies
    # Everything passes, so that all 1,000 are tested.
    ordered = OrderedCandidates.starting_at([Threshold((float(t),) * 5) for t in np.linspace(1, 0.9, 1000)], [0])
    asked = Guarantee("disagreement", 0.5, 0.1)
    assert certify(ordered, records, asked).policy is ordered.policies[-1]
    rows.append(timed("LTT over 1,000 policies", lambda: certify(ordered, records, asked), 3))
    monitor = DriftMonitor(DriftRegime((0.1, 0.3, 1.0), (0.4, 0.2)))

    def inputs() -> None:
        for _ in range(10_000):
            monitor.see(1, 0.9)

    row = timed("drift, 10,000 inputs", inputs, a.n)
    rows.append({**row, "us_per_input": row["p50_ms"] / 10})  # type: ignore[operator]
    finish("decisions", rows, a, scores="6 exits x 100,000 rows")


def timed(name: str, call: Callable[[], object], n: int) -> dict[str, str | float]:
    spent = []
    for _ in range(n):
        start = time.perf_counter()
        call()
        spent.append(1e3 * (time.perf_counter() - start))
    return {"case": name, "n": n, "p50_ms": float(np.median(spent)), "max_ms": max(spent)}


if __name__ == "__main__":
    main()
