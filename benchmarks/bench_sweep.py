"""Duration of a sweep: all policies x 50 budgets x 10,000 rows x 4 exits, promises included; target: under 5 s."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.common import finish, parser
from edgeexit import Records
from edgeexit.calibrate.sweep import ADAPTIVE, BASELINES, sweep


def records(n: int, exits: int, seed: int) -> Records:
    """Rows of growing certainty: deeper exits see the class more clearly."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n)
    ease = rng.uniform(0, 2.5, n)
    z = rng.standard_normal((exits, n, 10)).astype(np.float32)
    for k in range(exits):
        z[k, np.arange(n), labels] += (ease * (1 + k)).astype(np.float32)
    return Records(z, np.arange(1, exits + 1) ** 1.5, labels, name=f"synthetic {seed}")


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--n", type=int, default=5, help="repeats [default: 5]")
    a = p.parse_args()
    names = (*ADAPTIVE, *BASELINES)
    rows = []
    for repeat in range(a.n):
        design, held_out = records(10_000, 4, repeat), records(10_000, 4, 100 + repeat)
        start = time.perf_counter()
        sweep(design, held_out, names, list(np.linspace(0.2, 1, 50)))
        rows.append({"run": repeat, "policies": len(names), "seconds": time.perf_counter() - start})
    finish("sweep", rows, a, budgets=50, rows_each=10_000, exits=4)


if __name__ == "__main__":
    main()
