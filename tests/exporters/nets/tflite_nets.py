"""Small networks for TFLite tests, and a plain way to run their files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from once import once

if TYPE_CHECKING:
    from edgeexit_exporters.tflite.file.tflite_file import TfliteFile
    from edgeexit_exporters.tflite.from_torch.stages import TorchStages

Arrays = dict[str, NDArray[Any]]


class TwoHeads(nn.Module):
    """Pictures; every exit has two heads and a learned score; the last reads across two cuts, one of them a tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.input_spec = {"image": ("float32", ("batch", 3, 12, 10))}
        self.convs = nn.ModuleList([nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 16)])
        self.heads = nn.ModuleList([nn.Linear(8, 5) for _ in range(6)])
        self.scores = nn.ModuleList([nn.Linear(8, 1) for _ in range(3)])

    def exit(self, x: Tensor, k: int) -> dict[str, Any]:
        p = x.mean((2, 3))
        heads = (4 * self.heads[2 * k](p), 4 * self.heads[2 * k + 1](p))
        return {"output": heads, "score": torch.sigmoid(self.scores[k](p)).squeeze(1)}

    def forward(self, image: Tensor) -> tuple[Any, ...]:
        a = torch.relu(self.convs[0](image))
        b = torch.tanh(self.convs[1](a) / 2)
        c = torch.relu(self.convs[2](torch.cat([a, b], 1)))
        return self.exit(a, 0), self.exit(b, 1), self.exit(c, 2)


class Pools(nn.Module):
    """A cut behind a max pooling, flattened features, a batch norm behind a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.input_spec = {"image": ("float32", ("batch", 3, 8, 8))}
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.a, self.b, self.norm = nn.Linear(6 * 16, 4), nn.Linear(6 * 4, 4), nn.BatchNorm1d(4)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = nn.functional.max_pool2d(self.first(image), 2)
        y = torch.sigmoid(nn.functional.max_pool2d(self.second(x), 2))
        return self.a(x.flatten(1)), self.norm(self.b(y.flatten(1)))


class Shortcut(nn.Module):
    """A picture inside the second stage that an uneven padding and a 1x1 convolution beside it read."""

    def __init__(self) -> None:
        super().__init__()
        self.input_spec = {"image": ("float32", ("batch", 3, 8, 8))}
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.strided, self.beside = nn.Conv2d(6, 8, 3, stride=2), nn.Conv2d(6, 8, 1, stride=2)
        self.a, self.b = nn.Linear(6, 4), nn.Linear(8, 4)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = torch.relu(self.first(image))
        y = torch.relu(self.second(x) + x)
        z = torch.relu(self.strided(nn.functional.pad(y, (0, 1, 0, 1))) + self.beside(y))
        return self.a(x.mean((2, 3))), self.b(z.mean((2, 3)))


class Plain(nn.Module):
    """`(batch, 6)` -> two exits; a subclass says what stands before the second."""

    def __init__(self) -> None:
        super().__init__()
        self.input_spec: dict[str, Any] = {"x": ("float32", ("batch", 6))}
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def between(self, x: Tensor) -> Tensor:
        return torch.relu(x)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.body(x)
        return self.head(x), self.head(self.between(x))


class Chunks(Plain):
    """An operation with two results, both of them read behind the cut."""

    def between(self, x: Tensor) -> Tensor:
        a, b = torch.tanh(x).chunk(2, 1)
        return torch.cat([b, a], 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        a, b = self.body(x).chunk(2, 1)
        return torch.cat([a, a], 1) @ self.head.weight.T, torch.cat([b * a, a], 1) @ self.head.weight.T


class InPlace(Plain):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.body(x)
        z = y.relu_()
        return self.head(y), self.head(z.add_(y).tanh())


class Absolute(Plain):
    """The quantizer has no integer Abs."""

    def between(self, x: Tensor) -> Tensor:
        return x.abs()


class Strange(Plain):
    """The converter has no Bessel function."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.body(x)
        return self.head(x), self.head(torch.special.bessel_j0(x))  # the line that the error names


