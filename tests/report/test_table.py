from __future__ import annotations

import csv
import json

import pytest

from edgeexit.calibrate.sweep import Sweep, sweep
from edgeexit.records.classification import Records
from edgeexit.report import sweep_csv, sweep_json, sweep_text
from report.made_sweep import HOSTILE, hostile, ordinary


@pytest.fixture
def agreeing() -> Sweep:
    from calibrate.made_rows import graded

    rows = [Records(r.outputs, r.cost) for r in (graded(200, 0), graded(200, 1))]
    return sweep(rows[0], rows[1], ["maxprob", "fixed"], (0.5, 1.0))


def test_the_verdict_is_the_first_line() -> None:
    s = ordinary()
    assert sweep_text(s).splitlines()[0] == s.verdict.text
    assert sweep_csv(s).splitlines()[0] == f"# {s.verdict.text}"
    assert next(iter(sweep_json(s)["verdict"].values())) == s.verdict.text
    assert sweep_csv(hostile()).splitlines()[1].startswith("policy,")  # a line break in it stays harmless


def test_csv_reads_back() -> None:
    s = ordinary(timed=True)
    table = list(csv.DictReader(sweep_csv(s).splitlines()[1:]))
    assert len(table) == len(s.rows) + 4 and [r["policy"] for r in table[:2]] == [
        "exit-0-alone",
        "exit-1-alone",
    ]
    for line, row in zip(table[4:], s.rows, strict=True):
        assert (line["policy"], float(line["budget"])) == (row.policy, row.budget)
        assert line["accuracy"] == ("" if row.accuracy is None else str(row.accuracy))
        assert line["threshold_2"] == ("" if row.thresholds is None else str(row.thresholds[2]))
        assert line["seconds"] == ("" if row.seconds is None else str(row.seconds))


def test_json_is_json_and_complete() -> None:
    s = ordinary()
    data = json.loads(json.dumps(sweep_json(s), allow_nan=False))
    assert len(data["rows"]) == len(s.rows) and len(data["statics"]) == 4
    assert data["rows"][0]["cost"] is None and data["seconds"] is None
    assert data["environment"] == {"device": "a board", "threads": 1}
    assert any("inf" in (r["thresholds"] or ()) for r in data["rows"])


def test_text_has_baselines_and_every_policy() -> None:
    text = sweep_text(ordinary(timed=True))
    assert "One exit for every input:\nexit  cost alone  cost inside  accuracy  95 % interval" in text
    (head,) = (line for line in text.splitlines() if line.startswith("budget"))
    assert head.split() == ["budget", *ordinary().policies]
    assert "environment  device a board, threads 1" in text
    assert "chosen on design rows (800 rows); measured on test rows (1,200 rows)" in text
    assert "0.050        -" in text


def test_text_says_when_it_leaves_budgets_out() -> None:
    s = ordinary()
    many = Sweep(
        s.verdict,
        tuple(type(s.rows[0])("maxprob", "maxprob", b / 100, 9) for b in range(1, 101)),
        s.statics,
        s.measure,
    )
    text = sweep_text(many)
    assert "16 of 100 budgets shown" in text and "\n 0.010        -\n" in text and "\n 1.000        -\n" in text
    assert "environment  not given" in text and "data         unknown" in text


def test_agreement_is_called_agreement(agreeing: Sweep) -> None:
    assert "accuracy" not in sweep_text(agreeing) and "accuracy" not in sweep_csv(agreeing)
    assert "What such networks cost was not given" in sweep_text(agreeing)


def test_hostile_names_stay_text() -> None:
    table = list(csv.DictReader(sweep_csv(hostile()).splitlines()[1:]))
    assert HOSTILE in {row["policy"] for row in table}
    assert HOSTILE in sweep_text(hostile())
