"""Text of a stream's answers, one line each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.input_range import UnusualInput
from edgeexit.cli.common import decided_by, milliseconds, print_json, say

if TYPE_CHECKING:
    from edgeexit.engine.engine import Engine


def stream_shown(
    engine: Engine, x: Mapping[str, NDArray[Any]], deadline_s: float | None, used: str, as_json: bool
) -> None:
    """Run rows through one stream and print each answer.

    Raises:
        DataError, PolicyError: as `Stream.step`.
    """
    stream = engine.stream()
    rows: list[dict[str, Any]] = []
    for i in range(len(next(iter(x.values())))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnusualInput)  # printed here
            d = stream.step({n: a[i : i + 1] for n, a in x.items()}, deadline_s=deadline_s)
        if d.unusual is not None and not any(r["unusual"] for r in rows):
            say(f"warning: step {i}: {d.unusual}; later ones are not named")
        rows.append(
            {
                "step": i,
                "exit": d.exit,
                "label": d.label,
                "score": d.score,
                "reason": d.reason,
                "seconds": d.seconds,
                "late": d.late,
                "waiting": stream.waiting,
                "unusual": d.unusual,
            }
        )
        if not as_json:
            answer = d.label if np.ndim(d.label) == 0 else f"{np.shape(d.label)} classes"
            waits = f", {stream.waiting[-1]} wait" if stream.waiting[-1] else ""
            click.echo(
                f"{i}: {answer}  exit {d.exit} of 0..{engine.exits - 1} ({d.reason}), score {d.score:.4f}, "
                f"{milliseconds(d.seconds)}{', LATE' if d.late else ''}{waits}"
            )
    if as_json:
        print_json({"steps": rows, **decided_by(engine, used)})
    else:
        click.echo(f"{engine.artifact.name}, {used}")
