"""Several prompts at once: each gets the text that it gets alone, whatever its neighbours and their lengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeexit.bundle.lm_spec import LmSpec
from edgeexit.errors import BundleError, DataError
from edgeexit.lm.batch import AnswerBatch
from edgeexit.lm.cache import PAGE, Cache
from edgeexit.lm.generate import Answer
from edgeexit.lm.loading import load_lm
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.positions import STEP, Positions, mask
from edgeexit.lm.sampling import Chooser, Sampler
from edgeexit.lm.settings import Decoding
from edgeexit.lm.text.tokenizer import Text

pytest.importorskip("onnxruntime")
pytest.importorskip("tokenizers")

PROMPTS = ("The above", "or", "Licensor means the copyright owner or entity", "1.", "Subject to the terms")
TOKENS = 24


@pytest.fixture(scope="module", params=["fp32", "int8"])
def model(request: pytest.FixtureRequest, tiny_lm: Path) -> LanguageModel:
    return load_lm(tiny_lm, artifact=str(request.param))


@pytest.fixture(scope="module")
def text(model: LanguageModel) -> Text:
    assert model.tokenizer is not None
    return Text(model.tokenizer)


@pytest.fixture(scope="module")
def prompts(text: Text) -> list[list[int]]:
    found = [text.encode(p) for p in PROMPTS]
    assert len({*map(len, found)}) > 3
    return found


@pytest.mark.parametrize("setting", [Decoding(), Decoding("skip", exit=1), Decoding("skip", exit=2)], ids=str)
def test_the_text_of_each_alone(setting: Decoding, model: LanguageModel, prompts: list[list[int]]) -> None:
    alone = [Answer(model, p, setting, max_tokens=TOKENS).run() for p in prompts]
    together = AnswerBatch(model, prompts, setting, max_tokens=TOKENS).run()
    assert [g.ids for g in together] == [g.ids for g in alone]
    assert [g.reason for g in together] == [g.reason for g in alone]
    assert {g.same for g in together} == {False if setting.lossy else None}
    assert len({g.ids for g in alone}) > 3  # else nothing was compared


def test_prompts_of_one_length(model: LanguageModel, prompts: list[list[int]]) -> None:
    same = [p[:2] for p in prompts if len(p) > 1]
    alone = [Answer(model, p, max_tokens=TOKENS).run().ids for p in same]
    assert [g.ids for g in AnswerBatch(model, same, max_tokens=TOKENS).run()] == alone and len(same) > 2


def test_schedules_differ_from_plain_decoding(model: LanguageModel, prompts: list[list[int]]) -> None:
    plain, skipped = (
        [g.ids for g in AnswerBatch(model, prompts, s, max_tokens=TOKENS).run()]
        for s in (Decoding(), Decoding("skip", exit=1))
    )
    assert plain != skipped and [p[0] for p in plain] == [s[0] for s in skipped]  # the first token runs every stage


def test_sequences_that_end_make_room(model: LanguageModel, text: Text, prompts: list[list[int]]) -> None:
    plain = [g.ids for g in AnswerBatch(model, prompts, max_tokens=TOKENS).run()]
    token = next(t for t in range(model.spec.vocab) if 0 < sum(t in ids[2:] for ids in plain) < len(plain))
    ends = replace(model.spec, eos=(token,))
    ending = LanguageModel(ends, model.parts, tokenizer=model.tokenizer)
    alone = [Answer(ending, p, max_tokens=TOKENS, text=text).run() for p in prompts]
    batch = AnswerBatch(ending, prompts, max_tokens=TOKENS, text=text)
    rows, parts = [], [""] * len(prompts)
    for i, piece in batch:
        rows.append(i)
        parts[i] += piece.text
    assert [(g.ids, g.text, g.reason) for g in batch.results] == [(g.ids, g.text, g.reason) for g in alone]
    assert parts == [g.text for g in alone]
    counts = [rows.count(i) for i in range(len(prompts))]
    assert counts == [len(g.ids) for g in alone] and min(counts) < max(counts) == TOKENS
    assert {g.reason for g in alone} == {"end", "length"}


def test_stop_strings(model: LanguageModel, text: Text, prompts: list[list[int]]) -> None:
    whole = AnswerBatch(model, prompts, max_tokens=TOKENS, text=text).run()[0].text
    assert whole is not None
    stop = whole[5:8]
    first = AnswerBatch(model, prompts, max_tokens=TOKENS, text=text, stops=[stop]).run()[0]
    assert (first.reason, first.text) == ("stop", whole[: whole.index(stop)])


def test_draws_are_those_of_each_alone(model: LanguageModel, prompts: list[list[int]]) -> None:
    choosers: list[Chooser] = [Sampler(1.5, seed=i) for i in range(len(prompts))]
    together = AnswerBatch(model, prompts, max_tokens=12, choosers=choosers).run()
    alone = [Answer(model, p, max_tokens=12, chooser=Sampler(1.5, seed=i)).run() for i, p in enumerate(prompts)]
    assert [g.ids for g in together] == [g.ids for g in alone]


def test_context_is_that_of_the_longest(model: LanguageModel, prompts: list[list[int]]) -> None:
    long = (prompts[2] * 20)[: model.spec.context - 5]
    found = AnswerBatch(model, [long, prompts[0]], max_tokens=50).run()
    assert [(len(g.ids), g.reason) for g in found] == [(5, "context")] * 2
    assert [g.ids for g in found] == [Answer(model, p, max_tokens=5).run().ids for p in (long, prompts[0])]


def test_leaving_early_keeps_what_there_is(model: LanguageModel, prompts: list[list[int]]) -> None:
    batch = AnswerBatch(model, prompts, max_tokens=TOKENS)
    assert batch.tokens_per_second is None
    for _, _ in zip(range(2 * len(prompts)), batch, strict=False):
        pass
    assert {g.reason for g in batch.results} == {"interrupted"}
    assert batch.tokens_per_second is not None and all(len(g.ids) >= 2 for g in batch.results)
    with pytest.raises(DataError, match="given once"):
        next(iter(batch))


def test_one_prompt_is_no_batch(model: LanguageModel, prompts: list[list[int]]) -> None:
    assert AnswerBatch(model, prompts[:1], max_tokens=3).run()[0].same is True


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda m: AnswerBatch(m, []), "0 prompts"),
        (lambda m: AnswerBatch(m, [[1]] * 1025), "1025 prompts"),
        (lambda m: AnswerBatch(m, [[1]], max_tokens=0), "at least 1"),
        (lambda m: AnswerBatch(m, [[1], []]), "prompt 1: the prompt is empty"),
        (lambda m: AnswerBatch(m, [[1], [272]]), "prompt 1: token id 272"),
        (lambda m: AnswerBatch(m, [[1], [2] * 96]), "prompt 1: the prompt has 96 tokens; context is 96"),
        (
            lambda m: AnswerBatch(m, [[1]], Decoding("speculative", exit=0)),
            "speculative is not for several prompts",
        ),
        (lambda m: AnswerBatch(m, [[1]], Decoding("skip", exit=0)), "skip runs the first and the last stage"),
        (lambda m: AnswerBatch(m, [[1]], Decoding("skip", exit=4)), "exit 4 of 4 stages"),
        (lambda m: AnswerBatch(m, [[1], [2]], choosers=[Sampler()]), "1 choosers for 2 prompts"),
        (lambda m: AnswerBatch(m, [[1]], stops=["x"]), "tokenizer"),
    ],
)
def test_refusals(make: Callable[[LanguageModel], object], says: str, model: LanguageModel) -> None:
    with pytest.raises(DataError, match=says):
        make(model)


def _bytes(cache: Cache) -> int:
    return sum(a.nbytes for stage in cache.rows for a in stage)


def test_a_cache_goes_on_with_some() -> None:
    spec = LmSpec(16, 8, 3, 1, 4, 64, (2, 3))
    cache, rng = Cache(spec, [0, 2, 1]), np.random.default_rng(0)
    rows = [rng.standard_normal((5, 3, 1, 4)).astype(np.float32) for _ in range(4)]
    cache.put(0, rows)
    assert _bytes(cache) == 3 * spec.cache_bytes(64)
    cache.keep([2, 0])
    for held, row in zip(cache.past(0), rows, strict=True):
        np.testing.assert_array_equal(held, row[:, [2, 0]])
    assert cache.lengths == [5, 0] and cache.padding is not None and cache.padding.tolist() == [1, 0]
    assert _bytes(cache) == 2 * spec.cache_bytes(64)


def test_stages_are_shown_whole_pages_as_far_as_the_context_goes() -> None:
    spec = LmSpec(16, 8, 3, 1, 4, PAGE + 9, (3,))
    cache, rows = Cache(spec), [np.ones((PAGE, 1, 1, 4), np.float32)] * 6
    assert len(cache.pages(0, 1)[0]) == len(cache.pages(0, PAGE)[0]) == PAGE
    assert len(cache.pages(0, PAGE + 1)[0]) == PAGE + 9
    cache.put(0, [r[:5] for r in rows])
    found = cache.pages(0, 2)[0]
    assert len(found) == PAGE and np.shares_memory(found, cache.rows[0][0])
    assert (found[:5] == 1).all() and (found[5:] == 0).all()
    with pytest.raises(DataError, match="42 tokens do not fit into the context of 41"):
        cache.pages(0, PAGE + 5)


@pytest.mark.parametrize("rows", [7, 32])
@pytest.mark.parametrize("padding", [None, [0, 3, 4]])
def test_masks_are_what_a_loop_says(padding: list[int] | None, rows: int) -> None:
    found = mask(4, 3, rows, None if padding is None else np.array(padding))
    assert found.shape == (len(padding or [0]), 1, 1, 3, rows)
    for b, pad in enumerate(padding or [0]):
        for i in range(3):
            for row in range(rows):
                may = pad <= row <= 4 + i
                assert found[b, 0, 0, i, row] == (0 if may else -np.inf)


def test_cosines_and_sines_are_computed_once() -> None:
    asked: list[np.ndarray] = []

    def part(values: list[np.ndarray]) -> list[np.ndarray]:  # type: ignore[misc]
        (positions,) = values
        asked.append(positions)
        angles = positions[:, None] * np.array([1.0, 0.1], np.float32)
        return [np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)]

    positions = Positions(part, LmSpec(16, 8, 3, 1, 2, 3 * STEP, (3,)))  # type: ignore[arg-type]
    for start, count in ((0, 1), (5, 2), (STEP - 1, 2), (2 * STEP, STEP), (7, 1)):
        cos, sin, _, at = positions.of(start, count, start + count)
        assert at.tolist() == [*range(start, start + count)]
        angles = np.arange(start, start + count)[None, :, None, None] * np.array([1.0, 0.1], np.float32)
        np.testing.assert_allclose(cos, np.cos(angles), atol=1e-5)
        np.testing.assert_allclose(sin, np.sin(angles), atol=1e-5)
    assert np.concatenate(asked).tolist() == list(range(3 * STEP))
    with pytest.raises(BundleError, match="positions gives"):
        Positions(lambda v: [v[0], v[0]], LmSpec(16, 8, 3, 1, 2, 64, (3,))).turn(0, 1)
    padded = positions.turn(4, 2, np.array([0, 3, 4]))[0]
    np.testing.assert_allclose(padded[:, :, 0, 0], np.cos([[4, 5], [1, 2], [0, 1]]), atol=1e-5)
