"""A network whose numbers are none is refused with the place, and never answers token 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from edgeexit.engine.backends import Runnable
from edgeexit.lm.batch import AnswerBatch
from edgeexit.lm.generate import Answer
from edgeexit.lm.loading import load_lm
from edgeexit.lm.model import LanguageModel, NonFiniteLogits
from edgeexit.lm.sampling import Sampler
from edgeexit.lm.settings import Decoding
from edgeexit.lm.tuning.traces import record

SETTINGS = [
    Decoding(),
    Decoding("speculative", 1, 3),
    Decoding("speculative", 1, 3, 0.5),
    Decoding("lookup"),
    Decoding("calm", threshold=0.4),
    Decoding("calm", 1, confidence="state", repair=True),
    Decoding("skip", exit=2),
]


class Broken:
    """A part that gives a bad number from its n-th call on."""

    def __init__(self, part: Runnable, value: float, call: int, every: bool = False) -> None:
        self.part, self.value, self.left, self.every = part, value, call, every
        self.inputs, self.outputs = part.inputs, part.outputs

    def run(self, values: Sequence[Any]) -> list[Any]:
        found = [np.array(v) for v in self.part.run(values)]
        self.left -= 1
        if self.left < 0:
            found[0][..., slice(None) if self.every else 3] = self.value
        return found


@pytest.fixture
def model(tiny_lm: Path) -> LanguageModel:
    return load_lm(tiny_lm)


def with_head(model: LanguageModel, value: float, call: int = 0, every: bool = False) -> LanguageModel:
    parts = replace(model.parts, head=Broken(model.parts.head, value, call, every))
    return LanguageModel(model.spec, parts, name="tiny", artifact="onnx-decoder-fp32")


def with_stage(model: LanguageModel, stage: int, call: int) -> LanguageModel:
    stages = [Broken(s, np.nan, call) if k == stage else s for k, s in enumerate(model.parts.stages)]
    return LanguageModel(model.spec, replace(model.parts, stages=stages), name="tiny", artifact="onnx-decoder-fp32")


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize(("value", "every"), [(np.nan, False), (np.inf, False), (-np.inf, True)], ids=str)
def test_bad_logits_are_an_error(value: float, every: bool, setting: Decoding, model: LanguageModel) -> None:
    for chooser in (None, Sampler(0.8, top_k=5, seed=1)):
        if chooser is not None and setting.method == "skip":
            continue
        answer = Answer(with_head(model, value, 2, every), [5, 9, 7], setting, max_tokens=12, chooser=chooser)
        with pytest.raises(
            NonFiniteLogits, match=r"tiny, artifact onnx-decoder-fp32: .*gives (NaN|infinite) logits"
        ) as e:
            answer.run()
        assert "hidden states are finite" in str(e.value) and f"at token {len(answer.ids) + 1} " in str(e.value)


def test_tokens_that_cannot_come_may_be_minus_infinity(model: LanguageModel) -> None:
    found = Answer(with_head(model, -np.inf), [5, 9, 7], max_tokens=12).run()
    assert len(found.ids) > 0 and 3 not in found.ids


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.method not in ("lookup", "skip")], ids=str)
def test_the_stage_is_named(setting: Decoding, model: LanguageModel) -> None:
    for stage in (1, model.count - 1):
        answer = Answer(with_stage(model, stage, 3), [5, 9, 7], setting, max_tokens=30)
        try:
            answer.run()
        except NonFiniteLogits as e:
            assert f"stage {stage} (stage_{stage}.onnx) gives the first" in str(e)
        else:
            assert setting.method == "calm" and stage == model.count - 1  # no token went so deep


def test_an_exits_bad_logits_are_not_passed_over(model: LanguageModel) -> None:
    parts = replace(model.parts, exits={1: Broken(model.parts.exits.get(1, model.parts.head), np.nan, 0)}, ids={})
    broken = LanguageModel(model.spec, parts, name="tiny", artifact="a")
    for setting in (
        Decoding("speculative", 1),
        Decoding("speculative", 1, threshold=0.9),
        Decoding("calm", 1),
    ):
        with pytest.raises(NonFiniteLogits, match=r"exit 1 \(exit_1\.onnx\) gives NaN logits at token 1 "):
            Answer(broken, [5, 9, 7], setting, max_tokens=12).run()
    assert len(Answer(broken, [5, 9, 7], Decoding("speculative", 0), max_tokens=12).run().ids) > 0
    with pytest.raises(NonFiniteLogits, match="at token 1 "):
        record(broken, [[5, 9, 7]], 4)


def test_of_several_prompts_the_bad_one_is_named(model: LanguageModel) -> None:
    with pytest.raises(NonFiniteLogits, match=r"at token 3 of the answers; they come of the head"):
        AnswerBatch(with_head(model, np.nan, 2), [[5, 9], [7]], max_tokens=8).run()
    with pytest.raises(NonFiniteLogits, match=r"hidden states of prompt 0 are not finite"):
        AnswerBatch(with_stage(model, 0, 3), [[5, 9], [7]], max_tokens=8).run()
