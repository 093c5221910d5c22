"""Decoding on a real, tiny model: every way gives the text that it promises, and the simulator's rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeexit.errors import BundleError, DataError, Infeasible
from edgeexit.lm.costs import Costs
from edgeexit.lm.decoding import AnswerProbe
from edgeexit.lm.generate import Answer, Generation
from edgeexit.lm.loading import load_lm
from edgeexit.lm.model import DecoderRunnables, LanguageModel
from edgeexit.lm.sampling import Sampler
from edgeexit.lm.session import Session
from edgeexit.lm.settings import Decoding
from edgeexit.lm.text.tokenizer import text_of
from edgeexit.lm.tuning.consistency import certify
from edgeexit.lm.tuning.measure_costs import measure
from edgeexit.lm.tuning.simulate import CostTable, simulate
from edgeexit.lm.tuning.traces import Trace, quality, record
from edgeexit.lm.tuning.tune import sample_prompts, tune

pytest.importorskip("onnxruntime")

TOKENS = 40
LOSSLESS = [
    *(Decoding("speculative", e, k, t) for e in (0, 1, 2) for k, t in ((1, 0.0), (4, 0.0), (8, 0.0), (6, 0.3))),
    Decoding("lookup"),
    Decoding("lookup", draft=8, ngram=1),
    Decoding("del", draft=8),
]


@pytest.fixture(scope="module", params=["fp32", "int8", "short"])
def model(request: pytest.FixtureRequest, tiny_lm: Path, tiny_lm_short: Path) -> LanguageModel:
    if request.param == "short":
        return load_lm(tiny_lm_short)
    return load_lm(tiny_lm, artifact=request.param)


@pytest.fixture(scope="module")
def fp32(tiny_lm: Path) -> LanguageModel:
    return load_lm(tiny_lm)


def text(model: LanguageModel, n: int = 600) -> list[int]:
    """Token ids that are likely enough for the model to have opinions: its own draws."""
    ids: list[int] = []
    while len(ids) < n:
        ids += Answer(model, [5], max_tokens=90, chooser=Sampler(1.0, seed=len(ids))).run().ids
    return ids[:n]


@pytest.fixture(scope="module")
def costs(model: LanguageModel) -> Costs:
    """Of this device, and as if later stages cost more: so small a network is hardly ever worth a draft."""
    found = measure(model, 9, n=1)
    return replace(found, stages=found.stages * np.array([1.0, 5, 5, 5])[:, None, None])


@pytest.fixture(scope="module")
def traces(model: LanguageModel) -> list[Trace]:
    return record(model, sample_prompts(model, text(model), 6, 12), TOKENS)


@pytest.mark.parametrize("setting", LOSSLESS, ids=str)
def test_the_text_of_plain_decoding_in_the_simulators_rounds(
    setting: Decoding, model: LanguageModel, costs: Costs, traces: list[Trace]
) -> None:
    drafted = accepted = 0
    for trace in traces:
        found = Answer(model, trace.ids[: trace.start].tolist(), setting, max_tokens=TOKENS, costs=costs).run()
        told = simulate([CostTable(trace, costs)], setting)
        assert found.ids == tuple(trace.ids[trace.start :])
        assert (found.rounds, found.accepted, found.exits) == (told.rounds, told.accepted, told.exits)
        if setting.sure == 0:
            # only an end token among drafts after a wrong one, which no recorded text can know, makes a difference
            assert found.drafted == pytest.approx(told.drafted, abs=6)
        assert found.same is True
        drafted, accepted = drafted + found.drafted, accepted + found.accepted
    assert drafted and 0 < accepted <= drafted  # else nothing was tried


def test_exits_matter(traces: list[Trace]) -> None:
    agree = np.concatenate([t.agree for t in traces]).mean(0)
    assert 0.2 < agree[0] < agree[2] < agree[3] == 1


def test_plain_decoding_is_the_whole_network_over_the_whole_text(model: LanguageModel, traces: list[Trace]) -> None:
    trace = traces[0]
    session = Session(model)
    session.ids.extend(trace.ids.tolist())
    guesses = model.logits(session.run(model.count - 1)).argmax(-1)
    assert guesses[trace.start - 1 : -1].tolist() == trace.ids[trace.start :].tolist()


def test_hidden_states_and_cache_after_going_back(fp32: LanguageModel) -> None:
    """Whatever was drafted and taken back, later numbers are those of a fresh sequence."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 272, 40).tolist()
    session, last = Session(fp32), fp32.count - 1
    session.ids.extend(ids[:10])
    session.run(last)
    while len(session.ids) < 40:
        keep = len(session.ids)
        session.ids.extend(rng.integers(1, 272, 4).tolist())
        session.run(int(rng.integers(0, fp32.count)))
        session.back(keep + int(rng.integers(0, 2)))
        del session.ids[keep:]
        session.back(keep)
        session.ids.append(ids[keep])
        got = session.run(last)[:, -1]
        fresh = Session(fp32)
        fresh.ids.extend(ids[: keep + 1])
        assert np.allclose(fresh.run(last)[:, -1], got, atol=1e-4)
    arrays = [a for stage in session.cache.rows for a in stage]
    assert sum(a.nbytes for a in arrays) == fp32.spec.cache_bytes(fp32.spec.context)


