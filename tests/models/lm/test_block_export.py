"""A block as an ONNX file: one export serves every number of sequences, of new and of earlier positions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeexit.lm.positions import mask
from edgeexit_models.lm import LlamaLM

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


class Part(nn.Module):
    """Layers 1 and 2."""

    def __init__(self, model: LlamaLM) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, h: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, at: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        h, new = self.model.block(1, 3, h, past, at, (cos, sin), mask)
        return h, *new


def given(model: LlamaLM, batch: int, new: int, earlier: int, room: int) -> tuple[Tensor, ...]:
    """Hidden states, cosines, sines, mask and the new positions' rows."""
    at = torch.arange(earlier, earlier + new)
    look = torch.from_numpy(mask(earlier, new, room)).repeat(batch, 1, 1, 1, 1)
    return torch.randn(batch, new, 32), *model.turn(at.repeat(batch, 1)), look, at


@pytest.mark.slow
def test_one_file_for_all_lengths(model: LlamaLM, tmp_path: Path) -> None:
    part, free = Part(model).eval(), torch.export.Dim.DYNAMIC
    example = (*given(model, 2, 3, 4, 9), [torch.randn(9, 2, 2, 8) for _ in range(4)])
    shapes = (*[{0: free, 1: free}] * 3, {0: free, 3: free, 4: free}, {0: free}, [{0: free, 1: free}] * 4)
    program = torch.onnx.export(part, example, dynamic_shapes=shapes, dynamo=True, opset_version=18, verbose=False)
    path = tmp_path / "part.onnx"
    program.save(str(path))
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert "Gemm" not in kinds and "If" not in kinds  # quantizers pass Gemm over in silence
    assert "Reciprocal" not in kinds and "Neg" not in kinds  # onnxruntime fuses no norm with one; sines have their sign
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    for batch, new, earlier, room in [(1, 1, 0, 1), (1, 1, 1, 32), (3, 1, 20, 21), (1, 6, 0, 8), (2, 5, 9, 32)]:
        past = [torch.randn(room, batch, 2, 8) for _ in range(4)]
        values = given(model, batch, new, earlier, room)
        with torch.no_grad():
            wanted = part(*values, past)
        found = session.run(None, {n: x.numpy() for n, x in zip(names, [*values, *past], strict=True)})
        for ours, theirs in zip(wanted, found, strict=True):
            np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-4)
