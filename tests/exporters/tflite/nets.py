"""A small three-stage network and its .tflite chain, float and int8."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

CLASSES = 5
STAGES = 3
EXITS = ("logits_0", "logits_1", "logits_2")
READS: tuple[dict[str, tuple[int, ...]], ...] = (
    {"image": (1, 12, 12, 3)},
    {"cut_0": (1, 12, 12, 8)},
    {"cut_1": (1, 6, 6, 12), "cut_0": (1, 12, 12, 8)},  # a cut that passes over stage 1
)
WIDTHS = ((3, 8, 8), (8, 12, 12), (12, 16, 24))
"""Channels in, channels of the convolution, features of the head."""


class Stage(nn.Module):
    """Convolution, batch norm and a head; takes and hands on NHWC."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        before, width, features = WIDTHS[k]
        self.convolution = nn.Conv2d(before, width, 3, 2 if k else 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(features, CLASSES)
        with torch.no_grad():
            assert self.norm.running_mean is not None and self.norm.running_var is not None
            self.norm.running_mean.copy_(torch.randn(width) * 0.2)
            self.norm.running_var.copy_(torch.rand(width) + 0.5)
            self.head.weight *= 9  # logits far enough apart for scores to spread

    def forward(self, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        x, *early = tensors.values()
        y = torch.relu(self.norm(self.convolution(x.permute(0, 3, 1, 2))))
        features = torch.cat([y.mean((2, 3)), *(e.mean((1, 2)) for e in early)], 1)
        found = {f"logits_{self.k}": self.head(features)}
        if self.k < STAGES - 1:
            found[f"cut_{self.k}"] = y.permute(0, 2, 3, 1)
        return found


def images(n: int, seed: int = 1) -> NDArray[np.float32]:
    """(n, 1, 12, 12, 3): every input has a contrast and a colour of its own, so that scores differ."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 1, 12, 12, 3)) * random.uniform(0.2, 2, (n, 1, 1, 1, 1))
    return np.asarray(x + random.normal(size=(n, 1, 1, 1, 3)), np.float32)


def float_chain() -> bytes:
    import litert_torch

    torch.manual_seed(0)
    converter: Any = litert_torch.Converter()
    for k in range(STAGES):
        sample = {name: torch.zeros(shape) for name, shape in READS[k].items()}
        converter = converter.add_signature(f"stage_{k}", Stage(k).eval(), sample_kwargs=sample)
    return bytes(converter.convert().model_content())


def run_chain(chain: bytes, image: NDArray[Any]) -> list[dict[str, NDArray[Any]]]:
    """What every stage gives; int8 files take and give int8."""
    return run_chains(chain, image[None])[0]


def run_chains(chain: bytes, many: NDArray[Any]) -> list[list[dict[str, NDArray[Any]]]]:
    from ai_edge_litert.interpreter import Interpreter

    engine = Interpreter(model_content=chain)
    engine.allocate_tensors()
    runners = [engine.get_signature_runner(f"stage_{k}") for k in range(STAGES)]
    found = []
    for image in many:
        known, stages = {"image": image}, []
        for k, runner in enumerate(runners):
            stages.append({n: a.copy() for n, a in runner(**{n: known[n] for n in READS[k]}).items()})
            known.update(stages[-1])
        found.append(stages)
    return found


def int8_chain(chain: bytes) -> bytes:
    """Full-integer, calibrated by running the float chain, so that both sides of a cut see the same tensors."""
    from ai_edge_quantizer import quantizer, recipe

    samples: dict[str, list[dict[str, NDArray[Any]]]] = {f"stage_{k}": [] for k in range(STAGES)}
    many = images(32, seed=2)
    for image, stages in zip(many, run_chains(chain, many), strict=True):
        known = {"image": image, **{n: a for s in stages for n, a in s.items()}}
        for k in range(STAGES):
            samples[f"stage_{k}"].append({n: known[n] for n in READS[k]})
    q = quantizer.Quantizer(bytearray(chain))
    q.load_quantization_recipe(recipe.static_wi8_ai8())
    return bytes(q.quantize(q.calibrate(samples)).quantized_model)
