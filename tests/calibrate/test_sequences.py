"""Rows of transcripts: error rates of all words together, policies chosen and promised on them as on classes."""

from __future__ import annotations

import csv
import io
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibrate.made_transcripts import transcripts
from edgeexit.calibrate import calibrate
from edgeexit.calibrate.guarantees.losses import LOSSES, loss_of
from edgeexit.calibrate.guarantees.ordered import OrderedCandidates
from edgeexit.calibrate.guarantees.risk import Guarantee, certify
from edgeexit.calibrate.metrics.intervals import wilson
from edgeexit.calibrate.search.eero import eero_policy
from edgeexit.calibrate.search.pareto import pareto
from edgeexit.calibrate.sweep import sweep
from edgeexit.errors import DataError, EdgeExitError, Infeasible, PolicyError
from edgeexit.policy.policies import Patience, Policy, Threshold, fixed_exit
from edgeexit.policy.scores import TEXT_SCORES
from edgeexit.records.classification import Records, class_outputs, outcome, replay
from edgeexit.records.transcripts import SequenceRecords, load_rows, text_number, units_of
from edgeexit.report import sweep_csv, sweep_html, sweep_json, sweep_text
from edgeexit.speech.scores import edit_distance

DESIGN, HELD_OUT = transcripts(600, 0, "design"), transcripts(800, 1, "held out")


def rate(rows: SequenceRecords, taken: np.ndarray) -> float:
    assert rows.edits is not None and rows.units is not None
    return float(rows.edits[taken, np.arange(rows.n)].sum() / rows.units.sum())


def test_accuracy_is_one_less_the_error_rate_of_all_words_together() -> None:
    rng = np.random.default_rng(0)
    for rows in (DESIGN, HELD_OUT.take(np.arange(0, 800, 7))):
        taken = rng.integers(0, 4, rows.n)
        assert abs(outcome(taken, rows).accuracy - (1 - rate(rows, taken))) < 1e-12
    few = HELD_OUT.take(np.arange(20))
    by_utterance = (np.asarray(few.edits)[0] / np.asarray(few.units)).mean()
    assert abs(by_utterance - rate(few, np.zeros(20, int))) > 0.005  # not the mean of the utterances' own rates


@pytest.mark.parametrize("error", ["WER", "CER"])
def test_edits_are_counted_as_jiwer_counts(error: str) -> None:
    jiwer = pytest.importorskip("jiwer", reason="counts the errors to compare with")
    rng = random.Random(0)
    words = ["one", "two", "three", "o'clock", "très", "nine  ", "ten"]
    pairs = [
        [" ".join(rng.choices(words, k=rng.randint(1 - side, 6))) for side in (0, 1)]  # only the heard may be empty
        for _ in range(60)
    ]
    said, heard = zip(*pairs, strict=True)
    sides = [[units_of(t, error) for t in texts] for texts in (said, heard)]
    numbers = [[[hash(u) for u in units] for units in side] for side in sides]
    edits = np.array([[edit_distance(b, a) for a, b in zip(*numbers, strict=True)]] * 2)
    rows = SequenceRecords(
        np.array([[text_number(t) for t in heard]] * 2),
        np.array([1.0, 2.0]),
        {"agreement": np.ones((2, 60), np.float32)},
        edits,
        np.array([len(units) for units in sides[0]]),
        error,
    )
    clean = [[" ".join(t.split()) for t in texts] for texts in (said, heard)]
    expected = jiwer.wer(*clean) if error == "WER" else jiwer.cer(*clean)
    assert abs(1 - float(rows.correct[0].mean()) - expected) < 1e-12 and rows.measure == error