def test_calm_repair_is_exact_for_those_that_go_deep(fp32: LanguageModel) -> None:
    """A token that left early has, once repaired, the same keys as in the whole network."""
    found = Answer(fp32, [5, 9, 30], Decoding("calm", threshold=0.6, repair=True), max_tokens=TOKENS)
    result = found.run()
    assert sum(result.exits[:-1]) > 0 and result.exits[-1] > 0
    session = found.session
    session.run(fp32.count - 1)
    fresh = Session(fp32)
    fresh.ids.extend(session.ids)
    fresh.run(fp32.count - 1)
    for stage, (mine, own) in enumerate(zip(session.cache.rows, fresh.cache.rows, strict=True)):
        n = session.cache.lengths[stage]
        assert n == len(session.ids)
        assert all(np.allclose(a[:n], b[:n], atol=1e-4) for a, b in zip(mine, own, strict=True))


@pytest.mark.parametrize("confidence", ["maxprob", "margin", "state"])
@pytest.mark.parametrize("repair", [False, True])
def test_calm_goes_from_plain_decoding_to_the_first_exit(
    confidence: str, repair: bool, model: LanguageModel, traces: list[Trace]
) -> None:
    trace = traces[0]
    prompt = trace.ids[: trace.start].tolist()

    def run(threshold: float, decay: float = 0.0) -> Generation:
        asked = Decoding("calm", 1, threshold=threshold, confidence=confidence, repair=repair, decay=decay)  # type: ignore[arg-type]
        return Answer(model, prompt, asked, max_tokens=TOKENS).run()

    never, always = run(1.0), run(0.0)
    assert never.ids == tuple(trace.ids[trace.start :]) and never.exits[-1] == len(never.ids)
    assert always.exits[0] == 0 and always.exits[1] >= len(always.ids) * (0.9 if repair else 1.0)
    assert never.same is False  # by design another text, even where it is not


def test_stand_ins_and_skip_run_what_they_say(fp32: LanguageModel) -> None:
    assert Answer(fp32, [5, 9], Decoding("skip", 3), max_tokens=TOKENS).run().ids == (
        Answer(fp32, [5, 9], max_tokens=TOKENS).run().ids
    )
    skipping = Answer(fp32, [5, 9], Decoding("skip", 1), max_tokens=TOKENS)
    skipping.run()
    with pytest.raises(DataError, match=r"expected 1\.\.3"):
        Answer(fp32, [5], Decoding("skip", 0))
    without = replace(fp32.parts, keys_values={})
    bare = LanguageModel(fp32.spec, without, artifact="x")
    with pytest.raises(BundleError, match="kv_1"):
        Answer(bare, [5, 9], Decoding("calm", threshold=0.0)).run()


@pytest.mark.parametrize(
    "setting",
    [Decoding("speculative", 1, 4), Decoding("lookup", ngram=1), Decoding("calm")],
    ids=str,
)
def test_draws_repeat_with_their_seed(setting: Decoding, model: LanguageModel) -> None:
    def run(seed: int) -> tuple[int, ...]:
        return Answer(model, [5, 9, 30], setting, max_tokens=30, chooser=Sampler(0.9, 40, 0.95, seed)).run().ids

    assert run(3) == run(3) != run(4)


