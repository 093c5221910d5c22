"""Networks x formats x layouts x precisions: what is exported, what is left out, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import edgeexit
from edgeexit import Bundle
from edgeexit_exporters.refit import Refit
from once import once

ROWS = 120
"""Of calibration data, the least that leaves more than the minimum of every part."""


class Residual(nn.Module):
    """Pictures; the last exit adds what stood at the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.input_spec = {"image": ("float32", ("batch", 3, 10, 8))}
        self.convs = nn.ModuleList([nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(8) for _ in range(3)])
        self.heads = nn.ModuleList([nn.Linear(8, 5) for _ in range(2)])

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        a = torch.relu(self.norms[0](self.convs[0](image)))
        b = torch.relu(self.norms[1](self.convs[1](a)))
        c = torch.relu(self.norms[2](self.convs[2](b)) + a)
        return tuple(6 * head(x.mean((2, 3))) for head, x in zip(self.heads, (a, c), strict=True))


class Separable(nn.Module):
    """Spectrograms of one channel, as DS-CNN: a stride, then depthwise and pointwise convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.input_spec = {"spectrogram": ("float32", ("batch", 1, 12, 10))}
        self.stem = nn.Conv2d(1, 8, (4, 3), stride=2, padding=(1, 1))
        self.deep = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1, groups=8) for _ in range(2)])
        self.wide = nn.ModuleList([nn.Conv2d(8, 8, 1) for _ in range(2)])
        self.heads = nn.ModuleList([nn.Linear(8, 4, bias=False) for _ in range(2)])

    def forward(self, spectrogram: Tensor) -> tuple[Tensor, ...]:
        x, found = torch.relu(self.stem(spectrogram)), []
        for deep, wide, head in zip(self.deep, self.wide, self.heads, strict=True):
            x = torch.relu(wide(torch.relu(deep(x))))
            found.append(40 * head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)))
        return tuple(found)


class Vectors(nn.Module):
    """Linear layers only; the last exit also reads the first features."""

    def __init__(self) -> None:
        super().__init__()
        self.input_spec = {"x": ("float32", ("batch", 6))}
        self.layers = nn.ModuleList([nn.Linear(n, 12) for n in (6, 12, 12)])
        self.heads = nn.ModuleList([nn.Linear(n, 4) for n in (12, 12, 24)])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        a = torch.relu(self.layers[0](x))
        b = torch.relu(self.layers[1](a))
        c = torch.relu(self.layers[2](b))
        return 4 * self.heads[0](a), 4 * self.heads[1](b), 4 * self.heads[2](torch.cat([c, a], 1))


class TwoHeads(nn.Module):
    """Pictures; every exit has two heads that answer together, and a learned score."""

    def __init__(self) -> None:
        super().__init__()
        self.input_spec = {"image": ("float32", ("batch", 3, 8, 8))}
        self.convs = nn.ModuleList([nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8)])
        self.heads = nn.ModuleList([nn.Linear(8, 5) for _ in range(4)])
        self.scores = nn.ModuleList([nn.Linear(8, 1) for _ in range(2)])

    def forward(self, image: Tensor) -> tuple[Any, ...]:
        x, found = image, []
        for k in range(2):
            x = torch.relu(self.convs[k](x))
            p = x.mean((2, 3))
            heads = 6 * self.heads[2 * k](p), 6 * self.heads[2 * k + 1](p)
            found.append({"output": heads, "score": torch.sigmoid(self.scores[k](p)).squeeze(1)})
        return tuple(found)


class Signal(nn.Module):
    """Two channels over time."""

    def __init__(self) -> None:
        super().__init__()
        self.input_spec = {"signal": ("float32", ("batch", 2, 24))}
        self.convs = nn.ModuleList([nn.Conv1d(n, 8, 5, stride=2, padding=2) for n in (2, 8)])
        self.heads = nn.ModuleList([nn.Linear(8, 3) for _ in range(2)])

    def forward(self, signal: Tensor) -> tuple[Tensor, ...]:
        x, found = signal, []
        for conv, head in zip(self.convs, self.heads, strict=True):
            x = torch.relu(conv(x))
            found.append(6 * head(x.mean(2)))
        return tuple(found)


NETS: dict[str, type[nn.Module]] = {
    "residual": Residual, "separable": Separable, "vectors": Vectors, "two-heads": TwoHeads, "signal": Signal,
}  # fmt: skip


class Form(NamedTuple):
    """One kind of artifact."""

    format: str
    layout: str
    precision: str

    @property
    def artifact(self) -> str:
        return "-".join(self)


FORMATS = ("onnx", "tflite")
LAYOUTS = ("fused", "chain", "prefix", "all")
PRECISIONS = ("fp32", "int8", "int16x8", "int8-dynamic", "weight-only")
FORMS = [Form(*f) for f in product(FORMATS, LAYOUTS, PRECISIONS)]
SOME = ("vectors",)
"""Networks that are also exported in the rarer precisions."""


def _left_out(case: str, form: Form) -> str | None:
    if form.format == "onnx" and form.precision in ("int16x8", "weight-only"):
        return f"precision '{form.precision}' is not made for onnx"
    if form.format == "tflite" and form.layout == "all":
        return "there is no TFLite file of all exits: chain records them"
    if case not in SOME and form.precision not in ("fp32", "int8"):
        return "time: the rarer precisions are made of one network only"
    if case == "two-heads" and form.layout == "fused" and form.format == "tflite":
        return "a fused TFLite graph gives an answer and a score"
    return None


SKIPPED = {(c, f): why for c, f in product(NETS, FORMS) if (why := _left_out(c, f))}
"""(case, form) -> reason; `test_skips.py` holds every reason to its word."""
MADE = [(c, f) for c, f in product(NETS, FORMS) if (c, f) not in SKIPPED]


QUICK = ("vectors",)
"""Networks of the quick tests; exporting all five takes a minute."""


def marked(cases: Iterable[Any]) -> list[Any]:
    """Parameters, a case or `(case, form)`: those of other networks are slow."""
    every = [c if isinstance(c, tuple) else (c,) for c in cases]
    return [pytest.param(*c, marks=() if c[0] in QUICK else pytest.mark.slow) for c in every]


def network(case: str) -> nn.Module:
    """Seeded, batch norms as after training, in eval mode."""
    torch.manual_seed(3)
    net = NETS[case]()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None:
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 1.5)
    return net.eval()


def rows(case: str, n: int, seed: int) -> NDArray[np.float32]:
    """`(n, ...)` with a contrast and an offset per row, so that scores differ."""
    (spec,) = network(case).input_spec.values()  # type: ignore[operator,union-attr]
    shape, rng = spec[1][1:], np.random.default_rng(seed)
    one = (n, *[1] * len(shape))
    x = rng.standard_normal((n, *shape)) * rng.uniform(0.3, 1.5, one) + rng.standard_normal(one) / 2
    return x.astype(np.float32)


@dataclass
class Exported:
    """One case, exported once per run."""

    bundles: Mapping[str, Bundle]
    """By format; two names of one bundle where the formats share their layouts."""
    reports: Mapping[str, Refit]
    data: NDArray[np.float32]
    want: list[NDArray[np.float32]]
    """Every exit's answers in torch, for `fresh(case)`."""