def test_saved_rows_are_the_same(tmp_path: Path) -> None:
    for rows in (DESIGN, transcripts(5, timed=False), replace(DESIGN, edits=None, units=None, temperatures=(2.0,) * 4)):
        rows.save(tmp_path / "rows.npz")
        again = load_rows(tmp_path / "rows.npz")
        assert isinstance(again, SequenceRecords) and again.digest() == rows.digest()
        assert (again.measure, again.labelled, again.temperatures) == (rows.measure, rows.labelled, rows.temperatures)
        assert again.audio_seconds == rows.audio_seconds and (again.cost == rows.cost).all()
        before = (tmp_path / "rows.npz").read_bytes()
        rows.save(tmp_path / "rows.npz")
        assert (tmp_path / "rows.npz").read_bytes() == before
    assert replace(DESIGN, edits=np.asarray(DESIGN.edits) + 1).digest() != DESIGN.digest()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"answers": np.zeros((4, 3, 2), np.int64)}, "answers must be int64"),
        ({"answers": np.zeros((4, 0), np.int64)}, "answers must be int64"),
        ({"edits": None}, "belong together"),
        ({"edits": np.full((4, 600), -1)}, "at least 0"),
        ({"units": np.zeros(600, np.int64)}, "nothing was said"),
        ({"units": np.ones(600)}, "whole numbers"),
        ({"error": "FER"}, "unknown error rate 'FER'"),
        ({"stored_scores": {}}, "no scores"),
        ({"stored_scores": {"agreement": np.full((4, 600), 1.5, np.float32)}}, r"must lie in \[0, 1\]"),
        ({"stored_scores": {"agreement": np.full((4, 600), np.nan, np.float32)}}, "finite"),
        ({"cost": np.ones(4)}, "growing"),
        ({"seconds": np.zeros((2, 600))}, "seconds must be"),
    ],
)
def test_what_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(DESIGN, **changed)


