"""Layouts are rows of one table; another package may add one."""

from __future__ import annotations

from edgeexit.bundle.layouts import DEFAULT_LAYOUTS, LAYOUTS, NETWORK_LAYOUTS, RUN_LAYOUTS, layout_order
from edgeexit.common.plugins import resolve


def test_own_rows_answer_for_themselves() -> None:
    assert NETWORK_LAYOUTS == DEFAULT_LAYOUTS == ("fused", "chain", "prefix", "all")
    assert RUN_LAYOUTS == ("fused", "chain")
    assert [LAYOUTS[n].count_networks(3) for n in LAYOUTS] == [1, 3, 3, 1, 3]
    assert [n for n in LAYOUTS if LAYOUTS[n].answers] == ["fused", "chain", "prefix"]
    assert [n for n in LAYOUTS if LAYOUTS[n].stepwise] == ["chain"]
    for row in LAYOUTS.values():
        assert row.driver is None or callable(resolve(row.driver))


def test_rows_of_other_packages_come_last() -> None:
    assert layout_order("ring") > layout_order("decoder")
    assert "wheel" not in LAYOUTS