def test_speculation_draws_from_the_same_distribution(fp32: LanguageModel) -> None:
    """The second token of many short answers, with and without drafts."""

    def counts(setting: Decoding) -> np.ndarray:
        sampler, found = Sampler(1.0, 5, seed=1), np.zeros(272)
        for _ in range(400):
            found[Answer(fp32, [5, 9, 30], setting, max_tokens=2, chooser=sampler).run().ids[1]] += 1
        return found

    plain, drafted = counts(Decoding()), counts(Decoding("speculative", 1, 2))
    likely = plain + drafted >= 20
    assert likely.sum() >= 3
    # the difference of two binomial counts: four standard deviations
    assert (np.abs(plain - drafted)[likely] <= 4 * np.sqrt((plain + drafted)[likely])).all()


def test_ends(fp32: LanguageModel) -> None:
    full = Answer(fp32, [5, 9, 30], max_tokens=500).run()
    assert full.reason in ("context", "end")
    if full.reason == "context":
        assert len(full.ids) + 3 == fp32.spec.context
    length = Answer(fp32, [5, 9, 30], max_tokens=7).run()
    assert length.reason == "length" and length.ids == full.ids[:7]
    wanted = full.ids[5]
    ending = LanguageModel(replace(fp32.spec, eos=(wanted,)), fp32.parts, artifact="x")
    first = full.ids.index(wanted)
    for setting in (
        Decoding(),
        Decoding("speculative", 2, 8),
        Decoding("lookup", draft=8, ngram=1),
    ):
        ended = Answer(ending, [5, 9, 30], setting, max_tokens=60).run()
        assert ended.reason == "end" and ended.ids == full.ids[: first + 1]


def test_an_end_token_is_no_text_wherever_it_comes_from(fp32: LanguageModel) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers turns text into tokens and back")
    text, trigger = text_of(fp32), Answer(fp32, [5, 9, 30], max_tokens=1).run().ids[0]
    end = Answer(fp32, [5, 9, 30, 40, 41], max_tokens=1).run().ids[0]
    ending = LanguageModel(replace(fp32.spec, eos=(end,)), fp32.parts, artifact="x")
    check = AnswerProbe(frozenset({trigger}), (40, 41), 0.0, most=4)
    done = Answer(ending, [5, 9, 30], max_tokens=30, check=check, text=text).run()
    assert done.reason == "answered" and done.ids == (40, 41, end)
    assert done.text == text.decode([40, 41]) != text.decode(done.ids)


def test_a_context_that_no_memory_holds_is_one_line(fp32: LanguageModel) -> None:
    with pytest.raises(DataError, match="no room"):
        Session(LanguageModel(replace(fp32.spec, kv_heads=1 << 12, head_dim=1 << 16, context=1 << 24), fp32.parts))


def test_leaving_early_harms_nothing(fp32: LanguageModel) -> None:
    want = Answer(fp32, [5, 9, 30], max_tokens=20).run().ids
    answer = Answer(fp32, [5, 9, 30], Decoding("speculative", 1), max_tokens=20)
    pieces: Iterator[object] = iter(answer)
    next(pieces)
    next(pieces)
    assert answer.result.reason == "interrupted"
    assert answer.result.ids == want[: len(answer.result.ids)] and answer.result.ids
    pieces.close()  # type: ignore[attr-defined]
    assert Answer(fp32, [5, 9, 30], max_tokens=20).run().ids == want
    with pytest.raises(DataError, match="once"):
        next(iter(answer))


