"""Tables of rows by name that other packages may add to through entry points."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

Row = TypeVar("Row")


class Table(Mapping[str, Row]):
    """Rows by name: those of this package, and those of other packages when they are asked for by name.

    Iteration gives this package's rows only. Scanning installed packages is slow on a small device, so it happens only
    for names that this package does not know.
    """

    def __init__(self, group: str, rows: Mapping[str, Row]) -> None:
        """
        Args:
            group: the entry-point group of other packages; an entry point's name is the row's name, its value the row.
            rows: of this package.
        """
        self.group = group
        self._rows = dict(rows)
        self._others: dict[str, Row] = {}

    def __getitem__(self, name: str) -> Row:
        if name in self._rows:
            return self._rows[name]
        if name not in self._others:
            from importlib.metadata import entry_points

            points = [e for e in entry_points(group=self.group) if e.name == name]
            if not points:
                raise KeyError(name)
            self._others[name] = points[0].load()
        return self._others[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def resolve(target: str) -> Any:
    """The object that "module:name" stands for; its module is imported now."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