@cache
def fresh(case: str) -> NDArray[np.float32]:
    """Rows that nothing was calibrated on."""
    return rows(case, 24, seed=9)


@cache
def exported(case: str) -> Exported:
    return once(f"format-{case}", lambda folder: _export(case, folder))


def _export(case: str, folder: Path) -> Exported:
    data = 1.5 * rows(case, ROWS, seed=1)  # wider than `fresh`, so that hardly any of those is cut off
    layouts = {
        f: tuple(w for w in LAYOUTS if any(Form(f, w, p) == m for p in PRECISIONS for c, m in MADE if c == case))
        for f in FORMATS
    }
    precisions = PRECISIONS if case in SOME else ("fp32", "int8")
    together = {w for w in layouts["onnx"] if w != "all"} == set(layouts["tflite"])
    bundles, reports = {}, {}
    for formats in (FORMATS,) if together else (FORMATS[:1], FORMATS[1:]):
        found: list[Refit] = []
        bundle = edgeexit.export(
            network(case), folder / f"{'-'.join(formats)}.edgeexit", layouts=layouts[formats[0]],
            data={next(iter(network(case).input_spec)): data}, report=found.append,  # type: ignore[arg-type]
            formats=formats, precisions=precisions,
        )  # fmt: skip
        bundles |= dict.fromkeys(formats, bundle)
        reports |= dict.fromkeys(formats, found[0])
    with torch.no_grad():
        answers = network(case)(torch.from_numpy(fresh(case)))
    return Exported(bundles, reports, data, [_answer(a) for a in answers])


def _answer(given: Any) -> NDArray[np.float32]:
    """Logits; of several heads the mean of their probabilities."""
    if isinstance(given, dict):
        given = torch.stack([h.softmax(-1) for h in given["output"]]).mean(0)
    return np.asarray(given.numpy())