@pytest.mark.parametrize(
    "setting",
    [Decoding(), Decoding("speculative", 1, 6), Decoding("calm", repair=True)],
    ids=str,
)
def test_stop_checks(setting: Decoding, fp32: LanguageModel) -> None:
    prompt = [5, 9, 30]
    want = Answer(fp32, prompt, setting, max_tokens=30).run()
    trigger = want.ids[10]
    place = want.ids.index(trigger)

    def probe(threshold: float, tries: int = 10) -> AnswerProbe:
        return AnswerProbe(frozenset({trigger}), (40, 41), threshold, most=4, tries=tries)

    never = probe(0.9999)
    going = Answer(fp32, prompt, setting, max_tokens=30, check=never).run()
    assert never.confidences and all(0 < c < 1 for c in never.confidences)
    if not setting.lossy:
        assert going.ids == want.ids and going.reason == want.reason
    always = probe(0.0)
    done = Answer(fp32, prompt, setting, max_tokens=30, check=always).run()
    assert done.reason == "answered" and done.ids[: place + 2] == (*want.ids[:place], 40, 41)
    assert len(done.ids) == place + 6 and len(always.confidences) == 1
    limited = probe(0.9999, tries=1)
    Answer(fp32, prompt, setting, max_tokens=30, check=limited).run()
    assert len(limited.confidences) == 1
    with pytest.raises(DataError, match="skip cannot"):
        Answer(fp32, prompt, Decoding("skip"), check=never)
    with pytest.raises(DataError, match="trigger"):
        AnswerProbe(frozenset(), (1,))


def test_the_answer_of_a_stop_check_is_what_decoding_would_give(fp32: LanguageModel) -> None:
    prompt, want = [5, 9, 30], Answer(fp32, [5, 9, 30], max_tokens=30).run().ids
    place = want.index(want[10])
    check = AnswerProbe(frozenset({want[10]}), (40, 41), 0.0, most=5)
    done = Answer(fp32, prompt, max_tokens=30, check=check).run()
    fresh = Answer(fp32, [*prompt, *want[:place], 40, 41], max_tokens=5).run()
    assert done.ids[place + 2 :] == fresh.ids


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda m: Answer(m, []), "prompt is empty"),
        (lambda m: Answer(m, [1] * 96), "context is 96"),
        (lambda m: Answer(m, [272]), "0..271"),
        (lambda m: Answer(m, [-1]), "0..271"),
        (lambda m: Answer(m, [1], max_tokens=0), "at least 1"),
        (lambda m: Answer(m, [1], Decoding("speculative", 3)), "early exits 0..2"),
        (lambda m: Answer(m, [1], Decoding("speculative", -1)), "early exits"),
        (lambda m: Answer(m, [1], Decoding("calm", 4)), "exits 0..3"),
        (lambda m: Answer(m, [1], Decoding("del")), "costs"),
        (lambda m: Answer(m, [1], stops=["x"]), "tokenizer"),
        (lambda m: record(m, [], 5), "need at least one"),
        (lambda m: quality(m, [1]), "more text"),
        (lambda m: sample_prompts(m, [1] * 10, 3, 4), "needs? .*12 tokens"),
        (lambda m: sample_prompts(m, [1] * 500, 3, 96), "no room"),
        (lambda m: measure(m, 96), "below the context"),
        (lambda m: measure(m, 4, positions=[93]), "do not fit"),
    ],
)
def test_refusals(make: Callable[[LanguageModel], object], says: str, fp32: LanguageModel) -> None:
    with pytest.raises(DataError, match=says):
        make(fp32)


def test_costs_of_another_artifact_are_refused(tiny_lm: Path, fp32: LanguageModel) -> None:
    other = measure(load_lm(tiny_lm, artifact="int8"), 5, n=1)
    with pytest.raises(DataError, match="measure again"):
        Answer(fp32, [1], Decoding("del"), costs=other)
    with pytest.raises(DataError, match="reach to"):
        Answer(fp32, [1], Decoding("del", draft=8), costs=measure(fp32, 5, n=1))


def test_quality_is_what_a_loop_counts(model: LanguageModel) -> None:
    ids = text(model, 200)
    found = quality(model, ids, context=50, skip=3)
    loss, count, same = 0.0, 0, np.zeros(model.count)
    for at in range(0, 150, 50):
        session = Session(model)
        for i in range(at, at + 50):
            session.mark()
            session.ids.append(ids[i])
            logits = model.logits(session.run(model.count - 1))[0].astype(np.float64)
            if i < at + 3:
                continue
            count += 1
            loss += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[ids[i + 1]]
            for k in range(model.count - 1):
                early = model.guesses(k, model.exit_logits(k, session.outputs[k][0]))[0]
                same[k] += early == logits.argmax()
    assert found[-1].tokens == count == 141 and found[-1].agreement == 1
    assert found[-1].perplexity == pytest.approx(np.exp(loss / count), rel=1e-4)
    assert [q.agreement for q in found[:-1]] == pytest.approx(list(same[:-1] / count))
    assert (found[0].perplexity is None) == (model.exit_ids(0) is not None)


