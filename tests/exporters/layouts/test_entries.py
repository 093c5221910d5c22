"""Entering a stage through a 1x1 maximum: the same network, cut otherwise."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from edgeexit_exporters.analysis.analysis import stages_of
from edgeexit_exporters.analysis.probe import probe
from edgeexit_exporters.layouts.entries import entries
from edgeexit_exporters.onnx import graph, measure, pieces
from edgeexit_exporters.source.inputs import parse_input
from edgeexit_exporters.source.torch_source import from_torch


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3 if k == 0 else 16, 16, 3, padding=1) for k in range(3))
        self.heads = nn.ModuleList(nn.Linear(16, 4) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        first = torch.relu(self.a(x))
        second = torch.relu(self.b(first) + first)
        third = torch.relu(self.c(second) + second)
        return [h(t.mean((2, 3))) for h, t in zip(self.heads, (first, second, third), strict=True)]


def test_every_choice_of_stages_is_tried_and_none_changes_a_number() -> None:
    torch.manual_seed(0)
    source = from_torch(_Residual(), [parse_input("x:float32[batch,3,12,12]", "x")])
    parts = stages_of(source)
    seen = probe(
        source, ir.to_proto(pieces.all_exits(source.model, source.tensors)), [c for p in parts for c in p.cuts]
    )
    graph.annotate(source.model.graph, seen.tensors)
    before = len(list(source.model.graph))
    found = list(entries(source.model, parts))
    pools = [[n.name for n in m.graph if n.op_type == "MaxPool"] for m in found]
    assert sorted(len(p) for p in pools) == [1, 1, 2] and len({*map(tuple, pools)}) == 3
    assert len(list(source.model.graph)) == before
    x = {"x": np.random.default_rng(0).normal(size=(2, 3, 12, 12)).astype(np.float32)}
    for model in found:
        cut = stages_of(type(source)(model, source.joint, source.inputs, source.raw_reference, {}))
        assert [s.cuts for s in cut] == [s.cuts for s in parts]
        known = dict(x)
        for piece in pieces.chain(model, cut):
            known.update(measure.run(measure.session(ir.to_proto(piece).SerializeToString()), known))
        for name, wanted in source.reference(x).items():
            np.testing.assert_allclose(known[name], wanted, atol=1e-5)
