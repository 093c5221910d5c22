"""Chains to fuse: a small three-stage network converted once per run, and hand-made stages that pass logits on."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgeexit.policy import scores
from once import once

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


@functools.cache
def chain(precision: str) -> bytes:
    """A file with the signatures stage_0 to stage_2, "float" or "int8"."""
    make = _float_chain if precision == "float" else lambda: _int8_chain(chain("float"))
    return once(f"tflite-chain-{precision}", lambda folder: make())


def _float_chain() -> bytes:
    litert_torch = pytest.importorskip("litert_torch", reason="makes the chains; in the extra tflite-export")
    torch.manual_seed(0)
    converter: Any = litert_torch.Converter()
    for k in range(STAGES):
        sample = {name: torch.zeros(shape) for name, shape in READS[k].items()}
        converter = converter.add_signature(f"stage_{k}", Stage(k).eval(), sample_kwargs=sample)
    return bytes(converter.convert().model_content())


def _int8_chain(chain: bytes) -> bytes:
    """Full-integer, calibrated by running the float chain, so that both sides of a cut see the same tensors."""
    quantizer = pytest.importorskip("ai_edge_quantizer.quantizer", reason="makes the int8 chain; in tflite-export")
    from ai_edge_quantizer import recipe

    samples: dict[str, list[dict[str, NDArray[Any]]]] = {f"stage_{k}": [] for k in range(STAGES)}
    for image in images(32, seed=2):
        known = {"image": image, **{n: a for s in run_chain(chain, image) for n, a in s.items()}}
        for k in range(STAGES):
            samples[f"stage_{k}"].append({n: known[n] for n in READS[k]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the quantizer's interpreter warns that it keeps all tensors, as it must
        q = quantizer.Quantizer(bytearray(chain))
        q.load_quantization_recipe(recipe.static_wi8_ai8())
        return bytes(q.quantize(q.calibrate(samples)).quantized_model)


@functools.cache
def _runners(chain: bytes) -> list[Any]:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="runs .tflite; in the extra tflite-export")
    engine = interpreter.Interpreter(model_content=chain, num_threads=1)
    engine.allocate_tensors()
    return [engine.get_signature_runner(f"stage_{k}") for k in range(STAGES)]


def run_chain(chain: bytes, image: NDArray[Any]) -> list[dict[str, NDArray[Any]]]:
    """What every stage gives; int8 files take and give int8."""
    known, stages = {"image": image}, []
    for k, runner in enumerate(_runners(chain)):
        stages.append({n: a.copy() for n, a in runner(**{n: known[n] for n in READS[k]}).items()})
        known.update(stages[-1])
    return stages


def fed(chain: bytes, image: NDArray[np.float32]) -> NDArray[Any]:
    """An image as the chain takes it."""
    from edgeexit_exporters.tflite.file import flatbuffer, signatures

    t = signatures.signatures(flatbuffer.read(chain))["stage_0"].inputs["image"]
    if t.scale is None or t.zero_point is None:
        return image
    return np.clip(np.round(image / np.float32(t.scale)) + t.zero_point, -128, 127).astype(np.int8)


def answers(chain: bytes, image: NDArray[Any]) -> list[NDArray[np.float32]]:
    """Every exit's logits, dequantized."""
    from edgeexit_exporters.tflite.file import flatbuffer, signatures

    found, known = [], signatures.signatures(flatbuffer.read(chain))
    for k, stage in enumerate(run_chain(chain, image)):
        t, a = known[f"stage_{k}"].outputs[EXITS[k]], stage[EXITS[k]]
        if t.scale is not None and t.zero_point is not None:
            a = np.float32(t.scale) * (a.astype(np.int32) - t.zero_point).astype(np.float32)
        found.append(a)
    return found


def decided(logits: Sequence[NDArray[np.float32]], score: str, thresholds: NDArray[np.float32]) -> tuple[int, float]:
    """Where these answers leave by the written rule, and the score there."""
    found = [float(scores.score(a, score)[0]) for a in logits]
    k = next((k for k, t in enumerate(thresholds) if np.float32(found[k]) >= t), len(found) - 1)
    return k, found[k]


def fuse_bytes(chain: bytes, exits: Sequence[str], score: str = "maxprob", **options: Any) -> bytes:
    """A chain fused; options as of `fuse.fuse`."""
    from edgeexit_exporters.tflite import fuse
    from edgeexit_exporters.tflite.file.tflite_file import TfliteFile

    return fuse.fuse(TfliteFile(chain), exits, score, **options).data


def passing_chain(
    axes: Sequence[int], count: int = 2, extra: str | None = None, dtype: str = "float32", chained: bool = False
) -> bytes:
    """Stages that give their own input back, `x<k>` as `y<k>`: the model has one input per exit.

    Args:
        axes: shape of every exit.
        count: exits.
        extra: name of a second output of stage 0, which nobody reads.
        dtype: of all tensors; integers have scale 0.25 and, if of 8 bits, zero point 3.
        chained: stage k reads the answer of the one before, `y<k-1>`, which thus is exit and cut.
    """
    from edgeexit_exporters.tflite.file import flatbuffer
    from edgeexit_exporters.tflite.file.building import Scope
    from edgeexit_exporters.tflite.file.signatures import DTYPES

    schema = flatbuffer.schema
    kind = next(k for k, name in DTYPES.items() if name == dtype)
    scale = schema.QuantizationParametersT(scale=[0.25], zeroPoint=[0 if dtype == "int16" else 3])
    model = schema.ModelT(version=3, subgraphs=[], operatorCodes=[], buffers=[schema.BufferT()], signatureDefs=[])
    for k in range(count):
        graph = schema.SubGraphT(tensors=[], inputs=[], outputs=[], operators=[], name=f"stage_{k}")
        model.subgraphs.append(graph)
        scope = Scope(model, graph, {})
        read = f"y{k - 1}" if chained and k else f"x{k}"
        graph.inputs = [scope.tensor(read, axes, kind)]
        outputs = {name: scope.copied(0) for name in (f"y{k}", *([extra] if extra and k == 0 else []))}
        graph.outputs = list(outputs.values())
        if dtype != "float32":
            for tensor in (graph.tensors[i] for i in (*graph.inputs, *graph.outputs)):
                tensor.quantization = scale
        sides = [[schema.TensorMapT(n, i) for n, i in side.items()] for side in ({read: 0}, outputs)]
        model.signatureDefs.append(schema.SignatureDefT(*sides, f"stage_{k}", k))
    return flatbuffer.write(model)
