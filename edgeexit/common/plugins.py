"""Objects named "module:object", in this package's tables or in entry points of other distributions.

A table of this package names its own rows; a name that it lacks is looked up in an entry-point group. Scanning
installed distributions is slow on a small device, so it happens for unknown names only.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from edgeexit.errors import EdgeExitError


def resolve(reference: str) -> Any:
    """The object that "module:object" names; its module is imported now."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def plugin(group: str, name: str, error: type[EdgeExitError]) -> Any | None:
    """The object that another distribution registers under a name; None = no distribution does.

    Args:
        group: of entry points, e.g. "edgeexit.scores".
        name: of the entry point.
        error: what to raise.

    Raises:
        EdgeExitError: as `error`; two distributions register different objects, or importing the object fails.
    """
    entries = _entries(group, name)
    if not entries:
        return None
    if len(entries) > 1:
        both = " and ".join(f"{e.value!r} ({_distribution(e)})" for e in entries[:2])
        raise error(f"entry point {name!r} of group {group} is registered as {both}: uninstall one of them")
    (entry,) = entries
    try:
        return entry.load()
    except Exception as e:
        raise error(
            f"entry point {name!r} of group {group}, {entry.value!r} ({_distribution(entry)}), cannot be loaded: "
            f"{type(e).__name__}: {e}"
        ) from e


def plugin_names(group: str) -> tuple[str, ...]:
    """Every name that other distributions register in a group, sorted."""
    return tuple(sorted({e.name for e in entry_points(group=group)}))


@lru_cache(maxsize=256)
def _entries(group: str, name: str) -> tuple[EntryPoint, ...]:
    return tuple({e.value: e for e in entry_points(group=group, name=name)}.values())


def _distribution(entry: EntryPoint) -> str:
    return "unknown distribution" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
