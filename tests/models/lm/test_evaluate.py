"""Perplexity and agreement counted by hand; greedy text with a cache against text without."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeexit.errors import DataError, ModelError
from edgeexit_models.lm import LlamaLM, greedy, measure


def test_every_number_is_what_a_loop_counts(model: LlamaLM) -> None:
    text = (np.arange(75) ** 2 % 300).astype(np.uint16)
    found = measure(model, text, 10, batch=3, skip=2)
    losses, right, same = np.zeros(4), np.zeros(4), np.zeros(4)
    for row in range(7):
        ids = torch.from_numpy(text[10 * row : 10 * row + 11].astype(np.int64))
        with torch.no_grad():
            logits = [model.head(h)[0] for h in model.hidden(ids[None, :-1])]
        for t in range(2, 10):
            for k, y in enumerate(logits):
                losses[k] -= float(y[t].log_softmax(0)[ids[t + 1]])
                right[k] += int(y[t].argmax() == ids[t + 1])
                same[k] += int(y[t].argmax() == logits[-1][t].argmax())
    assert [e.tokens for e in found] == [56] * 4 and [e.layer for e in found] == [1, 2, 3, 4]
    assert [e.perplexity for e in found] == pytest.approx(np.exp(losses / 56), rel=1e-4)
    assert [e.accuracy for e in found] == pytest.approx(right / 56)
    assert [e.agreement for e in found] == pytest.approx(same / 56)
    assert found[-1].agreement == 1.0


def test_greedy_text_is_that_of_a_model_without_cache(model: LlamaLM) -> None:
    text = greedy(model, torch.tensor([3, 1, 4]), 20)
    with torch.no_grad():
        for end in range(3, 23):
            assert int(text[end]) == int(model(text[None, :end])[0, -1].argmax())


def test_a_map_stands_between_its_layer_and_the_head(model: LlamaLM) -> None:
    text = (np.arange(75) ** 2 % 300).astype(np.uint16)
    plain = measure(model, text, 10)
    same = measure(model, text, 10, maps={2: torch.nn.Identity()})
    other = measure(model, text, 10, maps={2: torch.nn.Linear(32, 32)})
    assert same == plain
    assert [a == b for a, b in zip(other, plain, strict=True)] == [True, False, True, True]
    with pytest.raises(ModelError, match=r"layers 1\.\.3"):
        measure(model, text, 10, maps={4: torch.nn.Identity()})


def test_too_little_text_is_refused(model: LlamaLM) -> None:
    with pytest.raises(DataError, match="nothing to measure"):
        measure(model, np.zeros(10, np.uint16), 10)
    with pytest.raises(DataError, match="64 together"):
        greedy(model, torch.zeros(60, dtype=torch.int64), 5)
    with pytest.raises(DataError, match="64 together"):
        greedy(model, torch.zeros(0, dtype=torch.int64), 5)