class Decides(Plain):
    def between(self, x: Tensor) -> Tensor:
        found: Tensor = torch.cond(x.sum() > 0, lambda t: t * 2, lambda t: t + 1, (x,))
        return found


class Remembers(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def between(self, x: Tensor) -> Tensor:
        self.seen.add_(1)
        return x + self.seen


class Mask(nn.Module):
    """Four axes that are no picture: they stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.input_spec = {"x": ("float32", ("batch", 4, 6)), "mask": ("float32", ("batch", 1, 4, 4))}
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])
        self.heads = nn.ModuleList([nn.Linear(6, 3) for _ in range(2)])

    def forward(self, x: Tensor, mask: Tensor) -> list[Tensor]:
        found = []
        for layer, head in zip(self.layers, self.heads, strict=True):
            y = layer(x).reshape(1, 4, 2, 3).transpose(1, 2)
            x = x + nn.functional.scaled_dot_product_attention(y, y, y, mask).transpose(1, 2).reshape(1, 4, 6)
            found.append(head(x.mean(1)))
        return found


def made(kind: type[nn.Module]) -> nn.Module:
    """Seeded, in eval mode."""
    torch.manual_seed(0)
    return kind().eval()


@cache
def converted(kind: type[nn.Module]) -> tuple[nn.Module, TorchStages, TfliteFile]:
    """The network, its stages and its chain; converting takes seconds, so tests share it."""
    from edgeexit_exporters.tflite.convert import convert_chain
    from edgeexit_exporters.tflite.from_torch.stages import divide

    net = made(kind)
    found = divide(net)
    return net, found, once(f"tflite-net-{kind.__name__}", lambda folder: convert_chain(found))


@cache
def separate(kind: type[nn.Module]) -> tuple[list[TfliteFile], list[TfliteFile]]:
    """A file per stage, and a file per exit."""
    from edgeexit_exporters.tflite.convert import convert_prefixes, convert_stage_files

    _, found, _ = converted(kind)
    files = lambda folder: (convert_stage_files(found), convert_prefixes(found))  # noqa: E731
    return once(f"tflite-files-{kind.__name__}", files)


def pictures(count: int, seed: int = 0, shape: tuple[int, ...] = (12, 10, 3)) -> NDArray[np.float32]:
    """Normal noise, channels last."""
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


class Chain:
    """Files run as a runtime would: stock interpreter, stage after stage; integers are passed on as they are."""

    def __init__(self, *files: TfliteFile) -> None:
        from edgeexit_exporters.tflite import tools

        self.runners = []
        with tools.quiet():
            for file in files:
                interpreter = tools.interpreter().Interpreter(model_content=file.data, num_threads=1)
                interpreter.allocate_tensors()
                names = sorted(interpreter.get_signature_list(), key=lambda n: int(n.rpartition("_")[2]))
                self.runners += [interpreter.get_signature_runner(n) for n in names]

    def __call__(self, rows: Mapping[str, NDArray[Any]], raw: bool = False) -> Arrays:
        """Floats in, by input name `(n, ...)`; every stage's outputs, as floats or `raw`."""
        found: dict[str, list[NDArray[Any]]] = {}
        for i in range(len(next(iter(rows.values())))):
            known: Arrays = {}
            for runner in self.runners:
                for name, detail in runner.get_input_details().items():
                    if name not in known:
                        known[name] = _to_integers(rows[name][i : i + 1], detail)
                given = runner(**{n: known[n] for n in runner.get_input_details()})
                known.update(given)
                details = runner.get_output_details()
                for name, array in given.items():
                    found.setdefault(name, []).append(array.copy() if raw else _to_floats(array, details[name]))
        return {n: np.concatenate(parts) for n, parts in found.items()}


def _to_integers(array: NDArray[Any], detail: Mapping[str, Any]) -> NDArray[Any]:
    scale, zero = detail["quantization"]
    if not scale:
        return array
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.round(array / scale) + zero, limits.min, limits.max).astype(detail["dtype"])


def _to_floats(array: NDArray[Any], detail: Mapping[str, Any]) -> NDArray[Any]:
    scale, zero = detail["quantization"]
    return (array.astype(np.float64) - zero) * scale if scale else array.copy()
