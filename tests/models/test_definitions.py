"""Our networks: shapes, sizes, padding, and that they export."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgeexit_models import digits, dscnn, exits, mobilenet_025, resnet8, resnet8_cifar10
from edgeexit_models.definitions.layers import SameConv2d, same_padding

# factory, classes, exits, parameters, multiplications of all exits together in thousands
NETWORKS = [
    (resnet8, 10, 3, 93_566, 12_517),
    (resnet8_cifar10, 10, 3, 93_566, 12_517),
    (dscnn, 12, 4, 37_616, 2_671),
    (mobilenet_025, 2, 3, 214_358, 7_490),
    (digits, 10, 3, 63_678, 3_913),
]


@pytest.mark.parametrize(("factory", "classes", "count", "parameters", "kilo_macs"), NETWORKS)
def test_sizes_and_shapes(
    factory: Callable[[], nn.Module], classes: int, count: int, parameters: int, kilo_macs: int
) -> None:
    module = factory().eval()
    ((dtype, shape),) = module.input_spec.values()
    assert dtype == "float32"
    assert shape[0] == "batch"
    x = torch.zeros(1, *shape[1:])
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        outputs = exits(module, x)
    assert [tuple(y.shape) for y in outputs] == [(1, classes)] * count
    assert sum(p.numel() for p in module.parameters()) == parameters
    assert flops.get_total_flops() / 2e3 == pytest.approx(kilo_macs, rel=2e-3)


def test_the_number_of_classes_can_be_chosen() -> None:
    for factory in (resnet8, dscnn, mobilenet_025, digits):
        module = factory(classes=7).eval()
        ((_, shape),) = module.input_spec.values()
        assert exits(module, torch.zeros(2, *shape[1:]))[-1].shape == (2, 7)


def test_the_mean_is_taken_off_inside() -> None:
    torch.manual_seed(0)
    inside = resnet8_cifar10().eval()
    plain = resnet8().eval()
    plain.load_state_dict({k: v for k, v in inside.state_dict().items() if k != "mean"})
    x = torch.rand(2, 3, 32, 32) * 255
    for a, b in zip(inside(x), plain(x - inside.mean), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("size", "kernel", "stride"), [(32, 3, 2), (49, 10, 2), (10, 4, 2), (33, 3, 2), (5, 3, 1)])
def test_same_padding_keeps_every_window_inside(size: int, kernel: int, stride: int) -> None:
    before, after = same_padding(size, kernel, stride)
    assert (size + before + after - kernel) // stride + 1 == -(-size // stride)
    assert after - before in (0, 1)


def test_stride_two_pads_below_and_right_only() -> None:
    conv = SameConv2d(1, 1, (3, 3), (4, 4), stride=2, bias=False)
    nn.init.ones_(conv.weight)
    ones = torch.ones(1, 1, 4, 4)
    assert conv(ones).flatten().tolist() == [9.0, 6.0, 6.0, 4.0]


def test_a_definition_exports_with_a_free_batch_axis(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module = mobilenet_025().eval()
    file = tmp_path / "m.onnx"
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own deprecations
        torch.onnx.export(
            module,
            (torch.zeros(2, 3, 96, 96),),
            str(file),
            dynamo=True,
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).normal(size=(3, 3, 96, 96)).astype(np.float32)
    got = session.run(None, {session.get_inputs()[0].name: x})
    with torch.no_grad():
        wanted = module(torch.from_numpy(x))
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b.numpy(), atol=1e-4)
