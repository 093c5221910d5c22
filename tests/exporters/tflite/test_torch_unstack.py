"""Stacked exits in torch graphs, and names of dict outputs, on the way to TFLite."""

from __future__ import annotations

import importlib.util

import pytest

pytest.importorskip("torch", reason="torch is not installed")
import torch
from stacked_nets import WAYS, Stacked
from torch import nn

from edgeexit.errors import ModelError
from edgeexit_exporters.tflite.from_torch.layout import op_name
from edgeexit_exporters.tflite.from_torch.stages import divide


def products(piece: object) -> int:
    graph = piece.module.graph  # type: ignore[attr-defined]
    return sum(op_name(n) in ("linear", "addmm") for n in graph.nodes if n.op == "call_function")


@pytest.mark.parametrize("way", WAYS)
def test_every_stage_computes_its_own(way: str) -> None:
    net = Stacked(WAYS[way]).eval()
    found = divide(net)
    assert [products(p) for p in found.stages] == [2, 2, 2]
    assert [products(p) for p in found.prefixes] == [2, 3, 4]
    x = torch.randn(1, 8)
    known = {"x": x}
    for piece in found.stages:
        known.update(piece.module(**{e.name: known[e.name] for e in piece.inputs}))
    for k, want in enumerate(net(x)):
        torch.testing.assert_close(known[f"exit{k}"], want)


def test_a_shared_head_is_computed_exit_by_exit() -> None:
    assert [products(p) for p in divide(Stacked(list, features=True)).stages] == [2, 2, 2]


def test_what_cannot_be_seen_through_is_refused_by_name() -> None:
    def picked(exits: list[torch.Tensor]) -> list[torch.Tensor]:
        return [torch.stack(exits).cumsum(0)[i] for i in range(3)]

    with pytest.raises(ModelError, match=r"Stacked: .*exit 'exit0' needs all 6 .* as it goes through stack"):
        divide(Stacked(picked))


class Named(nn.Module):  # type: ignore[name-defined,misc]
    input_spec = {"x": ("float32", ("batch", 8))}  # noqa: RUF012

    def __init__(self, early: str, late: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.names = early, late
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):  # type: ignore[no-untyped-def]
        h = self.a(x).relu()
        return {self.names[1]: self.c(self.a(h)), self.names[0]: self.b(x)}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("litert_torch") is None, reason="litert-torch is not installed")
@pytest.mark.parametrize(
    ("early", "late"), [("a/b:0", 'c; "d"'), ("output", "exit_index"), ("Y", "y"), ("relu", "linear"), ("class", "ü")]
)
def test_files_answer_under_any_names(tmp_path, early: str, late: str) -> None:  # type: ignore[no-untyped-def]
    import edgeexit

    net = Named(early, late).eval()
    bundle = edgeexit.export(net, tmp_path / "b", exits=[early, late], formats=("tflite",))
    assert [a.layout for a in bundle.manifest.artifacts] == ["fused", "chain", "prefix"]
    x = torch.randn(1, 8)
    for artifact in bundle.manifest.artifacts:
        engine = edgeexit.load(bundle, artifact=artifact.name, warmup=0)
        for k, name in enumerate((early, late)):
            engine.policy = edgeexit.fixed_exit(k, 2)
            assert engine.run(x.numpy()).output == pytest.approx(net(x)[name][0].detach().numpy(), abs=1e-5)
