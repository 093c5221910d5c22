"""Converted files: names, sizes, operations and answers, in the stock interpreter."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
# not importorskip: importing it here would cost every run seconds
if find_spec("litert_torch") is None:
    pytest.skip("the TFLite export tools are not installed", allow_module_level=True)
import tflite_nets as nets
import torch
from torch import nn

from edgeexit.errors import BackendMissing, ModelError
from edgeexit_exporters.source.inputs import make_inputs, parse_input
from edgeexit_exporters.source.torch_source import own_inputs
from edgeexit_exporters.tflite import tools
from edgeexit_exporters.tflite.calibration import linked
from edgeexit_exporters.tflite.convert import convert_chain, convert_stage_files
from edgeexit_exporters.tflite.file.signatures import op_counts
from edgeexit_exporters.tflite.file.tflite_file import TfliteFile
from edgeexit_exporters.tflite.from_torch.stages import TorchStages, divide


def operations(file: TfliteFile) -> list[Counter[str]]:
    return [Counter(op_counts(file.model, s.subgraph)) for s in linked([file])]


def agrees(found: TorchStages, net: nn.Module, *files: TfliteFile, count: int = 4) -> None:
    """Every exit's tensors, to 1e-5 of the largest."""
    rows: dict[str, list[np.ndarray]] = {e.name: [] for e in found.inputs}
    expected = []
    for seed in range(count):
        arrays = make_inputs(own_inputs(net), 1, seed)
        with torch.no_grad():
            expected.append([t.numpy() for t in found.whole(*(torch.from_numpy(a) for a in arrays.values()))])
        for edge, array in zip(found.inputs, arrays.values(), strict=True):
            rows[edge.name].append((array.transpose(0, 2, 3, 1) if edge.nhwc else array).astype(edge.dtype))
    given = nets.Chain(*files)({n: np.concatenate(parts) for n, parts in rows.items()})
    names = [n for e in found.exits for n in e.outputs]
    for name, column in zip(names, zip(*expected, strict=True), strict=True):
        wanted = np.concatenate(column)
        assert np.abs(given[name] - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max()), name


@pytest.mark.parametrize("name", ["resnet8_cifar10", pytest.param("dscnn", marks=pytest.mark.slow)])
def test_our_networks_in_every_form_without_transposes(name: str) -> None:
    import edgeexit_models

    torch.manual_seed(0)
    net = getattr(edgeexit_models, name)().eval()
    found = divide(net)
    chain = convert_chain(found)
    agrees(found, net, chain)
    assert [s.name for s in linked([chain])] == [p.name for p in found.stages]
    every = sum(operations(chain), Counter())
    assert every["TRANSPOSE"] == 0 and every["PAD"] == 0, every
    assert every["CONV_2D"] + every["DEPTHWISE_CONV_2D"] == sum(isinstance(m, nn.Conv2d) for m in net.modules())
    weights = 4 * sum(p.numel() for p in net.parameters())
    assert len(chain.data) < weights + 45_000, "weights are stored once"


def test_heads_that_answer_together_and_a_skip_across_cuts() -> None:
    net, found, chain = nets.converted(nets.TwoHeads)
    agrees(found, net, chain)
    assert all(not c["TRANSPOSE"] for c in operations(chain))
    found_names = [(set(s.inputs), set(s.outputs)) for s in linked([chain])]
    assert found_names[2] == ({"cut_relu", "cut_tanh"}, {"exit2", "exit2_uncertainty", "exit2_score"})
    names = [t.name for graph in chain.model.subgraphs for t in graph.tensors]
    assert max(map(len, names)) < 60, "long names are a fifth of a small file"
    assert b"site-packages" not in chain.data and b".py" not in chain.data


def test_files_per_stage_and_per_exit() -> None:
    net, found, chain = nets.converted(nets.Pools)
    files, prefixes = nets.separate(nets.Pools)
    agrees(found, net, *files)
    agrees(found, net, *prefixes)
    assert [[s.name for s in linked([c])] for c in (*files, *prefixes)] == [
        ["stage_0"], ["stage_1"], ["exit_0"], ["exit_1"]
    ]  # fmt: skip
    assert sum(operations(chain), Counter()) == sum((operations(f)[0] for f in files), Counter())


@pytest.mark.slow
def test_no_transpose_at_a_padding_beside_a_shortcut() -> None:
    net, found, chain = nets.converted(nets.Shortcut)
    _, prefixes = nets.separate(nets.Shortcut)
    agrees(found, net, chain)
    agrees(found, net, *prefixes)
    for file in (chain, *prefixes):
        every = sum(operations(file), Counter())
        assert every["TRANSPOSE"] == 0 and every["PAD"] == 0, every


@pytest.mark.parametrize("kind", [nets.Pools, nets.Chunks, nets.Mask])
def test_other_networks(kind: type[nn.Module]) -> None:
    net, found, chain = nets.converted(kind)
    agrees(found, net, chain)
    if kind is nets.Pools:
        assert all(not c["TRANSPOSE"] for c in operations(chain)), "weights behind a flattening are reordered"


def test_64_bit_tokens_become_32_bit() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input_spec = {"tokens": ("int64", ("batch", 5))}
            self.table, self.a, self.b = nn.Embedding(7, 8), nn.Linear(8, 3), nn.Linear(8, 3)

        def forward(self, tokens):  # type: ignore[no-untyped-def]
            x = self.table(tokens)
            return self.a(x.mean(1)), self.b(x.relu().mean(1))

    net = nets.made(Tokens)
    found = divide(net)
    assert found.inputs[0].dtype == "int32"
    agrees(found, net, convert_chain(found))


@pytest.mark.slow
def test_the_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib, tflite_nets as n; from edgeexit_exporters.tflite import convert;"
        "from edgeexit_exporters.tflite.from_torch import stages as t;"
        "print(hashlib.sha256(convert.convert_chain(t.divide(n.made(n.Plain))).data).hexdigest())"
    )
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
                         capture_output=True, text=True, check=True)  # fmt: skip
    here = hashlib.sha256(convert_chain(divide(nets.made(nets.Plain))).data).hexdigest()
    assert ran.stdout.strip() == here


def test_an_unknown_operation_is_named_with_stage_and_line() -> None:
    text = Path(nets.__file__).read_text().splitlines()
    line = 1 + next(i for i, t in enumerate(text) if t.endswith("# the line that the error names"))
    found = divide(nets.made(nets.Strange))
    for convert in (convert_chain, convert_stage_files):
        with pytest.raises(ModelError) as caught:
            convert(found)
        said = str(caught.value)
        assert "stage_1 of Strange" in said and f"'special_bessel_j0' (called in tflite_nets.py:{line})" in said


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    convert_chain(divide(nets.made(nets.Plain), [parse_input("input:float32[batch,6]")]))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("found", [None, "0.9.4", "0.100.0"])
def test_no_converter_or_another_version(monkeypatch: pytest.MonkeyPatch, found: str | None) -> None:
    def version(name: str) -> str:
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    stages = divide(nets.made(nets.Plain))
    monkeypatch.setattr(tools, "version", version)
    words = r"needs litert-torch 0\.10\.\*, " + ("which is not installed" if found is None else f"found {found}")
    with pytest.raises(BackendMissing, match=words) as caught:
        convert_chain(stages)
    assert "pip install 'edgeexit[tflite-export]'" in str(caught.value)
