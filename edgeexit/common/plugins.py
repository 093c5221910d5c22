"""Objects named "module:object", in this package's tables or in entry points of other distributions.

A table of this package names its own rows; a name that it lacks is looked up in an entry-point group. Scanning
installed distributions is slow on a small device, and so is the library that scans, so both happen for unknown names
only.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from edgeexit.errors import EdgeExitError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Row = TypeVar("Row")


class Table(Mapping[str, Row]):
    """Rows by name: those of this package, and those of other distributions when they are asked for by name.

    Iteration gives this package's rows only.
    """

    def __init__(self, group: str, rows: Mapping[str, Row], error: type[EdgeExitError]) -> None:
        """
        Args:
            group: the entry-point group of other distributions; an entry point's name is the row's, its object the row.
            rows: of this package.
            error: what to raise where an entry point cannot be loaded, or gives no such row.
        """
        self.group, self.error = group, error
        self._rows = dict(rows)
        self._kind: type = type(next(iter(rows.values())))

    def __getitem__(self, name: str) -> Row:
        row = self._rows.get(name)
        if row is not None:
            return row
        other = plugin(self.group, name, self.error)
        if other is None:
            raise KeyError(name)
        if not isinstance(other, self._kind):
            raise self.error(
                f"entry point {name!r:.60} of group {self.group} is a {type(other).__name__}; "
                f"expected a {self._kind.__module__}.{self._kind.__qualname__}"
            )
        return cast(Row, other)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


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
    from importlib.metadata import entry_points

    return tuple(sorted({e.name for e in entry_points(group=group)}))


@lru_cache(maxsize=256)
def _entries(group: str, name: str) -> tuple[EntryPoint, ...]:
    from importlib.metadata import entry_points

    return tuple({e.value: e for e in entry_points(group=group, name=name)}.values())


def _distribution(entry: EntryPoint) -> str:
    return "unknown distribution" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
