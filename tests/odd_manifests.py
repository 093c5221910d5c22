"""Manifests that are not quite right: what readers must refuse, and in one way only."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import edgeexit
from edgeexit.bundle.codec import from_json
from edgeexit.errors import BundleError

SCHEMA = Path(edgeexit.__file__).parent / "bundle" / "schema.json"
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 1.5, -0.5, 10**30, 10**400, 1e308, "", "x", "x\n", "../x", "/etc/passwd",
    "a//b", "x" * 600, "\x1b[2J", "\ud800", "a b", "manifest.json", "chain", "fused", "maxprob", [], {}, [[]],
    [None], ["x"], [1, 2], [-1.0] * 3, ["x"] * 5000, {"x": 1}, {"name": "x"},
]  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    found: list[tuple[Any, Any]] = []
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found.append((value, key))
        found.extend(places(value[key]))
    return found


def mutated(manifest: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    document = copy.deepcopy(manifest)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        container, key = rng.choice(places(document))
        what = rng.randrange(5)
        if what == 0:
            del container[key]
        elif what == 1:
            container[key] = copy.deepcopy(rng.choice(ODD))
        elif what == 2:
            other, k = rng.choice(places(document))
            container[key] = copy.deepcopy(other[k])
        elif what == 3 and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        elif isinstance(container, dict):
            container[rng.choice(("strange", "states", "batch_axis", "score"))] = copy.deepcopy(rng.choice(ODD))
    return document


def accepted(document: Any) -> bool:
    try:
        from_json(document)
    except BundleError as e:
        assert 0 < len(str(e)) < 1000
        return False
    return True
