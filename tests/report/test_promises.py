from __future__ import annotations

import csv
import dataclasses
import math
import re
import struct
import xml.etree.ElementTree as ElementTree

import pytest

from calibrate.made_rows import graded
from edgeexit.calibrate.sweep import Sweep, sweep
from edgeexit.records.classification import Records
from edgeexit.report import promises_csv, promises_png, sweep_html, sweep_json, sweep_text
from edgeexit.report.chart import Axis, log_ticks, nice_ticks
from edgeexit.report.html.chart_svg import chart_svg, legend_html
from edgeexit.report.html.chosen import chosen_rows, exit_rates_svg, expected_svg
from edgeexit.report.html.svg import Panel
from edgeexit.report.promise_charts import cost_chart, loss_chart
from edgeexit.report.text.promises import promise_rows, status
from edgeexit.report.text.rejections import rejection_rows
from report.made_sweep import HOSTILE, hostile, ordinary


def small(n: int, alphas: tuple[float, ...], held: int = 300, *, useful: bool = True) -> Sweep:
    held_out = graded(held, 2, useful=useful)
    return sweep(graded(n, 1), held_out, ("maxprob", "fixed"), (0.3, 0.6, 1.0), alphas=alphas)


def marks(svg: str) -> list[str]:
    """Titles of the marks, in order."""
    found = [e for e in ElementTree.fromstring(svg).iter("path") if e.get("class") == "mark"]
    return [(e.find("title").text or "") for e in found]  # type: ignore[union-attr]


def test_a_mark_for_everything_that_was_certified() -> None:
    s = ordinary()
    made = [p for p in s.promises if p.loss is not None]
    assert 0 < len(made) < len(s.promises) == 25  # 400 rows cannot certify 0.005
    for svg in (chart_svg(loss_chart(s)), chart_svg(cost_chart(s))):
        assert len(marks(svg)) == len(made)
        assert all(f"alpha {100 * p.alpha:.3g} %" in m for p, m in zip(made, marks(svg), strict=True))
    assert len(re.findall("<label>", legend_html(loss_chart(s)))) == 5


def test_what_breaks_its_promise_lies_above_the_diagonal() -> None:
    s = small(1000, (0.05, 0.1), useful=False)  # held-out rows of another world
    panel = ElementTree.fromstring(chart_svg(loss_chart(s)))
    diagonal = next(e for e in panel.iter("polyline") if e.get("class") == "axis").get("points", "").split()
    y0, y1 = (float(p.split(",")[1]) for p in diagonal)
    low, high = 0.05 / 1.5, 0.1 * 1.5
    made = [p for p in s.promises if p.loss is not None]
    drawn = [e.get("d", "") for e in panel.iter("path") if e.get("class") == "mark"]
    for p, d in zip(made, drawn, strict=True):
        y = float(re.match(r"M[\d.]+,([\d.]+)", d)[1])  # type: ignore[index]
        assert (y > y0 + (y1 - y0) * math.log(p.alpha / low) / math.log(high / low)) is p.kept
    broken = sum(p.kept is False for p in made)
    assert broken >= 4 and "above" in {row[-1] for row in promise_rows(s)}
    assert "shaded part" in sweep_html(s)


def test_the_status_says_what_became_of_it() -> None:
    p = next(p for p in ordinary().promises if p.loss is not None)
    change = dataclasses.replace
    rates = (0.5, 0.5, 0.0, 0.0)
    base = change(p, alpha=0.05, loss=0.04, loss_low=0.03, loss_high=0.06, exit_rates=rates)
    assert status(base) == "kept"
    assert status(change(base, loss=0.055)) == "above, alpha within the interval"
    assert status(change(base, loss=0.08, loss_low=0.06)) == "above"
    assert status(change(base, exit_rates=(0.0, 0.0, 0.0, 1.0))) == "kept, by the last exit only"
    gone = change(base, loss=None, loss_low=None, refusal="no", certified_on=10, needed=1460)
    assert status(gone) == "refused: needs 1,460 rows"
    assert status(change(gone, certified_on=2000)) == "refused: no policy passes"


def test_csv_reads_back() -> None:
    s = ordinary()
    lines = promises_csv(s).splitlines()
    assert lines[0].startswith("# 400 design rows ordered the policies, 400 others certified one, and 1,200 held-out")
    table = list(csv.DictReader(lines[1:]))
    assert len(table) == len(s.promises)
    for line, p in zip(table, s.promises, strict=True):
        assert (line["guarantee"], line["method"], float(line["alpha"])) == (p.what, p.method, p.alpha)
        assert line["delta"] == ("" if p.method == "crc" else "0.1") and int(line["needed"]) == p.needed
        for name in ("loss", "loss_low", "loss_high", "cost", "accuracy", "certified_loss", "refusal"):
            assert line[name] == ("" if getattr(p, name) is None else str(getattr(p, name)))
        assert line["threshold_2"] == ("" if p.thresholds is None else str(p.thresholds[2]))
        assert line["exit_rate_3"] == ("" if p.exit_rates is None else str(p.exit_rates[3]))
    assert any("needs at least 460 calibration rows" in line["refusal"] for line in table)


