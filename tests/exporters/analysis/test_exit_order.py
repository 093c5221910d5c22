"""Order of exits: what is listed too late is refused with the right order, or noted where the user named it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from onnx_models import CLASSES, Net, save
from torch import nn

import edgeexit
from edgeexit import ModelError


def net(**heads: str) -> Net:
    """x -> f0 -> f1 -> f2 (32 wide), and a head on each named feature."""
    found = Net()
    found.op("MatMul", ["x", found.weight("w0", 4, 32)], "a0")
    found.op("Relu", ["a0"], "f0")
    for k in (1, 2):
        found.op("MatMul", [f"f{k - 1}", found.weight(f"w{k}", 32, 32)], f"a{k}")
        found.op("Relu", [f"a{k}"], f"f{k}")
    for name, feature in heads.items():
        found.head(feature, 32, name)
    return found


def exported(found: Net, outputs: list[str], folder: Path, **options: object) -> tuple[list[str], list[str]]:
    path = save(found.model({"x": ["batch", 4]}, {n: ["batch", CLASSES] for n in outputs}), folder)
    said: list[str] = []
    bundle = edgeexit.export(path, folder / "b", progress=said.append, overwrite=True, **options)  # type: ignore[arg-type]
    return [e.name for e in bundle.manifest.exits], [line for line in said if line.startswith("note")]


def test_a_deep_answer_before_the_early_head_is_refused_with_the_right_order(tmp_path: Path) -> None:
    heads = {"aux": "f0", "out": "f2"}
    with pytest.raises(ModelError, match=r"exit 'aux' is listed after exit 'out'.*--exits aux,out \(or --exits out,"):
        exported(net(**heads), ["out", "aux"], tmp_path)
    assert not (tmp_path / "b").exists()
    assert exported(net(**heads), ["out", "aux"], tmp_path, exits=["aux", "out"]) == (["aux", "out"], [])
    names, (note,) = exported(net(**heads), ["out", "aux"], tmp_path, exits=["out", "aux"])
    assert names == ["out", "aux"]
    assert note.endswith("from cheap to dear they are aux,out")


def test_three_exits_are_put_in_order(tmp_path: Path) -> None:
    heads = {"a": "f2", "b": "f0", "c": "f1"}
    with pytest.raises(ModelError, match="--exits b,c,a "):
        exported(net(**heads), ["a", "b", "c"], tmp_path)
    assert exported(net(**heads), ["a", "b", "c"], tmp_path, exits=["b", "c", "a"])[1] == []


def test_an_exit_inside_an_earlier_one_is_refused(tmp_path: Path) -> None:
    found = net(out="f2")
    found.op("Softmax", ["out"], "p", axis=-1)
    with pytest.raises(ModelError, match=r"exit 'out' needs no computation beyond exit 'p'.*--exits out,p"):
        exported(found, ["p", "out"], tmp_path)


@pytest.mark.parametrize("kind", ["Softmax", "Identity", "Relu"])
def test_an_answer_given_twice_saves_nothing(tmp_path: Path, kind: str) -> None:
    found = net(out="f2")
    found.op(kind, ["out"], "again")
    words = "exit 'out', the first, costs 100 % of the last, 'again', so leaving early saves nothing"
    with pytest.raises(ModelError, match=words):
        exported(found, ["out", "again"], tmp_path)
    assert any(words in note for note in exported(found, ["out", "again"], tmp_path, exits=["out", "again"])[1])


def test_an_exit_that_adds_next_to_nothing_is_noted(tmp_path: Path) -> None:
    found = net(a="f0", b="f2")
    found.op("Tanh", ["b"], "c")
    names, (note,) = exported(found, ["a", "b", "c"], tmp_path)
    assert names == ["a", "b", "c"]
    assert note.startswith("note: exit 'c' costs next to nothing beyond exit 'b' (0 of ")


def test_a_dear_early_head_is_no_wrong_order(tmp_path: Path) -> None:
    found = net(out="f1")
    found.op("MatMul", ["f0", found.weight("wide", 32, 512)], "h")
    found.op("MatMul", ["h", found.weight("narrow", 512, CLASSES)], "early")
    names, notes = exported(found, ["early", "out"], tmp_path, exits=["early", "out"])
    assert names == ["early", "out"]
    assert "from cheap to dear they are out,early" in notes[0]


class Seg(nn.Module):  # type: ignore[name-defined,misc]
    """As torchvision's segmentation networks answer: the deep head first, by name."""

    input_spec = {"x": ("float32", ("batch", 8))}  # noqa: RUF012

    def __init__(self, order: tuple[str, ...] = ("out", "aux")) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.order = order
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 64)
        self.aux, self.out, self.mid = nn.Linear(16, 3), nn.Linear(64, 3), nn.Linear(64, 3)

    def forward(self, x):  # type: ignore[no-untyped-def]
        h = self.a(x).relu()
        g = self.b(h).relu()
        found = {"aux": self.aux(h), "out": self.out(g), "x": self.mid(g)}
        return {name: found[name] for name in self.order}


def test_names_of_torch_dicts_are_kept_and_may_be_put_in_order(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"exit 'aux' is listed after exit 'out'.*--exits aux,out"):
        edgeexit.export(Seg(), tmp_path / "b")
    module = Seg().eval()
    bundle = edgeexit.export(module, tmp_path / "b", exits=["aux", "out"])
    assert [e.name for e in bundle.manifest.exits] == ["aux", "out"]
    x = torch.randn(1, 8)
    for k, want in enumerate(("aux", "out")):
        engine = edgeexit.load(bundle, warmup=0)
        engine.policy = edgeexit.fixed_exit(k, 2)
        assert engine.run(x.numpy()).output == pytest.approx(module(x)[want][0].detach().numpy(), abs=1e-5)
    renamed = edgeexit.export(Seg(("aux", "out")), tmp_path / "c", exits=["early", "late"])
    assert [e.name for e in renamed.manifest.exits] == ["early", "late"]


def test_names_that_are_neither_are_refused(tmp_path: Path) -> None:
    for exits, words in (
        (["aux"] * 2, "exit 'aux' is named twice"),
        (["aux", "out", "more"], "they are called out, aux: name some of these"),
    ):
        with pytest.raises(ModelError, match=words):
            edgeexit.export(Seg(), tmp_path / "b", exits=exits)
    with pytest.raises(ModelError, match="exit 'x' is called as an input is"):
        edgeexit.export(Seg(("aux", "x")), tmp_path / "b")


def test_one_output_of_a_dict_is_the_answer_of_a_network_without_exits() -> None:
    from edgeexit_exporters.exporting import open_source
    from edgeexit_exporters.spec import ExportSpec

    found = open_source(Seg(("aux", "out")), ExportSpec(exits=["out"]), single=True)
    assert [e.name for e in found.exits] == ["out"]


def test_randomness_of_a_torch_module_is_named(tmp_path: Path) -> None:
    class Noisy(Seg):
        def forward(self, x):  # type: ignore[no-untyped-def]
            x = nn.functional.dropout(x, 0.5, training=True)
            return list(super().forward(x).values())

    with pytest.raises(ModelError, match=r"Noisy: its answers differ from run to run: node .*is random"):
        edgeexit.export(Noisy(("aux", "out")), tmp_path / "b")
