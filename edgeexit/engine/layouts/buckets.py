"""Files of fixed sizes for a free axis: a chain for each of a few sizes; the smallest that holds an input runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgeexit.bundle.manifest import Manifest
from edgeexit.engine.layouts.base import AllExitOutputs, Array, BatchResult, RunResult, one_by_one
from edgeexit.engine.layouts.chain import Chain
from edgeexit.engine.stage_times import StageTimes
from edgeexit.errors import DataError
from edgeexit.policy.policies import Policy


class Buckets:
    """Pads an input with zeros up to the next size; the network's lengths say what of the answer is valid.

    Args:
        manifest: of a network whose exits have lengths.
        axis: the free axis.
        chains: size along it -> the driver that takes it, sizes rising.
    """

    def __init__(self, manifest: Manifest, axis: str, chains: dict[int, Chain]) -> None:
        self.axis, self.chains = axis, chains
        self.places = [(t.name, t.shape.index(axis) if axis in t.shape else None) for t in manifest.feeds]
        self.kinds = next(iter(chains.values())).kinds
        self.times = StageTimes()
        for chain in chains.values():
            chain.times = self.times

    def fits(self, policy: Policy) -> None:
        next(iter(self.chains.values())).fits(policy)

    def padded(self, inputs: Sequence[Array]) -> tuple[Chain, list[Array]]:
        """The driver for these inputs, and the inputs as it takes them.

        Raises:
            DataError: inputs that are longer than the largest size, or differ in size.
        """
        sizes = {a.shape[k] for a, (_, k) in zip(inputs, self.places, strict=True) if k is not None}
        if len(sizes) != 1:
            raise DataError(f"the inputs have {sorted(sizes)} along axis {self.axis!r}; expected one size for all")
        (size,) = sizes
        largest = max(self.chains)
        if size > largest:
            names = ", ".join(n for n, k in self.places if k is not None)
            raise DataError(
                f"input {names} has {size} along axis {self.axis!r}, and the largest size in these files is {largest}: "
                "cut it, run an ONNX artifact, or export with a larger --buckets"
            )
        bucket = min(n for n in self.chains if n >= size)
        driver = self.chains[bucket]
        if bucket == size:
            return driver, list(inputs)
        return driver, [
            a if k is None else np.pad(a, [(0, bucket - size if i == k else 0) for i in range(a.ndim)])
            for a, (_, k) in zip(inputs, self.places, strict=True)
        ]

    def run(self, inputs: Sequence[Array], policy: Policy, left: Callable[[], float] | None) -> RunResult:
        driver, padded = self.padded(inputs)
        return driver.run(padded, policy, left)

    def run_batch(self, inputs: Sequence[Array], policy: Policy) -> BatchResult:
        return one_by_one(self, inputs, policy)

    def all_exits(self, inputs: Sequence[Array]) -> AllExitOutputs:
        driver, padded = self.padded(inputs)
        return driver.all_exits(padded)

    def profile(self, inputs: Sequence[Array], repeats: int) -> tuple[float, ...]:
        driver, padded = self.padded(inputs)
        return driver.profile(padded, repeats)
