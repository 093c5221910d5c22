from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from calibrate.made_rows import graded
from edgeexit.calibrate.metrics.reliability import reliability_per_exit
from edgeexit.calibrate.sweep import Sweep, sweep
from edgeexit.report import sweep_html, sweep_json, sweep_text
from edgeexit.report.html.diagrams import budgets_svg, reliability_svg
from edgeexit.report.text.reliability import reliability_rows
from report.made_sweep import hostile

DESIGN, HELD_OUT = graded(600, 1), graded(500, 2)
FOUND = sweep(DESIGN, HELD_OUT, ("maxprob", "eero", "patience", "fixed"), (0.2, 0.5, 1.0))


def shapes(svg: str, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(tag))


def test_a_bar_for_every_bin_with_rows() -> None:
    for found in FOUND.calibration:
        bars = [r for r in shapes(reliability_svg(found), "rect") if r.get("class") == "bin"]
        assert len(bars) == np.count_nonzero(found.before.count)
        heights = [float(b.get("height", 0)) / 220 for b in bars]
        assert heights == pytest.approx(found.before.bin_accuracy[found.before.count > 0].tolist(), abs=1e-3)
        lines = shapes(reliability_svg(found), "polyline")
        assert len(lines) == (1 if found.temperature == 1 else 2)


def test_a_line_for_every_policy() -> None:
    svg = budgets_svg(FOUND)
    assert [t.text for t in shapes(svg, "title")] == ["maxprob", "eero", "patience"]
    assert len(shapes(svg, "polyline")) == 4  # and the diagonal


def test_figures_are_of_the_held_out_rows() -> None:
    for k, (found, there) in enumerate(zip(FOUND.calibration, reliability_per_exit(HELD_OUT), strict=True)):
        assert (found.exit, found.before.ece, found.before.nll) == (k, there.ece, there.nll)
        assert (found.skipped is None) == (found.temperature != 1)
    head, *rows = reliability_rows(FOUND)
    assert len(rows) == 4 and all(len(r) == len(head) for r in rows)
    assert sweep_json(FOUND)["calibration"][1]["before"]["ece"] == FOUND.calibration[1].before.ece
    assert "Calibration of each exit's probabilities" in sweep_text(FOUND)


def test_without_labels() -> None:
    found: Sweep = sweep(
        *(type(r)(r.outputs, r.cost, None, name=r.name) for r in (DESIGN, HELD_OUT)), ("maxprob",), (0.5,)
    )
    assert found.calibration == () and "these rows have no labels" in sweep_html(found)


def test_hostile_names() -> None:
    assert ElementTree.fromstring(budgets_svg(hostile())) is not None
