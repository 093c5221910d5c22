"""Layouts are rows of one table; another package may add one."""

from __future__ import annotations

from importlib import metadata

import pytest

from edgeexit.bundle.layouts import DEFAULT_LAYOUTS, LAYOUTS, NETWORK_LAYOUTS, RUN_LAYOUTS, Layout, layout_order
from edgeexit.common.plugins import resolve


class Point:
    """An entry point of another package."""

    name = "ring"

    def load(self) -> Layout:
        return Layout("ring", "edgeexit.engine.layouts.chain:Chain", "runtime", "exits", default=False)


def test_own_rows_answer_for_themselves() -> None:
    assert NETWORK_LAYOUTS == DEFAULT_LAYOUTS == ("fused", "chain", "prefix", "all")
    assert RUN_LAYOUTS == ("fused", "chain")
    assert [LAYOUTS[n].count_networks(3) for n in LAYOUTS] == [1, 3, 3, 1, 3]
    assert [n for n in LAYOUTS if LAYOUTS[n].answers] == ["fused", "chain", "prefix"]
    assert [n for n in LAYOUTS if LAYOUTS[n].stepwise] == ["chain"]
    for row in LAYOUTS.values():
        assert row.driver is None or callable(resolve(row.driver))


def test_another_package_adds_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "entry_points", lambda group: [Point()] if group == "edgeexit.layouts" else [])
    monkeypatch.setattr(LAYOUTS, "_others", {})
    assert "ring" in LAYOUTS and LAYOUTS["ring"].stops_early
    assert "ring" not in list(LAYOUTS) and layout_order("ring") > layout_order("decoder")
    with pytest.raises(KeyError, match="wheel"):
        LAYOUTS["wheel"]
