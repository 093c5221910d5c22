"""Every network in every form answers like the others, exit by exit; `format_cases` says what is left out and why."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
# not importorskip: importing them here would cost every run seconds
if find_spec("litert_torch") is None or find_spec("ai_edge_quantizer") is None:
    pytest.skip("the TFLite export tools are not installed", allow_module_level=True)
import torch
from format_cases import MADE, NETS, Form, exported, fresh, marked, network

import edgeexit
from edgeexit import Engine, Threshold, fixed_exit
from edgeexit.bench.verify import verify
from edgeexit.errors import PolicyError

NEAR = {"fp32": 1e-4, "int8": 0.1, "int16x8": 0.02, "int8-dynamic": 0.02, "weight-only": 0.02}
"""Largest error against torch as a fraction of the exit's largest answer; measured: at most 0.08 (one row)."""
EACH = pytest.mark.parametrize(("case", "form"), marked(MADE), ids=[f"{c}-{f.artifact}" for c, f in MADE])
RUN = [(c, f) for c, f in MADE if f.layout in ("fused", "chain")]
PAIRS = [(c, f) for c, f in RUN if f.layout == "fused"]


@cache
def engine(case: str, form: Form) -> Engine:
    return edgeexit.load(exported(case).bundles[form.format], artifact=form.artifact, warmup=0)


@pytest.fixture(autouse=True)
def _quiet(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """LiteRT greets on stderr."""
    yield
    capfd.readouterr()


def forced(case: str, form: Form, k: int) -> np.ndarray:  # type: ignore[type-arg]
    """Exit `k`'s answers to `fresh(case)`, one input at a time."""
    used = engine(case, form)
    if form.layout == "all":
        return np.concatenate([used.driver.all_exits([x[None]]).outputs[k] for x in fresh(case)])
    used.policy = fixed_exit(k, used.exits, used.artifact.score or "maxprob")
    found = [used.run(x) for x in fresh(case)]
    assert {f.exit for f in found} == {k}
    return np.stack([f.output for f in found])


@EACH
def test_every_exit_answers_like_torch(case: str, form: Form) -> None:
    for k, want in enumerate(exported(case).want):
        found = forced(case, form, k)
        assert (found.dtype, found.shape) == (np.float32, want.shape)
        assert np.abs(found - want).max() <= NEAR[form.precision] * np.abs(want).max()


@EACH
def test_every_layout_answers_like_the_chain(case: str, form: Form) -> None:
    """Of one precision: integers to the bit, floats to their last bits."""
    chain = Form(form.format, "chain", form.precision)
    for k in range(len(exported(case).want)):
        found, want = forced(case, form, k), forced(case, chain, k)
        if form.precision == "int8":
            np.testing.assert_array_equal(found, want)
        else:
            np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@EACH
def test_recorded_is_what_runs(case: str, form: Form) -> None:
    if form.layout == "all" and form.precision == "int8-dynamic":
        pytest.skip("the scales of int8-dynamic are those of the whole batch, and this file takes one")
    records = engine(case, form).record(fresh(case))
    assert records.n == len(fresh(case))
    for k in range(records.exits):
        np.testing.assert_allclose(records.outputs[k], forced(case, form, k), rtol=1e-4, atol=1e-5)


@EACH
def test_a_batch_is_its_rows(case: str, form: Form) -> None:
    if form.layout == "all":
        with pytest.raises(PolicyError):
            engine(case, form).run_batch(fresh(case))
        return
    used = engine(case, form)
    for k in range(used.exits):
        want = forced(case, form, k)
        batch = used.run_batch(fresh(case))
        assert set(batch.exits.tolist()) == {k}
        np.testing.assert_allclose(batch.outputs, want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", [f for c, f in MADE if c == "two-heads"], ids=lambda f: f.artifact)
def test_heads_surer_than_any_calibration_row_still_answer_with_probabilities(form: Form) -> None:
    """The mean's range is known: cut off at the surest calibration row, it would sum to less than one."""
    used, loud = engine("two-heads", form), 12 * fresh("two-heads")
    with torch.no_grad():
        want = [
            torch.stack([h.softmax(-1) for h in e["output"]]).mean(0) for e in network("two-heads")(torch.tensor(loud))
        ]
    assert max(float(w.max()) for w in want) > 0.9
    for k, outputs in enumerate(
        used.driver.all_exits([x]).outputs[k] for x in loud[:, None] for k in range(used.exits)
    ):
        assert abs(outputs.sum() - 1) < 0.03, k


@pytest.mark.parametrize("case", marked(NETS))
def test_verify_passes(case: str) -> None:
    for format, bundle in exported(case).bundles.items():
        found = verify(bundle)
        assert [v.artifact for v in found] == [a.name for a in bundle.manifest.artifacts]
        assert any(v.artifact.startswith(format) for v in found)
        assert all(v.passed for v in found), found


@pytest.mark.parametrize(("case", "form"), marked(PAIRS), ids=[f"{c}-{f.artifact}" for c, f in PAIRS])
def test_thresholds_leave_at_the_same_exits_fused_and_in_the_chain(case: str, form: Form) -> None:
    fused, chain = engine(case, form), engine(case, form._replace(layout="chain"))
    scores = chain.record(fresh(case)).scores("maxprob")
    # between two scores of every exit, so that rows leave and rows stay, and none lies on a threshold
    middle = np.sort(scores[:-1], axis=1)
    gaps = np.diff(middle, axis=1)[:, 6:-6]
    at = 6 + gaps.argmax(1)
    policy = Threshold(tuple(float(m[i] + m[i + 1]) / 2 for m, i in zip(middle, at, strict=True)))
    fused.policy = chain.policy = policy
    taken = [chain.run(x).exit for x in fresh(case)]
    assert len(set(taken)) == chain.exits, "the thresholds use every exit"
    assert [fused.run(x).exit for x in fresh(case)] == taken
    assert chain.run_batch(fresh(case)).exits.tolist() == taken
    assert fused.run_batch(fresh(case)).exits.tolist() == taken


@pytest.mark.parametrize(("case", "form"), marked(RUN), ids=[f"{c}-{f.artifact}" for c, f in RUN])
def test_a_point_of_float_is_refused_elsewhere(case: str, form: Form) -> None:
    bundle = exported(case).bundles[form.format]
    name = f"{form.format}-fp32"
    made_for = bundle.operating_point(name).artifact
    if form.artifact == made_for:
        assert edgeexit.load(bundle, policy=name, warmup=0).artifact.name == made_for
        return
    with pytest.raises(PolicyError, match=f"{name}' was calibrated on {made_for}; {form.artifact} gives other scores"):
        edgeexit.load(bundle, artifact=form.artifact, policy=name, warmup=0)
