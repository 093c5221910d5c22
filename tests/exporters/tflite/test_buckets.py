"""TFLite files for sequences: a few sizes in one file, the smallest that holds an input runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import edgeexit
from edgeexit.bench.verify import verify
from edgeexit.bundle.codec import from_json, to_json
from edgeexit.errors import BundleError, DataError, ModelError
from edgeexit_exporters.exporting import export_source
from edgeexit_exporters.source.source import Source
from edgeexit_exporters.source.torch_source import from_torch
from edgeexit_exporters.spec import ExportSpec

pytest.importorskip("litert_torch", reason="the TFLite converter is not installed")

BINS, WIDTH, TOKENS, SIZES = 8, 16, 6, (20, 41)


class Block(nn.Module):
    """As in a Conformer: attention over valid frames, and a depthwise convolution that sees no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.depth = nn.Conv1d(WIDTH, WIDTH, 5, padding=2, groups=WIDTH)

    def forward(self, h: Tensor, keep: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(h)).chunk(3, -1)
        weights = q @ k.transpose(1, 2) / WIDTH**0.5 + (keep.transpose(1, 2) - 1) * 1e4
        h = h + self.out(weights.softmax(-1) @ v)
        return self.after(h + nn.functional.silu(self.depth((h * keep).transpose(1, 2)).transpose(1, 2)))