def test_json_has_promises_and_rejections() -> None:
    s = ordinary()
    data = sweep_json(s)
    assert data["schema"] == 1 and len(data["promises"]) == 25 and len(data["rejections"]) == 9
    for found, p in zip(data["promises"], s.promises, strict=True):
        assert (found["alpha"], found["loss"], found["kept"]) == (p.alpha, p.loss, p.kept)
    assert {r["rule"] for r in data["rejections"]} == {"window", "threshold", "last exit alone"}


def test_text_and_page_have_both() -> None:
    s = ordinary()
    text, page = sweep_text(s), sweep_html(s)
    assert "refused: needs 460 rows" in text and "Answering only what is sure enough" in text
    for row in (*promise_rows(s)[1:], *rejection_rows(s)[1:]):
        assert all(cell in text for cell in row)
    assert page.count("<svg") >= 1 + 4 + 4 + 5 and 'id="promises"' in page and 'id="rejections"' in page
    assert "needs at least 460 calibration rows" in page


def test_nothing_asked_for_is_said() -> None:
    s = small(400, ())
    assert s.promises == () and "None were asked for" in sweep_html(s) and "Guarantees" not in sweep_text(s)
    assert promises_csv(s).startswith("# no promises")


def test_everything_refused_is_drawn_empty() -> None:
    s = small(20, (0.01, 0.02))
    assert all(p.refusal for p in s.promises) and marks(chart_svg(loss_chart(s))) == []
    assert legend_html(loss_chart(s)).count("(refused)") == 5 and "(refused)" not in legend_html(loss_chart(ordinary()))
    assert "0 of 0 measured losses are at most alpha, and 10 of 10 promises" in " ".join(sweep_text(s).split())
    pytest.importorskip("matplotlib")
    assert promises_png(s)[:4] == b"\x89PNG"


@pytest.mark.parametrize("alphas", [(0.5,), (0.9, 0.95), (0.001, 0.9), tuple(k / 100 for k in range(1, 40))])
def test_any_alphas_can_be_drawn(alphas: tuple[float, ...]) -> None:
    s = small(200, alphas)
    assert len(marks(chart_svg(loss_chart(s)))) == sum(p.loss is not None for p in s.promises)
    pytest.importorskip("matplotlib")
    assert struct.unpack(">II", promises_png(s, width=900, height=500)[16:24]) == (900, 500)


def test_equal_sweeps_give_equal_figures() -> None:
    pytest.importorskip("matplotlib")
    assert promises_png(small(200, (0.1,))) == promises_png(small(200, (0.1,)))


def test_without_labels() -> None:
    s = sweep(*(Records(r.outputs, r.cost) for r in (graded(400, 1), graded(300, 2))), ("maxprob",), (0.5, 1.0))
    assert s.rejections == () and {p.what for p in s.promises} == {"disagreement"}
    assert "or no risk was asked for" in sweep_html(s) and "agreement" in promises_csv(s).splitlines()[1].split(",")


def test_exit_rates_are_stacked_to_the_whole() -> None:
    s = ordinary()
    boxes = [e for e in ElementTree.fromstring(exit_rates_svg(s)).iter("rect") if e.get("class") != "frame"]
    rows = chosen_rows(s)
    assert {r.policy for r in rows} == {s.verdict.policy} and len(rows) >= 6
    assert len(boxes) == sum(rate > 0 for r in rows for rate in r.exit_rates or ())
    columns: dict[str, float] = {}
    for box in boxes:
        columns[box.get("x", "")] = columns.get(box.get("x", ""), 0) + float(box.get("height", 0))
    assert len(columns) == len(rows) and all(h == pytest.approx(300, abs=0.5) for h in columns.values())


def test_expected_and_measured_lines() -> None:
    lines = {
        e.get("class"): e.get("points", "") for e in ElementTree.fromstring(expected_svg(ordinary())).iter("polyline")
    }
    assert len(lines["measured"].split()) == len(lines["expected"].split()) == len(chosen_rows(ordinary()))
    assert lines["measured"] != lines["expected"]


def test_no_policy_compared_is_said() -> None:
    s = sweep(graded(300, 1), graded(300, 2), ("fixed",), (0.5, 1.0))
    assert "No adaptive policy was compared" in sweep_html(s)


def test_hostile_names_stay_text() -> None:
    svg = exit_rates_svg(hostile()), expected_svg(hostile())
    assert all(ElementTree.fromstring(text) is not None for text in svg)
    assert chosen_rows(hostile()) == [r for r in hostile().rows if r.policy == HOSTILE and r.feasible]


def test_axes() -> None:
    log = Axis("a", 0.001, 0.1, (), log=True)
    assert [log.share(v) for v in (0, 0.001, 0.01, 0.1, 7)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert Panel(Axis("x", 0, 1, ()), Axis("y", 0, 2, ()), 100).spot(0.5, 2) == (58 + 50, 22)
    assert nice_ticks(0.683, 0.884) == pytest.approx((0.7, 0.75, 0.8, 0.85))
    assert log_ticks(0.0005, 0.15) == pytest.approx((0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1))
    assert log_ticks(1e-6, 1) == pytest.approx(tuple(10.0**e for e in range(-6, 1)))
