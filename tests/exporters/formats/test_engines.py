"""A bundle's int8 files on other kernels than LiteRT's best: without XNNPACK, and on a microcontroller's engine."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="torch is not installed")
# not importorskip: importing them here would cost every run seconds
if find_spec("litert_torch") is None or find_spec("ai_edge_quantizer") is None:
    pytest.skip("the TFLite export tools are not installed", allow_module_level=True)
from format_cases import exported, marked, rows

import edgeexit
from edgeexit import Threshold
from edgeexit.engine.layouts.ports import into
from edgeexit_exporters.tflite import tools
from edgeexit_exporters.tflite.file import flatbuffer, signatures
from edgeexit_exporters.tflite.fuse import THRESHOLDS

N = 40
Run = Callable[[NDArray[Any], NDArray[np.float32]], tuple[NDArray[Any], int, float]]
"""One input as the file takes it, thresholds -> output, exit, score."""
STEPS = 2
"""Integer steps that an output may differ between kernel sets; measured: 1."""


def file(case: str, layout: str = "fused") -> bytes:
    bundle = exported(case).bundles["tflite"]
    (spec,) = bundle.manifest.artifact(f"tflite-{layout}-int8").models
    return bundle.file(spec).read_bytes()


def litert(content: bytes, kernels: str) -> Run:
    lib = tools.interpreter()
    with tools.quiet():
        interpreter = lib.Interpreter(
            model_content=content, num_threads=1, experimental_op_resolver_type=lib.OpResolverType[kernels]
        )
        interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner("fused")
    (name,) = [n for n in runner.get_input_details() if n != THRESHOLDS]

    def run(x: NDArray[Any], thresholds: NDArray[np.float32]) -> tuple[NDArray[Any], int, float]:
        found = runner(**{name: x, THRESHOLDS: thresholds})
        return found["output"].copy(), int(found["exit_index"].item()), float(found["exit_score"].item())

    return run


def micro(content: bytes, arena: int) -> tuple[Any, Run]:
    """TensorFlow Lite Micro, which knows no names: inputs and outputs by number."""
    runtime = pytest.importorskip(
        "tflite_micro.python.tflite_micro.runtime", reason="the microcontroller check needs tflite-micro (pre-release)"
    )
    (signature,) = signatures.signatures(flatbuffer.read(content)).values()
    into_, out_of = list(signature.inputs), list(signature.outputs)
    engine = runtime.Interpreter.from_bytes(content, arena_size=arena)

    def run(x: NDArray[Any], thresholds: NDArray[np.float32]) -> tuple[NDArray[Any], int, float]:
        for i, name in enumerate(into_):
            engine.set_input(thresholds if name == THRESHOLDS else x, i)
        engine.invoke()
        output, index, score = (engine.get_output(out_of.index(n)) for n in ("output", "exit_index", "exit_score"))
        return output.copy(), int(index.item()), float(score.item())

    return engine, run


def steps(case: str) -> float:
    """One integer step of the coarsest exit."""
    ports = exported(case).bundles["tflite"].manifest.artifact("tflite-chain-int8").ports
    return max(p.scale or 0.0 for p in ports if p.name.startswith("exit"))


def moved(case: str) -> float:
    """What kernels may move a score by: logits that differ by d move the largest probability by d / 2 at most."""
    return STEPS * steps(case) / 2


def between(case: str) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """N inputs as the int8 file takes them, and thresholds that split them, farther from every score than `moved`."""
    engine = edgeexit.load(exported(case).bundles["tflite"], artifact="tflite-chain-int8", warmup=0)
    x = rows(case, 4 * N, seed=21)
    scores = engine.record(x).scores("maxprob")[:-1]
    thresholds = np.quantile(scores, 0.6, axis=1)
    safe = (np.abs(scores - thresholds[:, None]) > moved(case)).all(0)
    (port,) = [p for p in engine.artifact.ports if p.name == engine.bundle.manifest.inputs[0].name]
    return into(port)(x[safe][:N]), np.array(Threshold(tuple(thresholds.tolist())).compared, np.float32)


def agree(case: str, one: Run, other: Run) -> list[int]:
    """The same exits and answers within `STEPS`; the exits."""
    x, thresholds = between(case)
    assert len(x) == N
    taken = []
    for row in x:
        (a, i, s), (b, j, t) = one(row[None], thresholds), other(row[None], thresholds)
        assert i == j
        assert abs(s - t) <= moved(case) + 1e-6
        assert np.abs(a - b).max() <= STEPS * steps(case) * 1.001
        taken.append(i)
    return taken


@pytest.mark.parametrize("kernels", ["BUILTIN_WITHOUT_DEFAULT_DELEGATES", "BUILTIN_REF"])
@pytest.mark.parametrize("case", marked(["residual", "separable", "vectors"]))
def test_kernel_sets_agree_within_steps(case: str, kernels: str) -> None:
    assert len(set(agree(case, litert(file(case), "AUTO"), litert(file(case), kernels)))) > 1


@pytest.mark.parametrize("case", marked(["residual", "separable"]))
def test_the_fused_file_runs_in_tflite_micro(case: str, capfd: pytest.CaptureFixture[str]) -> None:
    """At the same exits for 40 inputs, within the memory that the bundle states."""
    (stated,) = exported(case).bundles["tflite"].manifest.provenance["tflite_memory"]["tflite-fused-int8"]
    engine, run = micro(file(case), stated["arena"] + stated["tables"])
    taken = agree(case, litert(file(case), "AUTO"), run)
    assert len(taken) == N and len(set(taken)) > 1
    capfd.readouterr()
    engine.print_allocations()
    head = re.search(r"Arena allocation head (\d+) bytes", capfd.readouterr().err)
    assert head is not None and stated["arena"] >= int(head[1]) > 0
