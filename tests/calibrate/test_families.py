"""The table of policy families: built-in rows, rows of other packages, and who reads them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import replace

import pytest

from calibrate.made_rows import graded
from edgeexit.calibrate import CalibrationSpec, PolicyFamily, Target, calibrate, candidate_family
from edgeexit.calibrate.budget import Budget
from edgeexit.calibrate.families import ADAPTIVE, BASELINES, BUILT_IN, family_names, family_of, registered
from edgeexit.calibrate.search.family import SweepCurve
from edgeexit.calibrate.search.pareto import THRESHOLD
from edgeexit.calibrate.sweep import sweep
from edgeexit.common import plugins
from edgeexit.errors import PolicyError
from edgeexit.report.text.words import colour, dashed

DESIGN, HELD_OUT = graded(300, 0, "design"), graded(300, 1, "held")
MINE = replace(
    THRESHOLD,
    name="mine",
    summary="as threshold",
    curves=lambda *_: [SweepCurve("mine", "margin", colour="#123456", dashed=True)],
)
BROKEN = 3


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Registers an object of this module under a name, as an installed package does."""

    def one(name: str, value: str) -> None:
        entry = importlib.metadata.EntryPoint(name, value, "edgeexit.policy_families")
        monkeypatch.setattr(
            importlib.metadata, "entry_points", lambda group, name=entry.name: [entry] if name == entry.name else []
        )
        registered.cache_clear()
        plugins._entries.cache_clear()

    yield one  # type: ignore[misc]
    registered.cache_clear()
    plugins._entries.cache_clear()


def test_every_family_that_calibrates_has_candidates_or_selects() -> None:
    assert family_names()[:8] == ("threshold", "shared", "eero", "window", "qute", "qexit", "patience", "fixed")
    assert {f.name for f in BUILT_IN if not f.calibrates} == {"random"}
    with pytest.raises(PolicyError, match="unknown policy 'random'"):
        family_of("random")


def test_a_family_of_another_package_is_chosen_swept_and_drawn(register: Callable[[str, str], None]) -> None:
    register("mine", f"{__name__}:MINE")
    point = calibrate(DESIGN, policy="mine", budget=0.5, held_out=HELD_OUT)
    assert point.policy == calibrate(DESIGN, policy="threshold", budget=0.5).policy and point.name == "mine-budget-0.5"
    result = sweep(DESIGN, HELD_OUT, budgets=(0.5,), alphas=())
    assert result.policies == (*ADAPTIVE, "mine", *BASELINES)
    mine, margin = (next(r for r in result.rows if (r.policy, r.budget) == (p, 0.5)) for p in ("mine", "margin"))
    assert mine.thresholds == margin.thresholds and mine.score == "margin"
    assert colour(result, "mine") == "#123456" and dashed(result, "mine") and not dashed(result, "margin")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mine", "no_such_module:MINE", "cannot be loaded"),
        ("mine", f"{__name__}:BROKEN", "expected a PolicyFamily of that name"),
        ("other", f"{__name__}:MINE", "expected a PolicyFamily of that name"),
        ("eero", "edgeexit.calibrate.search.eero:EERO", "edgeexit has a family of that name"),
    ],
)
def test_what_cannot_be_registered_is_named(
    register: Callable[[str, str], None], name: str, value: str, message: str
) -> None:
    register(name, value)
    with pytest.raises(PolicyError, match=message):
        registered()


def test_options_are_checked_by_the_family() -> None:
    with pytest.raises(PolicyError, match="policy 'eero' has no option speed; its options: mode, beta, prior, spend"):
        candidate_family("eero", options={"speed": 1})
    with pytest.raises(PolicyError, match="its options: none"):
        calibrate(DESIGN, policy="shared", budget=0.5, options={"beta": 1})


def test_a_family_without_policies_has_no_candidates() -> None:
    with pytest.raises(PolicyError, match="policy 'window' is not chosen from candidates"):
        candidate_family("window").candidates(DESIGN)
    assert not PolicyFamily("none", "none", "none").calibrates


def test_a_spec_and_keywords_choose_alike() -> None:
    spec = CalibrationSpec(Target(budget=Budget(0.4)), "threshold", "margin")
    assert calibrate(DESIGN, spec, held_out=HELD_OUT) == calibrate(
        DESIGN, budget=0.4, policy="threshold", score="margin", held_out=HELD_OUT
    )


def test_budgets_and_guarantees_may_be_texts() -> None:
    assert calibrate(DESIGN, budget="50%").policy == calibrate(DESIGN, budget=0.5).policy
    assert calibrate(DESIGN, budget="52.5 MACs").policy == calibrate(DESIGN, budget=0.5).policy
    promised = calibrate(DESIGN, guarantee="disagreement<=0.2@0.9", held_out=HELD_OUT)
    assert promised.asked == {"alpha": 0.2, "confidence": pytest.approx(0.9)}


def test_a_spec_excludes_keywords_and_typing_errors_are_named() -> None:
    with pytest.raises(TypeError, match="found a spec and budget"):
        calibrate(DESIGN, CalibrationSpec(Target(accuracy=0.5)), budget=0.5)
    with pytest.raises(TypeError, match="unknown keyword bugdet; known: budget, accuracy"):
        calibrate(DESIGN, bugdet=0.5)  # type: ignore[call-arg]
