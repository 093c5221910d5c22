"""Training: it learns, it repeats itself to the bit, it can be cut off, and it ends in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeexit.errors import DataError, ModelError
from edgeexit_models.lm import LayerSkip, LlamaLM, LMConfig, Plan, Report, measure, train
from edgeexit_models.lm.trainer import Tokens, draw, rate

PLAN = Plan(
    steps=12, batch=4, context=16, lr=3e-3, seed=2,
    recipe=LayerSkip(dropout=0.3, scale=0.5, weights="uniform", every=2, imitate=0.3),
)  # fmt: skip


@pytest.fixture
def fresh(config: LMConfig) -> Callable[[], LlamaLM]:
    def build() -> LlamaLM:
        torch.manual_seed(0)
        return LlamaLM(config)

    return build


@pytest.fixture
def tokens() -> Tokens:
    """Counts up in steps of 1 to 3: easy to learn, not constant."""
    return (np.random.default_rng(0).integers(1, 4, 3000).cumsum() % 300).astype(np.uint16)


def test_the_loss_falls_and_exits_learn(fresh: Callable[[], LlamaLM], tokens: Tokens) -> None:
    model = fresh()
    before = measure(model, tokens[:600], 16)
    seen: list[Report] = []
    last = train(model, tokens, replace(PLAN, steps=150, lr=1e-2), report=seen.append, report_every=50)
    assert last.loss == seen[-1].loss
    assert [r.step for r in seen] == [50, 100, 150]
    assert seen[-1].tokens == 150 * 4 * 16 and seen[-1].fraction == 1.0
    assert seen[-1].loss < 0.5 * seen[0].loss
    after = measure(model, tokens[:600], 16)
    assert all(b.perplexity < 0.2 * a.perplexity for a, b in zip(before, after, strict=True))
    assert not model.training


@pytest.mark.parametrize("cut", [1, 7])
def test_a_run_cut_off_and_resumed_ends_in_the_same_weights(
    fresh: Callable[[], LlamaLM], tokens: Tokens, tmp_path: Path, cut: int
) -> None:
    whole, pieces = fresh(), fresh()
    train(whole, tokens, PLAN)
    path = tmp_path / "c.pt"
    first = train(pieces, tokens, PLAN, checkpoint=path, stop=lambda step: step == cut)
    assert first.step == cut and first.fraction < 1
    torch.manual_seed(99)
    other = LlamaLM(whole.config)  # whatever it starts with is replaced
    torch.rand(5)
    last = train(other, tokens, PLAN, checkpoint=path, resume=True)
    assert last.step == 12 and last.seconds > first.seconds and last.cpu_seconds > first.cpu_seconds > 0
    for name, value in whole.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_another_seed_gives_other_weights(fresh: Callable[[], LlamaLM], tokens: Tokens) -> None:
    first, second = fresh(), fresh()
    train(first, tokens, PLAN)
    train(second, tokens, replace(PLAN, seed=3))
    assert not torch.equal(first.embed_tokens.weight, second.embed_tokens.weight)


def test_a_time_limit_ends_the_run_with_its_schedule_complete(fresh: Callable[[], LlamaLM], tokens: Tokens) -> None:
    done = train(fresh(), tokens, replace(PLAN, steps=10**6), time_limit=1.0)
    assert 1 < done.step < 10**6
    assert done.fraction == 1.0 and 1.0 <= done.seconds < 3.0


def test_a_step_draws_the_same_whenever_it_is_asked(tokens: Tokens) -> None:
    ids, targets, generator = draw(tokens, PLAN, 5)
    again = draw(tokens, PLAN, 5)
    assert torch.equal(ids, again[0]) and torch.equal(targets, again[1])
    assert torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=again[2]))
    assert torch.equal(ids[:, 1:], targets[:, :-1])
    assert not torch.equal(ids, draw(tokens, PLAN, 6)[0])


def test_the_shortest_text_has_one_place_to_start() -> None:
    text = np.arange(17, dtype=np.uint16)
    ids, targets, _ = draw(text, PLAN, 0)
    assert (ids == torch.arange(16)).all() and (targets == torch.arange(1, 17)).all()


def test_the_learning_rate_climbs_then_falls_to_zero() -> None:
    rates = [rate(f / 100, 1.0, 0.1) for f in range(101)]
    assert rates[10] == 1.0 == max(rates) and rates[5] == pytest.approx(0.5)
    assert rates[55] == pytest.approx(0.5) and rates[100] == pytest.approx(0.0) and rates[0] > 0


def test_bfloat16_products_learn_too(fresh: Callable[[], LlamaLM], tokens: Tokens) -> None:
    model, seen = fresh(), list[Report]()
    train(model, tokens, replace(PLAN, steps=60, bfloat16=True), report=seen.append, report_every=30)
    assert seen[-1].loss < seen[0].loss
    assert model.embed_tokens.weight.dtype == torch.float32


def test_other_settings_do_not_go_on(fresh: Callable[[], LlamaLM], tokens: Tokens, tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    train(fresh(), tokens, replace(PLAN, steps=1), checkpoint=path)
    with pytest.raises(ModelError, match="steps: 1 there, 12 now"):
        train(fresh(), tokens, PLAN, checkpoint=path, resume=True)
    with pytest.raises(ModelError, match="exists: resume"):
        train(fresh(), tokens, PLAN, checkpoint=path)


def test_unfit_data_is_refused(fresh: Callable[[], LlamaLM], tokens: Tokens) -> None:
    with pytest.raises(DataError, match="more than 16 tokens"):
        train(fresh(), tokens[:16], PLAN)
    with pytest.raises(DataError, match=r"0\.\.300 do not fit the vocabulary of 300"):
        train(fresh(), np.arange(301, dtype=np.uint16), PLAN)
    with pytest.raises(ModelError, match="context 65 is longer"):
        train(fresh(), tokens, replace(PLAN, context=65))
    with pytest.raises(ModelError, match="no language model"):
        train(torch.nn.Linear(2, 2), tokens, PLAN)


def test_a_loss_that_is_no_number_stops_the_run(fresh: Callable[[], LlamaLM], tokens: Tokens) -> None:
    model = fresh()
    with torch.no_grad():
        model.norm.weight[0] = float("nan")
    with pytest.raises(ModelError, match="became nan in step 1"):
        train(model, tokens, PLAN)
