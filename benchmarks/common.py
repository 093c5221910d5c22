"""Command line, ratios, interleaved timing and result files of the benchmarks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeexit.bench.bench import interleaved
from edgeexit.common.environment import environment, environment_line

ROOT = Path(__file__).resolve().parent.parent


def parser(text: str | None) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=text)
    options.add_argument("--json", type=Path, help="write the raw numbers to this file")
    return options


def ratios(seconds: np.ndarray[Any, Any], base: np.ndarray[Any, Any]) -> dict[str, float]:
    """Median and 10th/90th percentile of the per-round ratios."""
    r = seconds / base
    return {"ratio": float(np.median(r)), "low": float(np.quantile(r, 0.1)), "high": float(np.quantile(r, 0.9))}


def time_together(cases: dict[str, Callable[[], object]], n: int) -> dict[str, np.ndarray[Any, Any]]:
    """Seconds per round of every case, all in one interleaved run."""
    return dict(zip(cases, interleaved(list(cases.values()), n, lambda i, m: None), strict=True))


def finish(
    name: str, rows: Sequence[dict[str, Any]], arguments: argparse.Namespace, text: str | None = None, **settings: Any
) -> None:
    """Prints the rows (or `text` instead of them) under the environment line; --json writes them to a file."""
    where = environment(settings.pop("engine", None), settings.pop("threads", None))
    print(f"{name}: {environment_line(where)}, " + ", ".join(f"{k} {v}" for k, v in settings.items()))
    if text is not None:
        print(text)
    for row in rows if text is None else ():
        print("  " + "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        document = {"benchmark": name, "environment": where, "settings": settings, "rows": list(rows)}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
