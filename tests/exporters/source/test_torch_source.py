"""torch modules become bundles: exits in order, free axes, somebody else's backbone, weights, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgeexit
from edgeexit import ModelError, fixed_exit

torch = pytest.importorskip("torch")
nn = torch.nn


class Tiny(nn.Module):  # type: ignore[name-defined,misc]
    """Three exits; returns them as a list."""

    def __init__(self) -> None:
        super().__init__()
        self.input_spec = {"x": ("float32", ("batch", 4))}
        self.stages = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8)])
        self.heads = nn.ModuleList([nn.Linear(8, 3) for _ in range(3)])

    def forward(self, x):  # type: ignore[no-untyped-def]
        found = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = torch.relu(stage(x))
            found.append(head(x))
        return found


def tiny() -> Tiny:
    torch.manual_seed(0)
    return Tiny()


def agrees(bundle: edgeexit.Bundle, module, *inputs) -> None:  # type: ignore[no-untyped-def]
    """Fused and chain, forced to every exit, answer like the module."""
    with torch.no_grad():
        expected = module.eval()(*inputs)
    expected = list(expected.values()) if isinstance(expected, dict) else expected
    names = [i.name for i in bundle.manifest.inputs]
    feed = {n: t.numpy() for n, t in zip(names, inputs, strict=True)}
    for layout in ("fused", "chain"):
        engine = edgeexit.load(bundle, artifact=layout, warmup=0)
        for k, want in enumerate(expected):
            engine.policy = fixed_exit(k, len(expected))
            np.testing.assert_allclose(engine.run(feed).output, want.numpy()[0], rtol=1e-3, atol=2e-5)


def test_a_list_of_outputs(tmp_path: Path) -> None:
    net = tiny()
    net.train()
    bundle = edgeexit.export(net, tmp_path / "b", exits=["early", "middle", "late"])
    assert net.training, "the module's mode is put back"
    assert [e.name for e in bundle.manifest.exits] == ["early", "middle", "late"]
    assert [s.parameters for s in bundle.manifest.stages] == [4 * 8 + 8 + 27, 64 + 8 + 27, 64 + 8 + 27]
    assert bundle.manifest.exits[2].macs == 32 + 24 + 64 + 24 + 64 + 24
    assert bundle.manifest.exits[2].prefix_macs == 32 + 64 + 64 + 24
    agrees(bundle, net, torch.randn(1, 4))


def test_dropout_and_batch_norm_are_exported_in_eval_mode(tmp_path: Path) -> None:
    net = tiny()
    net.heads[0] = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 3))
    net.train()
    agrees(edgeexit.export(net, tmp_path / "b"), net, torch.randn(1, 4))


def test_a_transformer_with_free_length_and_attached_exits(tmp_path: Path) -> None:
    from edgeexit_models import attach

    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)

    class Net(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(11, 16)
            self.blocks = nn.ModuleList(
                [nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0) for _ in range(3)]
            )
            self.head = nn.Linear(16, 5)

        def forward(self, tokens):  # type: ignore[no-untyped-def]
            x = self.embed(tokens)
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean(1))

    assert layer is not None
    net = attach(Net(), ["blocks.0", "blocks.1"], example=torch.zeros(2, 6, dtype=torch.int64), heads="auto").eval()
    bundle = edgeexit.export(net, tmp_path / "b", inputs=["tokens:int64[batch,time=6]"], tolerance=1e-3)
    assert bundle.manifest.inputs[0].shape == ("batch", "time")
    for length in (2, 6, 19):
        agrees(bundle, net, torch.randint(0, 11, (1, length)))
    engine = edgeexit.load(bundle, artifact="chain", policy=edgeexit.Threshold((0.3, 0.3)), warmup=0)
    tokens = np.random.default_rng(0).integers(0, 11, (9, 7))
    one = [engine.run(t[None]).exit for t in tokens]
    assert engine.run_batch(tokens).exits.tolist() == one


def test_several_inputs_and_a_dict_of_outputs(tmp_path: Path) -> None:
    class Two(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(6, 3)

        def forward(self, x, z):  # type: ignore[no-untyped-def]
            return {"first": self.a(x), "second": self.b(torch.cat([x, z], 1))}

    net = Two()
    bundle = edgeexit.export(net, tmp_path / "b", inputs=["x:float32[batch,4]", "z:float32[batch,2]"])
    assert bundle.manifest.stages[0].inputs == ("x",)
    agrees(bundle, net, torch.randn(1, 4), torch.randn(1, 2))


def test_module_function_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    (tmp_path / "mynet.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)\n\n"
        "    def forward(self, x):\n        return self.a(x), self.b(x.relu())\n\n\ndef make():\n    return Net()\n\n\n"
        "def other():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    net = nn.ModuleDict({"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)})
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    torch.save({"state_dict": net.state_dict(), "epoch": 3}, tmp_path / "w.pt")
    spec = ["x:float32[batch,4]"]
    x = torch.randn(1, 4)
    for weights in ("w.safetensors", "w.pt"):
        bundle = edgeexit.export("mynet:make", tmp_path / f"{weights}.b", weights=weights, inputs=spec)
        engine = edgeexit.load(bundle, policy=fixed_exit(0, 2), warmup=0)
        np.testing.assert_allclose(engine.run(x.numpy()).output, net["a"](x).detach().numpy()[0], rtol=1e-4, atol=1e-5)
    save_file({"a.weight": torch.zeros(3, 5)}, tmp_path / "bad.safetensors")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    for options, words in (
        ({"source": "mynet:none"}, "has no attribute 'none'"),
        ({"source": "nowhere:make"}, "cannot import 'nowhere'"),
        ({"source": "mynet:other"}, "returned int, expected a torch.nn.Module"),
        ({"source": "mynet:make", "weights": "bad.safetensors"}, "do not fit the model"),
        ({"source": "mynet:make", "weights": "junk.pt"}, "not readable as plain weights"),
        ({"source": "mynet:make", "weights": "none.pt"}, "no such weights file"),
        ({"source": "mynet:make", "inputs": []}, "does not say what it takes"),
        ({"source": "mynet:make", "inputs": ["x:float32[batch,5]"]}, "does not run on inputs"),
        ({"source": "mynet:make", "exits": ["a", "b", "c"]}, "3 exit names for a module with 2 exits"),
    ):
        with pytest.raises(ModelError, match=words):
            edgeexit.export(out=tmp_path / "no", **{"inputs": spec, **options})  # type: ignore[arg-type]
        assert not (tmp_path / "no").exists()


def test_a_pickle_with_code_is_not_executed(tmp_path: Path) -> None:
    import os
    import pickle

    class Evil:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return os.mkdir, (str(tmp_path / "executed"),)

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    torch.save({"a": Evil()}, tmp_path / "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        with pytest.raises(ModelError, match="not readable as plain weights"):
            edgeexit.export("edgeexit_models:digits", tmp_path / "b", weights=tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("returned", ["tensor", "one", "text", "empty", "mapping"])
def test_modules_that_are_not_multi_exit(tmp_path: Path, returned: str) -> None:
    class Bad(nn.Module):  # type: ignore[name-defined,misc]
        def forward(self, x):  # type: ignore[no-untyped-def]
            return {"tensor": x, "one": [x], "text": "x", "empty": [], "mapping": [x, {"output": x}]}[returned]

    words = "one exit with one head" if returned == "one" else "a multi-exit module returns its exits in order"
    with pytest.raises(ModelError, match=words):
        edgeexit.export(Bad(), tmp_path / "b", inputs=["x:float32[batch,4]"])


def test_data_dependent_python_is_refused_in_words(tmp_path: Path) -> None:
    class Branchy(nn.Module):  # type: ignore[name-defined,misc]
        def forward(self, x):  # type: ignore[no-untyped-def]
            return (x * 2, x * 3) if float(x.sum()) > 0 else (x, x)

    with pytest.raises(ModelError, match="torch cannot export Branchy to ONNX"):
        edgeexit.export(Branchy(), tmp_path / "b", inputs=["x:float32[batch,4]"])


@pytest.mark.parametrize("name", ["digits", "dscnn", "mobilenet_025", "resnet8_cifar10"])
def test_our_definitions_export_as_they_are(tmp_path: Path, name: str) -> None:
    import edgeexit_models

    torch.manual_seed(0)
    net = getattr(edgeexit_models, name)()
    bundle = edgeexit.export(net, tmp_path / "b", layouts=["fused", "chain"])
    _, shape = next(iter(net.input_spec.values()))
    agrees(bundle, net, torch.randn(1, *shape[1:]))


def test_temperatures_are_rewritten_in_place(tmp_path: Path) -> None:
    from edgeexit_exporters.temperatures import apply_temperatures

    bundle = edgeexit.export(tiny(), tmp_path / "b")
    x = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    temperatures = (0.5, 2.0, 1.3)
    expected = edgeexit.load(bundle, artifact="chain", warmup=0).record(x).scores("maxprob", temperatures)
    for artifact in ("onnx-fused-fp32", "onnx-chain-fp32"):
        bundle = apply_temperatures(bundle, artifact, temperatures)
        reopened = edgeexit.Bundle.open(tmp_path / "b")
        found = edgeexit.load(reopened, artifact=artifact, warmup=0).record(x).scores("maxprob")
        np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(edgeexit.PolicyError, match="holds temperatures"):
        edgeexit.load(bundle, artifact="fused", policy=edgeexit.Threshold((0.5, 0.5), temperatures=(1.0, 1.0, 1.0)))