def test_damaged_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", answers=np.zeros((2, 3)), cost=np.array([1.0, 2]))
    with pytest.raises(DataError, match="'answers' must be whole numbers"):
        load_rows(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", answers=np.zeros((2, 3), np.int64))
    with pytest.raises(DataError, match="need 'cost'"):
        load_rows(tmp_path / "a.npz")


def test_scores_cannot_be_taken_again() -> None:
    assert DESIGN.score_names == TEXT_SCORES and DESIGN.default_score == "ctc_sequence_logprob"
    with pytest.raises(PolicyError, match="no score 'margin' was recorded; known here: agreement, ctc"):
        DESIGN.scores("margin")
    assert (DESIGN.scores("maxprob") == DESIGN.scores("greedy_path")).all(), "as a fused graph calls it"
    with pytest.raises(PolicyError, match="record again"):
        DESIGN.scores("agreement", (2.0,) * 4)
    with pytest.raises(DataError, match="prediction sets need the outputs"):
        calibrate(DESIGN, held_out=HELD_OUT, budget=0.6, sets=0.1)
    with pytest.raises(DataError, match="these rows are transcripts"):
        class_outputs(DESIGN, "temperatures")


def test_without_references_agreement_counts() -> None:
    rows = replace(DESIGN, edits=None, units=None)
    assert rows.measure == "agreement" and not rows.labelled
    assert (rows.correct == (rows.answers == rows.answers[-1])).all()
    with pytest.raises(DataError, match="needs true classes or transcripts"):
        loss_of("wer_gap").table(rows)
    point = calibrate(rows.take(np.arange(300)), held_out=rows.take(np.arange(300, 600)), budget=0.6)
    assert "agreement" in point.expected


def test_patience_is_agreement_without_calibration() -> None:
    same = Threshold((1.0,) * 3, "agreement")
    assert (replay(Patience(1), HELD_OUT) == replay(same, HELD_OUT)).all()
    assert 1 < replay(same, HELD_OUT).mean() < 2.5


def test_eero_keeps_its_budget_and_beats_chance() -> None:
    for budget in (0.4, 0.6, 0.8):
        policy, rates = eero_policy(DESIGN, budget, DESIGN.default_score)
        found = outcome(replay(policy, HELD_OUT), HELD_OUT)
        assert found.cost <= budget + 0.03
        shuffled = np.random.default_rng(0).permutation(replay(policy, HELD_OUT))
        assert found.accuracy > outcome(shuffled, HELD_OUT).accuracy
        assert abs(rates.spent - budget) < 0.2


def test_eero_takes_more_errors_than_words() -> None:
    rows = replace(DESIGN, edits=np.asarray(DESIGN.edits) + np.array([[20], [1], [0], [0]]))
    assert rows.correct[0].mean() < 0
    policy, _ = eero_policy(rows, 0.7, rows.default_score)
    assert outcome(replay(policy, rows), rows).exit_rates[0] < 0.2
    assert np.isfinite(wilson(float(rows.correct[0].mean()), rows.n, float(rows.correct[0].var()))).all()


def test_calibrating_for_an_error_rate() -> None:
    point = calibrate(DESIGN, held_out=HELD_OUT, accuracy_drop=0.01)
    taken = replay(point.policy, HELD_OUT)
    assert abs(point.expected["WER"] - rate(HELD_OUT, taken)) < 1e-12 and "accuracy" not in point.expected
    assert point.policy.score == "ctc_sequence_logprob" and point.expected["cost"] < 0.9
    assert rate(DESIGN, replay(point.policy, DESIGN)) <= rate(DESIGN, np.full(600, 3)) + 0.01 + 1e-12
    with pytest.raises(Infeasible, match=r"1 - WER of 1 is out of reach on 600 design rows; the best reachable"):
        calibrate(DESIGN, accuracy=1.0)
    window = calibrate(DESIGN, held_out=HELD_OUT, policy="window", selective="cov@0.1")
    assert window.expected["risk"] is not None and abs(window.expected["risk"] - 0.1) < 0.05


@pytest.mark.parametrize(("what", "method"), [("wer_gap", "ltt"), ("wer_gap", "crc"), ("accuracy_gap", "ltt")])
def test_promises_are_kept(what: str, method: str) -> None:
    """The sequence is fixed; the rows that certify are drawn again and again."""
    asked = Guarantee(what, 0.05, 0.1, method)  # type: ignore[arg-type]
    sequence: list[Policy] = [
        fixed_exit(3, 4, "greedy_path"),
        *(p.policy for p in reversed(pareto(DESIGN, "greedy_path").points)),
    ]
    sequence = sequence[:1] + sequence[1::4]
    ordered = OrderedCandidates.starting_at(sequence, [0])
    field = transcripts(20_000, 99)
    lost = LOSSES[what].table(field)
    true = {p: float(lost[replay(p, field), np.arange(field.n)].mean()) for p in sequence}
    rounds, chosen = 120, []
    for seed in range(rounds):
        try:
            chosen.append(certify(ordered, transcripts(400, 1000 + seed), asked).policy)
        except Infeasible:  # what was refused breaks nothing
            continue
    found = [true[p] for p in chosen]  # type: ignore[index]
    assert len(found) > rounds / 2 and len(set(found)) > 1
    if method == "crc":
        assert np.mean(found) <= 0.05 + 2 * np.std(found) / math.sqrt(rounds)
    else:
        broken = sum(f > 0.05 for f in found) / rounds
        assert broken <= 0.1 + 2 * math.sqrt(0.09 / rounds)


def test_what_the_gap_promises() -> None:
    safe = OrderedCandidates((fixed_exit(3, 4, "agreement"),), (1.0,))
    promise = certify(safe, HELD_OUT, Guarantee("wer_gap", 0.05, 0.1)).promise
    assert promise["test"] == "Hoeffding-Bentkus" and promise["measured"] == 0
    assert promise["text"].startswith(
        "the mean over utterances of the edits beyond the last exit's per word of the reference, where fewer edits "
        "count as 0 and no utterance as more than 1, is at most 0.05, with probability 0.9"
    )
    with pytest.raises(DataError, match="measure WER, which brier_gap is not of: disagreement, accuracy_gap, wer_gap"):
        loss_of("brier_gap").table(HELD_OUT)
    classes = Records(np.zeros((2, 4, 3), np.float32), np.array([1.0, 2]), np.arange(4) % 3)
    with pytest.raises(DataError, match=r"measure accuracy, which wer_gap is not of: disagreement, accuracy_gap"):
        loss_of("wer_gap").table(classes)


def test_the_interval_is_that_of_utterances() -> None:
    """Errors come together in an utterance, so that its words are fewer than they look."""
    assert wilson(0.3, 100, 0.3 * 0.7) == pytest.approx(wilson(0.3, 100))
    low, high = wilson(outcome(np.zeros(800, int), HELD_OUT).accuracy, 800, float(HELD_OUT.correct[0].var()))
    words = int(np.asarray(HELD_OUT.units).sum())
    by_words = wilson(1 - rate(HELD_OUT, np.zeros(800, int)), words)
    assert high - low > by_words[1] - by_words[0]
    rng = np.random.default_rng(0)
    means = [1 - rate(HELD_OUT.take(rng.integers(0, 800, 800)), np.zeros(800, int)) for _ in range(300)]
    assert abs((high - low) - 2 * 1.96 * np.std(means)) < 0.3 * (high - low)  # against a bootstrap of utterances


def test_a_sweep_and_its_reports_read_error_rates() -> None:
    found = sweep(DESIGN, HELD_OUT, budgets=(0.4, 0.7, 1.0), alphas=(0.05,))
    assert found.measure == "WER" and not found.rejections and not found.calibration
    assert {"eero", "agreement", "shared-agreement", "patience", "qexit", "fixed", "random"} <= set(found.policies)
    assert {p.what for p in found.promises} == {
        "disagreement", "accuracy_gap", "accumulated_accuracy_gap", "wer_gap",
    }  # fmt: skip
    assert found.verdict.text.startswith("Adaptive exits pay:") and "WER" in found.verdict.text
    wer = [rate(HELD_OUT, np.full(800, k)) for k in range(4)]
    rows = list(csv.DictReader(io.StringIO(sweep_csv(found).split("\n", 1)[1])))
    for k, row in enumerate(rows[:4]):
        assert abs(float(row["WER"]) - wer[k]) < 1e-12
        assert float(row["WER_low"]) < wer[k] < float(row["WER_high"])
    text = sweep_text(found)
    assert f"{100 * wer[0]:.1f}" in text and "real-time factor" in text and "WER of each policy" in text
    page = sweep_html(found)
    assert "WER" in page and '"less_is_better":true' in page and f"{100 * wer[0]:.1f} %" in page
    assert sweep_json(found)["audio_seconds"] == HELD_OUT.audio_seconds
    fixed = next(r for r in found.rows if r.policy == "ctc_sequence_logprob" and r.budget == 0.7)
    assert HELD_OUT.seconds is not None and fixed.thresholds is not None
    taken = replay(Threshold(fixed.thresholds, "ctc_sequence_logprob"), HELD_OUT)
    expected = HELD_OUT.seconds[taken, np.arange(800)].mean() + 1e-5 * (taken + 1).mean()
    assert fixed.seconds == pytest.approx(expected)


def test_figures_of_error_rates() -> None:
    pytest.importorskip("matplotlib", reason="draws figures")
    from edgeexit.report import sweep_png

    found = sweep(DESIGN, HELD_OUT, ("agreement", "fixed"), (0.4, 0.7, 1.0), alphas=())
    assert sweep_png(found).startswith(b"\x89PNG")


def test_verdicts_that_do_not_pay_speak_of_errors() -> None:
    rng = np.random.default_rng(0)
    blind = {s: rng.random((4, 600), np.float32) for s in TEXT_SCORES}
    rows = replace(DESIGN, stored_scores=blind, answers=rng.integers(0, 1 << 40, (4, 600)))
    design, held_out = rows.split(0.5, 0)
    text = sweep(design, held_out, ("agreement",), (0.6,), alphas=()).verdict.text
    assert "pay" in text and "WER" in text and "accuracy" not in text


def test_what_takes_longer_than_it_saves_does_not_pay() -> None:
    def slow(rows: SequenceRecords) -> SequenceRecords:
        """The beam search takes a second at every exit, the others nothing to speak of."""
        return replace(rows, scoring={**rows.scoring, "nbest_posterior": np.arange(1.0, 5)})

    both = sweep(slow(DESIGN), slow(HELD_OUT), ("nbest_posterior", "ctc_sequence_logprob"), (0.6,), alphas=()).verdict
    assert both.pays and both.policy == "ctc_sequence_logprob"
    alone = sweep(slow(DESIGN), slow(HELD_OUT), ("nbest_posterior",), (0.6,), alphas=()).verdict
    assert alone.pays is False and alone.text.startswith("Adaptive exits do not pay in time here")


def test_the_same_rows_on_both_sides_are_refused() -> None:
    with pytest.raises(DataError, match="must not be the design rows"):
        sweep(DESIGN, DESIGN.take(np.arange(100)), budgets=(0.5,))
    with pytest.raises(EdgeExitError, match="measures WER"):
        sweep(DESIGN, replace(HELD_OUT, error="CER"), budgets=(0.5,))


def test_a_target_is_named_as_it_is_asked() -> None:
    with pytest.raises(PolicyError, match=r"1 - WER\) is a fraction"):
        calibrate(DESIGN, accuracy=3)