def test_a_study_ends_in_a_verdict(model: LanguageModel) -> None:
    told: list[str] = []
    ids = text(model)
    found = tune(
        model, ids, prompts=4, prompt_tokens=10, max_tokens=20, draft=4, n=1, tell=lambda what, i, n: told.append(what)
    )
    assert list(dict.fromkeys(told)) == ["timing", "reading", "answering", "simulating"]
    document = found.to_dict()
    assert document["verdict"] == found.verdict.text and len(document["exits"]) == model.count
    assert document["exits"][0]["best"]["method"] == "speculative"
    assert document["setting"]["method"] in ("greedy", "speculative", "del", "lookup")
    assert Costs.from_dict(document["costs"]).exits == model.count


def test_consistency(fp32: LanguageModel) -> None:
    prompts = sample_prompts(fp32, text(fp32, 800), 60, 8)
    asked = Decoding("calm", repair=True)
    found = certify(fp32, prompts, asked, alpha=0.3, delta=0.1, max_tokens=12, grid=(1.0, 0.9, 0.8, 0.4, 0.0))
    assert found.measured <= 0.3 and found.setting.sure < 1 and "probability 0.9" in found.text
    with pytest.raises(Infeasible, match="needs at least"):
        certify(fp32, prompts[:5], asked, alpha=0.05)
    with pytest.raises(Infeasible, match="no threshold"):
        certify(fp32, prompts, asked, alpha=0.05, max_tokens=12, grid=(0.0,))
    with pytest.raises(DataError, match="of calm"):
        certify(fp32, prompts, Decoding(), alpha=0.1)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda p: replace(p, head=p.stages[0]), "head: its inputs"),
        (lambda p: replace(p, stages=p.stages[:3]), "3 stage files for 4"),
        (lambda p: replace(p, stages=[p.stages[1], *p.stages[1:]]), "stage_0: its inputs"),
        (lambda p: replace(p, embedding=p.embedding[:, :-1]), "embedding: expected"),
        (lambda p: replace(p, embedding=p.embedding.astype(np.float64)), "embedding: expected"),
        (lambda p: replace(p, embedding=p.embedding * np.nan), "NaN or infinity"),
        (lambda p: replace(p, ids={1: np.array([3, 999])}), "exit_1_ids: expected"),
        (lambda p: replace(p, exits={1: p.head}, ids={1: np.array([3, 5])}), r"expected float32 \(1, 1, 2\)"),
        (lambda p: replace(p, keys_values={2: p.keys_values[1]}), "kv_2: its outputs"),
    ],
)
def test_parts_that_do_not_fit(
    change: Callable[[DecoderRunnables], DecoderRunnables], says: str, fp32: LanguageModel
) -> None:
    with pytest.raises(BundleError, match=says):
        LanguageModel(fp32.spec, change(fp32.parts)).try_out()


@pytest.mark.parametrize("change", [{"vocab": 300}, {"width": 25}, {"kv_heads": 2}, {"head_dim": 8}])
def test_sizes_that_do_not_fit(change: dict[str, int], fp32: LanguageModel) -> None:
    with pytest.raises(BundleError):
        LanguageModel(replace(fp32.spec, **change), fp32.parts).try_out()  # type: ignore[arg-type]


def test_logits_that_are_no_numbers(tiny_lm: Path) -> None:
    """A token whose hidden state overflows: one clear error, not token 0."""
    lm = load_lm(tiny_lm)
    lm.parts = replace(lm.parts, embedding=np.where(np.arange(lm.spec.vocab)[:, None] == 5, np.nan, lm.parts.embedding))
    session = Session(lm)
    session.ids.extend([1, 2])
    assert np.isfinite(lm.logits(session.run(lm.count - 1))).all()
    session.ids.append(5)
    with pytest.raises(DataError, match=r"artifact onnx-decoder-fp32: head\.onnx gives NaN logits"):
        lm.logits(session.run(lm.count - 1))
