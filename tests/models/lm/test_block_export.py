"""A block as an ONNX file: one export serves every number of new and of earlier positions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeexit_models.lm import LlamaLM

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


class Part(nn.Module):
    """Layers 1 and 2."""

    def __init__(self, model: LlamaLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, h: Tensor, positions: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
        h, new = self.model.block(1, 3, h, past, positions)
        return h, *new


@pytest.mark.slow
def test_one_file_for_all_lengths(model: LlamaLM, tmp_path: Path) -> None:
    part, free = Part(model).eval(), torch.export.Dim.DYNAMIC
    example = (torch.randn(1, 3, 32), torch.arange(5, 8), [torch.randn(5, 2, 8) for _ in range(4)])
    shapes = ({1: free}, {0: free}, [{0: free}] * 4)
    program = torch.onnx.export(part, example, dynamic_shapes=shapes, dynamo=True, opset_version=18, verbose=False)
    path = tmp_path / "part.onnx"
    program.save(str(path))
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert "Gemm" not in kinds and "If" not in kinds  # quantizers pass Gemm over in silence
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    for new, earlier in [(1, 0), (1, 1), (1, 20), (6, 0), (5, 9)]:
        past = [torch.randn(earlier, 2, 8) for _ in range(4)]
        given = (torch.randn(1, new, 32), torch.arange(earlier, earlier + new))
        with torch.no_grad():
            wanted = part(*given, past)
        found = session.run(None, {n: x.numpy() for n, x in zip(names, [*given, *past], strict=True)})
        for ours, theirs in zip(wanted, found, strict=True):
            np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-4)
