"""Stage times that were measured once on this device, kept in a file: `edgeexit bench --save`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgeexit.bench.bench import Timing
from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.common.environment import environment
from edgeexit.common.files import read_json
from edgeexit.engine.engine import Engine
from edgeexit.errors import DataError

SCHEMA = 1


@dataclass(frozen=True)
class Times:
    """Of one artifact."""

    seconds: tuple[float, ...]
    """Typical (median): per stage for a chain, to each exit for the others."""
    ahead: tuple[float, ...]
    """Cautious (90th percentile), for looking ahead at deadlines."""


def profile_document(timings: Sequence[Timing], bundle: str, threads: int) -> dict[str, Any]:
    """What `profile.json` holds.

    A chain's stage takes what its exit took more than the one before.
    """
    found: dict[str, Any] = {}
    for name in dict.fromkeys(t.artifact for t in timings):
        own = sorted((t for t in timings if t.artifact == name), key=lambda t: t.exit)
        p50, p90 = [t.p50 for t in own], [t.p90 for t in own]
        if LAYOUTS[own[0].layout].stepwise:
            p50, p90 = _steps(p50), _steps(p90)
        p90 = [max(a, b) for a, b in zip(p50, p90, strict=True)]
        found[name] = {"seconds": p50, "ahead": p90, "n": own[0].n}
    return {"schema": SCHEMA, "bundle": bundle, "environment": environment(threads=threads), "artifacts": found}


def use_profile(engine: Engine, path: Path | str) -> Times:
    """Let an engine look ahead with times from a file, in place of those measured at load.

    Raises:
        DataError: not a profile, of another bundle or another machine, or without this artifact.
        PolicyError: times that are none.
    """
    document = read_json(Path(path), DataError)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise DataError(f"{path}: not a profile of schema {SCHEMA}; `edgeexit bench --save` writes one")
    mine, there = environment(threads=engine.threads), document.get("environment")
    for what in ("device", "threads"):
        other = there.get(what) if isinstance(there, dict) else None
        if other != mine.get(what):
            raise DataError(
                f"{path}: measured on {what} {other!r:.60}, this is {mine.get(what)!r}: run `edgeexit bench --save`"
            )
    name = engine.bundle.manifest.name
    if document.get("bundle") != name:
        raise DataError(f"{path}: a profile of {document.get('bundle')!r:.60}, not of {name!r}")
    artifacts = document.get("artifacts")
    entry = artifacts.get(engine.artifact.name) if isinstance(artifacts, dict) else None
    if not isinstance(entry, dict) or not all(_numbers(entry.get(k)) for k in ("seconds", "ahead")):
        known = ", ".join(artifacts) if isinstance(artifacts, dict) else "none"
        raise DataError(f"{path}: no times of {engine.artifact.name}; it has {known:.200}")
    found = Times(tuple(entry["seconds"]), tuple(entry["ahead"]))
    engine.use_profile(found.seconds, found.ahead)
    return found


def to_text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _steps(times: Sequence[float]) -> list[float]:
    return [times[0], *(max(b - a, 1e-9) for a, b in pairwise(times))]


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
