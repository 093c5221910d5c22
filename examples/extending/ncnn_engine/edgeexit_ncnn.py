"""ncnn engine, and the layout `resume`: one network whose extractor continues after an exit.

ncnn's `Extractor` computes what a blob needs when the blob is asked for, and keeps what later blobs need. One pair of
files (``.param`` and ``.bin``) with all exits therefore stops early without cut tensors: the extractor itself goes from
stage to stage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.layouts import Layout
from edgeexit.bundle.manifest import Artifact, Manifest
from edgeexit.engine.backends import Runnable
from edgeexit.engine.layouts.base import BatchResult, one_by_one
from edgeexit.engine.layouts.chain import Chain
from edgeexit.errors import BundleError, DataError
from edgeexit.policy.policies import Policy

Array = NDArray[Any]
_MAGIC = b"7767517"
"""First line of a ``.param`` file."""
_EXTRACTOR = "ncnn extractor"
"""What a stage hands to the next one; no tensor of a network has a space in its name, as ``.param`` separates by it."""


class NcnnBackend:
    """Runs ``.param`` files, with their weights in a ``.bin`` of the same name, in float32 on the CPU."""

    def check(self) -> str | None:
        try:
            import ncnn  # noqa: F401
        except ImportError as e:
            return f"'ncnn' artifacts need ncnn ({e}): pip install ncnn"
        return None

    def version(self) -> str:
        return f"ncnn {metadata.version('ncnn')}"

    def load(self, path: Path, threads: int) -> Sequence[NcnnNetwork]:
        import ncnn

        with path.open("rb") as stream:
            head = stream.read(len(_MAGIC))
        if head != _MAGIC:
            raise BundleError(f"{path}: not an ncnn .param file: expected {_MAGIC!r} at its start, found {head!r}")
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise BundleError(f"{path}: its weights {weights.name} are missing")
        net = ncnn.Net()
        net.opt.num_threads = threads
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(net.opt, name, False)
        if net.load_param(str(path)) != 0 or net.load_model(str(weights)) != 0:
            raise BundleError(f"{path}: ncnn cannot load it or its weights {weights.name}; stderr has ncnn's reason")
        readers = Counter(blob for layer in net.layers() for blob in layer.bottoms)
        if shared := [net.blobs()[i].name for i, count in readers.items() if count > 1]:
            # ncnn frees a blob once a layer has read it; the second reader ends the process.
            raise BundleError(f"{path}: several layers read blob {shared[0]!r}; expected a Split layer")
        return [NcnnNetwork(net)]


class NcnnNetwork:
    """One loaded network: computes all outputs in one call, or one after the other with an extractor."""

    def __init__(self, net: Any) -> None:
        self.net = net
        self.inputs, self.outputs = tuple(net.input_names()), tuple(net.output_names())

    def run(self, values: Sequence[Array]) -> list[Array]:
        extractor = self.start(values)
        return [self.extract(extractor, name) for name in self.outputs]

    def start(self, values: Sequence[Array]) -> Any:
        """An extractor of these inputs, `(1, ...)` float32 each, that has computed nothing yet.

        Raises:
            DataError: another type, or several inputs per call.
        """
        import ncnn

        extractor = self.net.create_extractor()
        for name, value in zip(self.inputs, values, strict=True):
            if value.dtype != np.float32 or value.ndim < 2 or len(value) != 1:
                raise DataError(
                    f"ncnn takes {name!r} as float32[1, ...], one input per call; "
                    f"found {value.dtype.name}{list(value.shape)}"
                )
            # A copy: the caller may fill the array anew before a later stage reads it.
            extractor.input(name, ncnn.Mat(np.ascontiguousarray(value[0])).clone())
        return extractor

    def extract(self, extractor: Any, name: str) -> Array:
        """One output `(1, ...)`; computes the layers that it needs and the extractor has not computed yet.

        Raises:
            DataError: a layer fails.
        """
        code, blob = extractor.extract(name)
        if code != 0:
            raise DataError(f"ncnn cannot compute {name!r} of this input: code {code}")
        return np.array(blob)[None]


class _Stage:
    """A stage of a network: stage 0 begins an extractor, the others continue it."""

    def __init__(self, network: NcnnNetwork, outputs: Sequence[str], first: bool) -> None:
        self.network, self.names, self.first = network, tuple(outputs), first
        self.inputs = network.inputs if first else (_EXTRACTOR,)
        self.outputs = (*self.names, _EXTRACTOR) if first else self.names

    def run(self, values: Sequence[Any]) -> list[Any]:
        extractor = self.network.start(values) if self.first else values[0]
        outputs: list[Any] = [self.network.extract(extractor, name) for name in self.names]
        return [*outputs, extractor] if self.first else outputs


class Resume(Chain):
    """A chain whose stages are of one network, and hand on its extractor instead of cut tensors."""

    def __init__(
        self, manifest: Manifest, artifact: Artifact, models: Sequence[Runnable], clock: Callable[[], float]
    ) -> None:
        (network,) = models
        if not isinstance(network, NcnnNetwork):
            raise BundleError(
                f"artifact {artifact.name}: layout resume takes an ncnn network without ports, "
                f"found a {type(network).__name__}"
            )
        weights = str(PurePosixPath(artifact.models[0].path).with_suffix(".bin"))
        if weights not in [f.path for f in artifact.data]:
            raise BundleError(f"artifact {artifact.name}: {weights} is not in its data, so its sha256 is not checked")
        outputs = [[t.name for t in e.outputs] for e in manifest.exits]
        if lacking := [n for names in outputs for n in names if n not in network.outputs]:
            raise BundleError(f"artifact {artifact.name}: the model file gives no {lacking[0]!r}")
        super().__init__(manifest, artifact, [_Stage(network, n, k == 0) for k, n in enumerate(outputs)], clock)

    def run_batch(self, inputs: Sequence[Array], policy: Policy) -> BatchResult:
        """One by one: an ncnn network has no batch axis."""
        return one_by_one(self, inputs, policy)

    def profile(self, inputs: Sequence[Array], repeats: int) -> tuple[float, ...]:
        """Whole runs, divided into stages: a stage that is repeated on its own would only read its cached blobs."""
        runs = [self.all_exits(inputs).seconds or [] for _ in range(repeats + 1)]
        return tuple(np.median(np.diff(runs[1:], prepend=0.0), axis=0).tolist())


RESUME = Layout("resume", "edgeexit_ncnn:Resume", "runtime", default=False)
