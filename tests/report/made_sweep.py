"""Sweeps to report on: an ordinary one, and one whose names attack every form."""

from __future__ import annotations

import dataclasses
from functools import cache

from calibrate.made_rows import graded
from edgeexit.calibrate.sweep import Sweep, sweep

HOSTILE = """</script><img src=x onerror="document.title='owned'">{{data}}$\\frac{1}{2}$ & 'q'"""


@cache
def ordinary(timed: bool = False) -> Sweep:
    """Budgets from out of reach to all, environment given."""
    return sweep(
        graded(800, 0, "design rows"),
        graded(1200, 1, "test rows"),
        budgets=(0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0),
        environment={"device": "a board", "threads": 1},
        seconds=(1e-4, 2e-4, 3e-4, 5e-4) if timed else None,
    )


@cache
def hostile() -> Sweep:
    plain = ordinary()
    rows = tuple(dataclasses.replace(r, policy=HOSTILE) if r.policy == "margin" else r for r in plain.rows)
    return dataclasses.replace(
        plain,
        rows=rows,
        verdict=dataclasses.replace(
            plain.verdict,
            text=f"{HOSTILE}\n{HOSTILE}",
            equal=dataclasses.replace(plain.verdict.equal, policy=HOSTILE),  # type: ignore[type-var]
        ),
        data={**plain.data, "held_out": HOSTILE},
        environment={HOSTILE: HOSTILE},
    )