class Speech(nn.Module):
    """Two CTC exits behind two convolutions that shorten time by 4."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.input_spec = {"x": ("float32", ("batch", "time", BINS)), "x_lens": ("int64", ("batch",))}
        self.first, self.second = nn.Conv1d(BINS, WIDTH, 3, stride=2), nn.Conv1d(WIDTH, WIDTH, 3, stride=2)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.heads = nn.ModuleList([nn.Linear(WIDTH, TOKENS) for _ in range(2)])

    def forward(self, x: Tensor, x_lens: Tensor) -> list[dict[str, Tensor]]:
        h = self.second(torch.relu(self.first(x.transpose(1, 2)))).transpose(1, 2)
        lens = torch.div((x_lens - 3).clamp(min=0), 4, rounding_mode="trunc")
        exits = []
        for block, head in zip(self.blocks, self.heads, strict=True):
            keep = (torch.arange(h.shape[1])[None] < lens[:, None]).to(h.dtype)[..., None]
            h = block(h, keep)
            exits.append({"output": head(h).log_softmax(-1), "lengths": lens})
        return exits


@pytest.fixture(scope="module")
def source() -> Source:
    return from_torch(Speech())


@pytest.fixture(scope="module")
def bundle(source: Source, tmp_path_factory: pytest.TempPathFactory) -> edgeexit.Bundle:
    spec = ExportSpec(
        layouts=["chain", "prefix"], formats=["onnx", "tflite"], precisions=["fp32", "int8-dynamic"], buckets=SIZES
    )
    out = tmp_path_factory.mktemp("buckets") / "b.edgeexit"
    return export_source(source, out, spec)


def inputs(time: int, valid: int | None = None) -> Mapping[str, NDArray[np.generic]]:
    x = np.random.default_rng(time).standard_normal((1, time, BINS)).astype(np.float32)
    return {"x": x, "x_lens": np.array([valid or time])}


@pytest.mark.slow
def test_every_length_is_answered_as_in_torch(bundle: edgeexit.Bundle) -> None:
    engine = edgeexit.load(bundle, artifact="tflite-chain-fp32", warmup=0)
    for time, valid in ((7, 7), (13, 13), (19, 19), (20, 20), (21, 21), (40, 31), (41, 41), (41, 7)):
        x = inputs(time, valid)
        with torch.no_grad():
            want = Speech().eval()(torch.from_numpy(x["x"][:, :valid]), torch.tensor([valid]))
        for k in (0, 1):
            engine.policy = edgeexit.fixed_exit(k, 2)
            found = engine.run(x)
            assert found.output.shape == (((valid - 3) // 4), TOKENS)
            np.testing.assert_allclose(found.output, want[k]["output"][0].numpy(), atol=1e-4)


@pytest.mark.slow
def test_batches_records_and_deadlines_work_as_elsewhere(bundle: edgeexit.Bundle) -> None:
    x = np.concatenate([inputs(30 + i % 2)["x"][:, :30] for i in range(4)])
    rows = {"x": x, "x_lens": np.array([30, 25, 12, 7])}
    found = {}
    for artifact in ("tflite-chain-fp32", "onnx-chain-fp32"):
        engine = edgeexit.load(bundle, artifact=artifact, policy=edgeexit.fixed_exit(1, 2), warmup=1)
        many = engine.run_batch(rows)
        assert many.lengths is not None and many.lengths.tolist() == [6, 5, 2, 1]
        found[artifact] = engine.record(rows).scores("entropy")
        assert engine.run({n: a[:1] for n, a in rows.items()}, deadline_s=10.0).late is False
    np.testing.assert_allclose(*found.values(), atol=1e-5)


@pytest.mark.slow
def test_too_long_and_too_short_inputs_are_told(bundle: edgeexit.Bundle) -> None:
    engine = edgeexit.load(bundle, artifact="tflite-chain-fp32", policy=edgeexit.fixed_exit(1, 2), warmup=0)
    with pytest.raises(DataError, match="has 42 along axis 'time', and the largest size in these files is 41"):
        engine.run(inputs(42))
    with pytest.raises(DataError, match="takes at least 7"):
        engine.run(inputs(6))


@pytest.mark.slow
def test_one_file_holds_the_weights_once(bundle: edgeexit.Bundle) -> None:
    artifact = bundle.manifest.artifact("tflite-chain-fp32")
    assert artifact.sizes == {"time": SIZES} and len(artifact.models) == 1
    weights = sum(s.weight_bytes for s in bundle.manifest.stages)
    assert weights < artifact.bytes < 2 * weights + 60_000
    assert all(v.passed for v in verify(bundle)), verify(bundle)
    assert from_json(to_json(bundle.manifest)) == bundle.manifest
    at = bundle.manifest.artifacts.index(artifact)
    for sizes, words in (
        ({"time": [41, 20]}, "rising numbers"),
        ({"width": [20]}, "no free axis"),
        ({}, "expected 1 name, found 0"),
    ):
        data = to_json(bundle.manifest)
        data["artifacts"][at]["sizes"] = sizes
        with pytest.raises(BundleError, match=words):
            from_json(data)


@pytest.mark.slow
@pytest.mark.parametrize("artifact", ["tflite-chain-int8-dynamic", "onnx-chain-int8-dynamic"])
def test_dynamic_int8_takes_every_length_too(bundle: edgeexit.Bundle, artifact: str) -> None:
    exact, small = (
        edgeexit.load(bundle, artifact=name, policy=edgeexit.fixed_exit(1, 2), warmup=0)
        for name in ("onnx-chain-fp32", artifact)
    )
    for time, valid in ((7, 7), (20, 20), (33, 33), (41, 30)):
        x = inputs(time, valid)
        a, b = (e.run(x).output for e in (small, exact))
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=0.1 * np.abs(b).max())


@pytest.mark.parametrize(
    ("wish", "layouts", "words"),
    [
        ({"buckets": (20, 41)}, ["prefix"], "layout chain alone"),
        ({"buckets": (5, 41)}, ["chain"], "bucket 5: the network takes at least 7"),
        ({"buckets": (41,), "precisions": ["int8"]}, ["chain"], "ranges would be read from padding"),
        ({"buckets": (41, 20)}, ["chain"], "rising sizes"),
        ({"formats": ["onnx"], "buckets": (20,)}, ["chain"], "ask for --format tflite"),
    ],
)
def test_wishes_that_cannot_be_met(
    source: Source, tmp_path: Path, wish: dict[str, object], layouts: list[str], words: str
) -> None:
    data = {"x": np.ones((96, 41, BINS), np.float32).cumsum(0), "x_lens": np.full(96, 41)}
    with pytest.raises(ModelError, match=words):
        spec = ExportSpec(**{"formats": ["tflite"], "layouts": layouts, **wish})  # type: ignore[arg-type]
        spec.check_data(data)
        export_source(source, tmp_path / "b.edgeexit", spec, data=data)
