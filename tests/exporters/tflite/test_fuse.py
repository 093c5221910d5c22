"""The fused .tflite answers like the chain it was made from, at the exit that the written rule says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("ai_edge_litert", reason="runs .tflite; in the extra tflite-export")

from ai_edge_litert.interpreter import Interpreter, OpResolverType
from tflite_chains import EXITS, STAGES, answers, chain, decided, fed, fuse_bytes, images, passing_chain

from edgeexit.errors import ModelError, PolicyError
from edgeexit.policy import scores
from edgeexit_exporters.tflite import fuse
from edgeexit_exporters.tflite.file import flatbuffer, signatures
from edgeexit_exporters.tflite.score_ops import BUILDERS

PRECISIONS = ("float", "int8")
Answer = tuple[NDArray[np.float32], int, float]
Run = Callable[..., Answer]


def litert(fused: bytes, kernels: Any = OpResolverType.AUTO) -> Run:
    engine = Interpreter(model_content=fused, num_threads=1, experimental_op_resolver_type=kernels)
    engine.allocate_tensors()
    runner = engine.get_signature_runner("fused")

    def run(thresholds: NDArray[np.float32], **inputs: NDArray[Any]) -> Answer:
        found = runner(**inputs, **({"exit_thresholds": thresholds} if thresholds.size else {}))
        assert (found["exit_index"].dtype, found["exit_index"].shape) == (np.int32, (1,))
        assert (found["exit_score"].dtype, found["exit_score"].shape) == (np.float32, (1,))
        return found["output"].copy(), int(found["exit_index"][0]), float(found["exit_score"][0])

    return run


def micro(fused: bytes) -> Run:
    """TensorFlow Lite Micro, which knows no names: inputs and outputs by number."""
    runtime = pytest.importorskip(
        "tflite_micro.python.tflite_micro.runtime", reason="the microcontroller check needs tflite-micro (pre-release)"
    )
    names = list(signatures.signatures(flatbuffer.read(fused))["fused"].inputs)
    engine = runtime.Interpreter.from_bytes(fused, arena_size=200_000)

    def run(thresholds: NDArray[np.float32], **inputs: NDArray[Any]) -> Answer:
        for i, name in enumerate(names):
            engine.set_input(thresholds if name == fuse.THRESHOLDS else inputs[name], i)
        engine.invoke()
        return engine.get_output(0).copy(), int(engine.get_output(1)[0]), float(engine.get_output(2)[0])

    return run


ENGINES: dict[str, Callable[[bytes], Run]] = {
    "xnnpack": litert,
    "builtin": lambda f: litert(f, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES),
    "reference": lambda f: litert(f, OpResolverType.BUILTIN_REF),
    "micro": micro,
}


def forced(k: int) -> NDArray[np.float32]:
    """Thresholds that answer at exit k."""
    return np.array([np.inf] * k + [-np.inf] * (STAGES - 1 - k), np.float32)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("score", list(BUILDERS))
def test_every_exit_is_bit_equal_to_the_chain(precision: str, score: str) -> None:
    run = litert(fuse_bytes(chain(precision), EXITS, score))
    for image in images(6):
        image = fed(chain(precision), image)
        logits = answers(chain(precision), image)
        for k in (2, 0, 1):
            output, exit_, sure = run(forced(k), image=image)
            assert exit_ == k
            np.testing.assert_array_equal(output, logits[k])
            assert sure == pytest.approx(float(scores.score(logits[k], score)[0]), abs=2e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("score", list(BUILDERS))
def test_random_thresholds_leave_where_the_rule_says(precision: str, score: str) -> None:
    run = litert(fuse_bytes(chain(precision), EXITS, score))
    dice = np.random.default_rng(3)
    taken = [0] * STAGES
    for image in images(40, seed=4):
        image = fed(chain(precision), image)
        logits = answers(chain(precision), image)
        found = np.array([float(scores.score(a, score)[0]) for a in logits[:-1]])
        thresholds = (found + dice.choice([-1, 1], STAGES - 1) * dice.uniform(1e-4, 0.2, STAGES - 1)).astype(np.float32)
        exit_, _ = decided(logits, score, thresholds)
        taken[exit_] += 1
        assert run(thresholds, image=image)[1] == exit_
    assert min(taken) > 3, taken


def test_int8_in_tflite_micro_takes_the_same_exits_within_one_step() -> None:
    whole = chain("int8")
    fused = fuse_bytes(whole, EXITS)
    here, there = litert(fused), micro(fused)
    known = signatures.signatures(flatbuffer.read(whole))
    steps = [known[f"stage_{k}"].outputs[EXITS[k]].scale or 0 for k in range(STAGES)]
    taken = [0] * STAGES
    for i, image in enumerate(images(12, seed=6)):
        image = fed(whole, image)
        logits = answers(whole, image)
        first = float(scores.score(logits[0])[0])
        thresholds = forced(i % STAGES) if i % 2 else np.array([first + (0.05 if i % 4 else -0.05), 0.5], np.float32)
        output, exit_, sure = here(thresholds, image=image)
        output_there, exit_there, sure_there = there(thresholds, image=image)
        assert exit_there == exit_
        np.testing.assert_allclose(output_there, output, atol=1.01 * steps[exit_], rtol=0)
        assert sure_there == pytest.approx(sure, abs=0.02)
        taken[exit_] += 1
    assert min(taken) > 0, taken


def _rows(axes: tuple[int, ...], kind: scores.Kind) -> list[NDArray[np.float32]]:
    """Ordinary rows, ties, and every way to be undefined."""
    dice = np.random.default_rng(1)
    ordinary, tied = dice.normal(size=axes) * 3, dice.normal(size=axes)
    tied[..., 1] = tied[..., 0] = 9
    rows = [ordinary, tied, np.zeros(axes)]
    if kind == "probs":
        sure = np.zeros(axes)
        sure[..., 1] = 1
        broken = sure.copy()
        broken[0, ..., 0] = np.nan
        return [scores.probabilities(r.astype(np.float32)) for r in rows] + [
            a.astype(np.float32) for a in (sure, broken, np.full(axes, np.nan))
        ]
    for bad in (np.nan, np.inf, -np.inf):
        one = dice.normal(size=axes)
        one[..., 1] = bad
        rows += [one, np.full(axes, bad)]
    return [r.astype(np.float32) for r in rows]


@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.parametrize("score", list(BUILDERS))
@pytest.mark.parametrize("kind", ["logits", "probs"])
@pytest.mark.parametrize("axes", [(1, 5), (1, 3, 5), (1, 2)])
def test_scores_are_those_of_the_library_on_every_kernel_set_and_nan_goes_on(
    engine: str, score: str, kind: scores.Kind, axes: tuple[int, ...]
) -> None:
    run = ENGINES[engine](fuse_bytes(passing_chain(axes), ["y0", "y1"], score, kinds=[kind] * 2, temperatures=[2, 0.5]))
    for row in _rows(axes, kind):
        expected = [float(scores.score(row, score, kind=kind, temperature=t)[0]) for t in (2, 0.5)]
        output, exit_, sure = run(np.array([-np.inf], np.float32), x0=row, x1=row)
        assert exit_ == (1 if np.isnan(expected[0]) else 0), row
        assert sure == pytest.approx(expected[exit_], abs=3e-6, nan_ok=True), row
        np.testing.assert_array_equal(output, row)
        if not np.isnan(expected[0]):
            at = np.array([sure], np.float32)  # the score itself stops, one step above it does not
            assert run(at, x0=row, x1=row)[1] == 0
            assert run(np.nextafter(at, np.float32(2)), x0=row, x1=row)[1] == 1


@pytest.mark.parametrize("engine", list(ENGINES))
def test_one_exit_has_no_thresholds_and_says_0(engine: str) -> None:
    fused = fuse_bytes(passing_chain((1, 4), count=1), ["y0"])
    assert list(signatures.signatures(flatbuffer.read(fused))["fused"].inputs) == ["x0"]
    row = np.array([[1, 2, 3, 4]], np.float32)
    output, exit_, sure = ENGINES[engine](fused)(np.zeros(0, np.float32), x0=row)
    np.testing.assert_array_equal(output, row)
    assert (exit_, sure) == (0, pytest.approx(float(scores.score(row)[0]), abs=1e-6))


@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_integer_answers_are_dequantized(engine: str, dtype: str, kind: scores.Kind) -> None:
    for score in BUILDERS:
        run = ENGINES[engine](fuse_bytes(passing_chain((1, 4), dtype=dtype), ["y0", "y1"], score, kinds=[kind] * 2))
        row = np.array([[3, 9, 4, 7]], dtype)
        real = (row.astype(np.float32) - (0 if dtype == "int16" else 3)) * np.float32(0.25)
        output, exit_, sure = run(np.array([-np.inf], np.float32), x0=row, x1=row)
        np.testing.assert_array_equal(output, real)
        assert (exit_, sure) == (0, pytest.approx(float(scores.score(real, score, kind=kind)[0]), abs=3e-6))


@pytest.mark.parametrize("engine", list(ENGINES))
def test_an_answer_that_the_next_stage_reads_is_exit_and_cut(engine: str) -> None:
    run = ENGINES[engine](fuse_bytes(passing_chain((1, 4), count=3, chained=True), ["y0", "y1", "y2"]))
    row = np.array([[1, 2, 3, 4]], np.float32)
    for k in range(3):
        output, exit_, _ = run(forced(k), x0=row)
        np.testing.assert_array_equal(output, row)
        assert exit_ == k


@pytest.mark.parametrize("precision", PRECISIONS)
def test_temperatures_are_rewritten_in_place(precision: str) -> None:
    fused = fuse_bytes(chain(precision), EXITS)
    hot = [0.5, 3.0, 1.7]
    changed = fuse.with_temperatures(fused, hot)
    assert len(changed) == len(fused) and changed != fused
    assert sum(a != b for a, b in zip(changed, fused, strict=True)) <= 4 * STAGES
    assert fuse.with_temperatures(changed, [1, 1, 1]) == fused
    assert changed == fuse_bytes(chain(precision), EXITS, temperatures=hot)
    run, image = litert(changed), fed(chain(precision), images(1)[0])
    for k, logits in enumerate(answers(chain(precision), image)):
        output, _, sure = run(forced(k), image=image)
        np.testing.assert_array_equal(output, logits)
        assert sure == pytest.approx(float(scores.score(logits, temperature=hot[k])[0]), abs=2e-6)


def test_the_same_chain_gives_the_same_bytes() -> None:
    assert fuse_bytes(chain("int8"), EXITS, "margin") == fuse_bytes(chain("int8"), EXITS, "margin")


def test_int8_stays_int8_across_the_decisions() -> None:
    model = flatbuffer.read(fuse_bytes(chain("int8"), EXITS))
    counts = [signatures.op_counts(model, i) for i in range(len(model.subgraphs))]
    assert sum(c.get("DEQUANTIZE", 0) for c in counts) == STAGES  # one per exit's answer and none at the cuts
    assert sum(c.get("QUANTIZE", 0) for c in counts) == 0
    assert sum(c.get("IF", 0) for c in counts) == STAGES - 1


# --- what cannot be fused


def _with_scale(k: int) -> bytes:
    model = flatbuffer.read(chain("int8"))
    stage = signatures.signatures(model)[f"stage_{k}"]
    cut = model.subgraphs[stage.subgraph].tensors[stage.inputs["cut_0"].index]
    cut.quantization.scale = np.asarray(cut.quantization.scale) * np.float32(1.1)
    return flatbuffer.write(model)


def test_cuts_of_two_scales_are_refused() -> None:
    with pytest.raises(ModelError, match=r"stage_1 reads 'cut_0' as int8 .* scale .*made as int8 .* scale"):
        fuse_bytes(_with_scale(1), EXITS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exits": ["y0"]}, "has the signatures stage_0; this file has stage_0, stage_1"),
        ({"exits": []}, "chain of 0 exits"),
        ({"exits": ["y0", "z"]}, "stage_1 has no output 'z'; it has y1"),
        ({"exits": ["y0", "y1"], "score": "learned"}, "output of the network"),
        ({"exits": ["y0", "y1"], "score": "ensemble"}, "output of the network"),
        ({"exits": ["y0", "y1"], "temperatures": [1, 0]}, "above 0"),
        ({"exits": ["y0", "y1"], "temperatures": [1]}, "1 temperatures for 2 exits"),
        ({"exits": ["y0", "y1"], "kinds": ["logits"]}, "1 kinds for 2 exits"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        fuse_bytes(passing_chain((1, 4)), **arguments)


def test_exits_with_more_than_an_answer_are_refused() -> None:
    with pytest.raises(ModelError, match=r"exit 0 gives 'uncertainty' besides its answer 'y0'.*chain"):
        fuse_bytes(passing_chain((1, 4), extra="uncertainty"), ["y0", "y1"])


def test_an_unknown_score_and_one_class_are_refused() -> None:
    with pytest.raises(PolicyError, match="unknown score 'best'"):
        fuse_bytes(passing_chain((1, 4)), ["y0", "y1"], "best")
    with pytest.raises(ModelError, match="at least 2 classes"):
        fuse_bytes(passing_chain((1, 1)), ["y0", "y1"])
    with pytest.raises(ModelError, match="one input a call"):
        fuse_bytes(passing_chain((2, 4)), ["y0", "y1"])


def test_many_exits_nest_up_to_the_limit_of_the_reader() -> None:
    names = [f"y{k}" for k in range(65)]
    run = litert(fuse_bytes(passing_chain((1, 3), count=64), names[:64]))
    row = np.array([[0, 1, 2]], np.float32)
    thresholds = np.array([np.inf] * 40 + [-np.inf] * 23, np.float32)
    assert run(thresholds, **{f"x{k}": row for k in range(64)})[1] == 40
    with pytest.raises(ModelError, match="65 exits"):
        fuse_bytes(passing_chain((1, 3), count=65), names)


def test_temperatures_of_another_file_are_refused() -> None:
    fused = fuse_bytes(chain("int8"), EXITS)
    with pytest.raises(ModelError, match="'temperature_2', but 2 temperatures"):
        fuse.with_temperatures(fused, [1, 1])
    with pytest.raises(ModelError, match="lacks 'temperature_3'"):
        fuse.with_temperatures(fused, [1, 1, 1, 1])
    with pytest.raises(ModelError, match="above 0"):
        fuse.with_temperatures(fused, [1, float("nan"), 1])
    with pytest.raises(ModelError, match="lacks 'temperature_0'"):
        fuse.with_temperatures(chain("int8"), [1])
