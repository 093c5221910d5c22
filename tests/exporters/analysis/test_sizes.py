"""What free axes take: odd and even sizes, the least one, inputs among padding; tried when a network is exported."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

import edgeexit
from edgeexit.bundle.codec import from_json, to_json
from edgeexit.errors import BundleError, DataError, ModelError

BINS, WIDTH, TOKENS = 6, 8, 5


class Encoder(nn.Module):
    """Two exits behind a convolution of kernel 3 and stride 2: at least 3 frames. `fault`: what is wrong."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fault = fault
        self.input_spec = {"x": ("float32", ("batch", "time", BINS)), "x_lens": ("int64", ("batch",))}
        self.down = nn.Conv1d(BINS, WIDTH, 3, stride=2)
        self.mix = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.norm = nn.GroupNorm(1, WIDTH)
        self.early, self.late = nn.Linear(WIDTH, TOKENS), nn.Linear(WIDTH, TOKENS)

    def forward(self, x: Tensor, x_lens: Tensor) -> list[dict[str, Tensor]]:
        h = self.down(x.transpose(1, 2))
        lens = x_lens // 2 if self.fault == "lens" else torch.div((x_lens - 1).clamp(min=0), 2, rounding_mode="trunc")
        lens = lens.clamp(max=h.shape[2])
        keep = (torch.arange(h.shape[2])[None] < lens[:, None]).to(h.dtype)[:, None]
        g = h + self.mix(h if self.fault == "conv" else h * keep)
        g = self.norm(g) if self.fault == "norm" else g
        if self.fault == "parity" and g.shape[2] % 2:  # frozen by the exporter at the example's
            g = nn.functional.pad(g, (0, 1))[:, :, :-1] * 2
        return [{"output": head(v.transpose(1, 2)), "lengths": lens} for head, v in ((self.early, h), (self.late, g))]


def test_the_least_size_is_found_and_asked_for(tmp_path) -> None:  # type: ignore[no-untyped-def]
    bundle = edgeexit.export(Encoder(), tmp_path / "b.edgeexit")
    assert bundle.manifest.min_sizes == {"time": 3}
    assert from_json(to_json(bundle.manifest)).min_sizes == {"time": 3}
    for layout in ("chain", "fused", "prefix"):
        engine = edgeexit.load(bundle, artifact=layout, policy=edgeexit.fixed_exit(1, 2), warmup=0)
        for time in (3, 4, 17, 50):
            x = np.random.default_rng(time).standard_normal((1, time, BINS)).astype(np.float32)
            with torch.no_grad():
                want = Encoder().eval()(torch.from_numpy(x), torch.tensor([time]))[1]["output"][0].numpy()
            found = engine.run({"x": x, "x_lens": np.array([time])})
            np.testing.assert_allclose(found.output, want, atol=1e-5)
        with pytest.raises(DataError, match=r"has 2 along axis 'time'.*takes at least 3"):
            engine.run({"x": x[:, :2], "x_lens": np.array([2])})
    data = to_json(bundle.manifest)
    data["min_sizes"] = {"width": 3}
    with pytest.raises(BundleError, match="'width' is no free axis"):
        from_json(data)


def test_a_decision_about_a_size_that_was_frozen_is_found(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelError, match="A decision in Python about a size"):
        edgeexit.export(Encoder("parity"), tmp_path / "b.edgeexit", layouts=["chain"])


@pytest.mark.parametrize("fault", ["conv", "norm", "lens"])
def test_answers_that_depend_on_padding_are_refused(tmp_path, fault: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelError, match="Usual culprits: a convolution that sees padding"):
        edgeexit.export(Encoder(fault), tmp_path / "b.edgeexit", layouts=["chain"])


def test_sizes_that_the_source_refuses_as_well_are_its_own_limit(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A network that folds frames in fours: 17 frames fail in the file as they do in the source."""
    shape = helper.make_node("Reshape", ["x", "folded"], ["h"])
    nodes = [shape, helper.make_node("Relu", ["h"], ["y0"]), helper.make_node("Neg", ["y0"], ["y1"])]
    graph = helper.make_graph(
        nodes, "fold", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "time", 3])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", "quarter", 12]) for n in ("y0", "y1")],
        [helper.make_tensor("folded", TensorProto.INT64, [3], [0, -1, 12])],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "n.onnx")
    bundle = edgeexit.export(tmp_path / "n.onnx", tmp_path / "b.edgeexit", layouts=["chain"])
    assert bundle.manifest.min_sizes == {"time": 4}
