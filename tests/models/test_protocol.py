"""The multi-exit protocol: what passes and what the messages say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgeexit.errors import ModelError
from edgeexit_models import exits


class Returns(nn.Module):
    """Answers with whatever it was given."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> object:
        return self.answer


LOGITS = torch.zeros(2, 10)


def test_lists_and_tuples_become_tuples() -> None:
    outputs = exits(Returns([LOGITS, LOGITS + 1]), LOGITS)
    assert isinstance(outputs, tuple)
    assert [float(y.mean()) for y in outputs] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (LOGITS, r"single tensor \(2, 10\).*attach"),
        ({"exit": LOGITS}, "returned a dict"),
        ((LOGITS,), r"1 output\(s\).*at least 2"),
        ((LOGITS, None), "exit 1 is a NoneType"),
        ((LOGITS, torch.zeros(2, 10, 4)), r"exit 1 has shape \(2, 10, 4\)"),
        ((LOGITS, torch.zeros(2, 12)), r"exit 1 has shape \(2, 12\), exit 0 has \(2, 10\)"),
    ],
)
def test_other_answers_are_refused_with_what_was_found(answer: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        exits(Returns(answer), LOGITS)
