"""Heads: shapes, masks, and the registry's messages."""

from __future__ import annotations

import pytest
import torch

from edgeexit.errors import ModelError
from edgeexit_models import HEADS, GridPoolLinear, MeanTokenLinear, PoolLinear, TokenLinear, make_head

SHAPES = {1: (6,), 2: (6, 12), 3: (6, 12, 10)}


@pytest.mark.parametrize("name", HEADS)
def test_every_named_head_answers_for_every_shape_it_claims(name: str) -> None:
    for axes in HEADS[name][1]:
        head = make_head(name, SHAPES[axes], classes=5)
        assert head(torch.randn(3, *SHAPES[axes])).shape == (3, 5)


@pytest.mark.parametrize("name", HEADS)
def test_other_shapes_are_refused(name: str) -> None:
    for axes in {1, 2, 3} - set(HEADS[name][1]):
        with pytest.raises(ModelError, match=f"head '{name}' needs features with"):
            make_head(name, SHAPES[axes], classes=5)


def test_unknown_heads_and_too_few_classes_are_refused() -> None:
    with pytest.raises(ModelError, match=r"unknown head 'poll': choose one of .*pool"):
        make_head("poll", (8, 4, 4), 10)
    with pytest.raises(ModelError, match="at least 2 classes, got 1"):
        make_head("pool", (8, 4, 4), 1)


def test_auto_tells_tokens_from_pictures() -> None:
    assert isinstance(make_head("auto", (8, 4, 4), 3), PoolLinear)
    assert isinstance(make_head("auto", (7, 8), 3), MeanTokenLinear)


def test_pool_head_is_the_mean_then_the_linear_layer() -> None:
    head = PoolLinear(4, 3)
    x = torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(head(x), head.linear(x.mean((2, 3))))
    torch.testing.assert_close(head(x.flatten(2)), head(x))


def test_grid_head_keeps_places_and_drops_the_rest() -> None:
    head = GridPoolLinear((1, 25, 5), 2, (4, 4))
    assert head.linear.in_features == 6
    x = torch.randn(1, 1, 25, 5)
    changed = x.clone()
    changed[:, :, 24, :] += 100.0  # beyond the last whole window
    changed[:, :, :, 4] += 100.0
    torch.testing.assert_close(head(x), head(changed))
    with pytest.raises(ModelError, match="do not fit features of 3 x 3"):
        GridPoolLinear((1, 3, 3), 2, (4, 4))


def test_masked_mean_ignores_padding_and_survives_an_empty_row() -> None:
    head = MeanTokenLinear(4, 3)
    x = torch.randn(2, 5, 4)
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
    masked = head(x, mask)
    torch.testing.assert_close(masked[:1], head(x[:1, :3]))
    assert torch.isfinite(masked).all()


def test_token_head_reads_one_token_only() -> None:
    head = TokenLinear(4, 3)
    x = torch.randn(2, 5, 4)
    changed = x.clone()
    changed[:, 1:] = 0.0
    torch.testing.assert_close(head(x), head(changed))
