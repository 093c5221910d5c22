"""Quantized files: integers from end to end, one scale on both sides of every cut, honest counts, checked data."""

from __future__ import annotations

from importlib.util import find_spec
from typing import ClassVar

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
# not importorskip: importing them here would cost every run seconds
if find_spec("litert_torch") is None or find_spec("ai_edge_quantizer") is None:
    pytest.skip("the TFLite export tools are not installed", allow_module_level=True)

import tflite_nets as nets
import torch

from edgeexit.errors import DataError, ModelError
from edgeexit_exporters.tflite import quantize
from edgeexit_exporters.tflite.calibration import FloatChain, linked
from edgeexit_exporters.tflite.convert import convert_chain
from edgeexit_exporters.tflite.file.tflite_file import TfliteFile
from edgeexit_exporters.tflite.from_torch.stages import divide
from edgeexit_exporters.tflite.quantize import quantize_chain, quantize_prefixes
from edgeexit_exporters.tflite.ranges import estimate

ROWS = {"image": nets.pictures(64)}
SMALL = {"x": np.random.default_rng(0).standard_normal((48, 6)).astype(np.float32)}


def scales(file: TfliteFile) -> dict[str, dict[str, quantize.Scale | None]]:
    """Per signature, name of an input or output -> its scale; None = it is not quantized."""
    return {s.name: quantize._scales({**s.inputs, **s.outputs}) for s in file.signatures.values()}


def joined(file: TfliteFile) -> list[tuple[str, str]]:
    """Cut tensors and the signatures that read them; asserts that both sides have one scale."""
    found = scales(file)
    earlier: dict[str, object] = {}
    readers = []
    for s in linked([file]):
        for name in s.inputs:
            if name in earlier:
                assert earlier[name] is not None and found[s.name][name] == earlier[name], (s.name, name)
                readers.append((s.name, name))
        earlier.update({n: found[s.name][n] for n in s.outputs})
    return readers


@pytest.mark.parametrize(("precision", "error"), [("int8", 0.01), ("int16x8", 0.004)])
def test_integers_from_end_to_end(precision: str, error: float) -> None:
    _, _, chain = nets.converted(nets.TwoHeads)
    (quantized,) = quantize_chain([chain], ROWS, precision)
    assert [(c.name, c.quantized == c.total > 10, c.floats) for c in quantized.counts] == [
        (f"stage_{k}", True, ()) for k in range(3)
    ]
    assert joined(quantized.file) == [("stage_1", "cut_relu"), ("stage_2", "cut_relu"), ("stage_2", "cut_tanh")]
    assert all(s is not None for own in scales(quantized.file).values() for s in own.values())
    x = {"image": nets.pictures(16, seed=1)}
    whole, chained = nets.Chain(chain)(x), nets.Chain(quantized.file)(x)
    for name, array in chained.items():
        assert np.abs(array - whole[name]).max() < (error if name.startswith("exit") else 8 * error), name
    (again,) = quantize_chain([chain], ROWS, precision)
    assert again == quantized, "the same bytes"


def test_a_tanh_whose_scale_is_fixed_is_pinned_in_its_readers() -> None:
    """The quantizer alone would read `cut_tanh` with the range seen, and write it with 1/128."""
    _, _, chain = nets.converted(nets.TwoHeads)
    (quantized,) = quantize_chain([chain], ROWS)
    assert scales(quantized.file)["stage_1"]["cut_tanh"] == scales(quantized.file)["stage_2"]["cut_tanh"]
    found = scales(quantized.file)["stage_2"]["cut_tanh"]
    assert found is not None and (found.scale, found.zero_point) == (1 / 128, 0)
    seen = np.abs(FloatChain([chain]).outputs(ROWS)["cut_tanh"]).max()
    assert seen < 0.9, "the test says nothing when the range seen is the fixed one"


@pytest.mark.slow
def test_chain_files_and_prefixes_give_the_same_integers() -> None:
    _, _, chain = nets.converted(nets.Pools)
    separate, alone = nets.separate(nets.Pools)
    rows, x = {"image": nets.pictures(40, shape=(8, 8, 3))}, {"image": nets.pictures(24, 5, (8, 8, 3))}
    (quantized,) = quantize_chain([chain], rows)
    assert joined(quantized.file) == [("stage_1", "cut_max_pool2d")]
    files = quantize_chain(separate, rows)
    prefixes = quantize_prefixes(alone, rows)
    expected = nets.Chain(quantized.file)(x, raw=True)
    assert expected["exit1"].dtype == np.int8
    for contents in (files, prefixes):
        separate = nets.Chain(*(q.file for q in contents))(x, raw=True)
        for name in ("exit0", "exit1"):
            np.testing.assert_array_equal(separate[name], expected[name])
    assert [c.total for q in files for c in q.counts] == [c.total for c in quantized.counts]


def test_one_number_of_a_file_is_written_in_place() -> None:
    """What `quantize` does where two scales differ by rounding only."""
    _, _, chain = nets.converted(nets.Pools)
    (quantized,) = quantize_chain([chain], {"image": nets.pictures(40, shape=(8, 8, 3))})
    (reader,) = [s for s in linked([quantized.file]) if s.name == "stage_1"]
    changed = quantize._write_scale(quantized.file, reader, "cut_max_pool2d", 0.25)
    before, after = scales(quantized.file), scales(changed)
    assert after["stage_1"].pop("cut_max_pool2d").scale == 0.25  # type: ignore[union-attr]
    before["stage_1"].pop("cut_max_pool2d")
    assert after == before and len(changed.data) == len(quantized.file.data)


def test_scales_that_stay_unequal_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, chain = nets.converted(nets.Pools)
    monkeypatch.setattr(quantize, "_range", lambda scale, precision: (-9.0, 9.0))  # as if pinning had no effect
    with pytest.raises(ModelError, match=r"stage_1: cut tensor 'cut_max_pool2d' is read with scale .* made with scale"):
        quantize_chain([chain], {"image": nets.pictures(40, shape=(8, 8, 3))})


@pytest.mark.parametrize("precision", ["int8-dynamic", "weight-only"])
def test_weights_only(precision: str) -> None:
    _, _, chain = nets.converted(nets.Pools)
    (quantized,) = quantize_chain([chain], None, precision)
    assert [(c.quantized, c.total) for c in quantized.counts] == [(2, 4), (2, 5)]
    assert not any(s for own in scales(quantized.file).values() for s in own.values())
    x = {"image": nets.pictures(8, shape=(8, 8, 3))}
    whole, chained = nets.Chain(chain)(x), nets.Chain(quantized.file)(x)
    assert 0 < np.abs(chained["exit1"] - whole["exit1"]).max() < 0.05


def test_an_operation_left_in_float_is_an_error_that_names_it() -> None:
    _, _, chain = nets.converted(nets.Absolute)
    with pytest.raises(ModelError, match=r"stage_1: 1 of 2 operations would stay in float \(ABS.*--keep-float ABS\)"):
        quantize_chain([chain], SMALL)
    (quantized,) = quantize_chain([chain], SMALL, allow_float=["ABS"])
    assert [(c.quantized, c.total) for c in quantized.counts] == [(3, 3), (1, 2)]
    assert [op for op, _ in quantized.counts[1].floats] == ["ABS"]


@pytest.mark.parametrize(("ranges", "outliers"), [("percentile", 1), ("mse", 0)])
def test_ranges_that_clip(ranges: str, outliers: int) -> None:
    _, _, chain = nets.converted(nets.Pools)
    rows = nets.pictures(200, shape=(8, 8, 3))
    rows[:outliers, 0, 0, 0] = 40.0
    wide, narrow = (quantize_chain([chain], {"image": rows}, ranges=r)[0] for r in ("minmax", ranges))
    steps = [scales(q.file)["stage_0"]["image"].scale for q in (wide, narrow)]  # type: ignore[union-attr]
    if outliers:
        assert steps[0] > 40 / 256 and steps[1] < 12 / 256
    else:
        assert 0.5 * steps[0] < steps[1] < 0.95 * steps[0]
    joined(narrow.file)
    x = {"image": nets.pictures(32, 9, (8, 8, 3))}
    whole = nets.Chain(chain)(x)["exit0"]
    errors = [np.abs(nets.Chain(q.file)(x)["exit0"] - whole).mean() for q in (wide, narrow)]
    assert not outliers or errors[1] < 0.7 * errors[0]


def test_ranges_are_true_extremes_over_all_parts() -> None:
    parts = [("a", np.array([1.0, 2.0])), ("a", np.array([-3.0, 0.5])), ("b", np.zeros(3)), ("a", np.array([0.0]))]
    assert estimate(lambda: parts, "minmax", 256) == {"a": (-3.0, 2.0), "b": (0.0, 0.0)}
    assert estimate(lambda: parts, "mse", 256)["b"] == (0.0, 0.0)
    with pytest.raises(DataError, match="unknown range estimate 'ema'"):
        estimate(lambda: parts, "ema", 256)
    with pytest.raises(DataError, match="'a' holds values that are not finite"):
        estimate(lambda: [("a", np.array([np.inf]))], "minmax", 256)


def test_the_mse_range_is_the_best_of_a_fine_search() -> None:
    x = np.random.default_rng(0).laplace(size=100_000)
    low, high = estimate(lambda: [("x", x)], "mse", 256)["x"]

    def error(a: float, b: float) -> float:
        step = (b - a) / 255
        return float(((np.clip(np.round((x - a) / step), 0, 255) * step + a - x) ** 2).mean())

    best = min(error(x.min() * s, x.max() * t) for s in np.linspace(0.2, 1, 15) for t in np.linspace(0.2, 1, 15))
    assert error(low, high) < 1.05 * best < error(x.min(), x.max())


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({}, "no array for input 'image'"),
        ({"image": nets.pictures(64).transpose(0, 3, 1, 2)}, r"\(64, 3, 12, 10\), expected \(n, 12, 10, 3\) .*last"),
        ({"image": nets.pictures(64)[..., :2]}, r"shape \(64, 12, 10, 2\), expected"),
        ({"image": nets.pictures(64)[0]}, "has shape"),
        ({"image": nets.pictures(64).astype(np.complex64)}, "is complex64, expected"),
        ({"image": nets.pictures(64).astype(str)}, "expected"),
        ({"image": nets.pictures(31)}, "at least 32 rows, found 31"),
        ({"image": nets.pictures(0)}, "at least 32 rows, found 0"),
        ({"image": np.full((64, 12, 10, 3), 3.0)}, "every value is the same"),
        ({"image": np.repeat(nets.pictures(1), 64, 0)}, "every row is the same"),
        ({"image": np.where(np.arange(64)[:, None, None, None] % 32, nets.pictures(64), np.nan)}, "2 of 64 rows"),
        (None, "needs calibration data: at least 32"),
    ],
)  # fmt: skip
def test_calibration_data_that_does_not_fit(rows: dict[str, np.ndarray] | None, words: str) -> None:
    _, _, chain = nets.converted(nets.TwoHeads)
    with pytest.raises(DataError, match=words):
        quantize_chain([chain], rows)


def test_unknown_names() -> None:
    _, _, chain = nets.converted(nets.TwoHeads)
    with pytest.raises(DataError, match="unknown precision 'int4'; known: int8, int16x8, int8-dynamic, weight-only"):
        quantize_chain([chain], ROWS, "int4")
    with pytest.raises(DataError, match="unknown range estimate 'ema'"):
        quantize_chain([chain], ROWS, ranges="ema")


@pytest.mark.slow
def test_trecx_resnet8_in_int8_keeps_its_accuracy() -> None:
    from edgeexit_exporters.tflite.convert import convert_chain
    from edgeexit_exporters.tflite.from_torch.stages import divide
    from recipes.trecx import load_trecx
    from shared_data import cifar10_test, trecx_weights

    pictures, labels = cifar10_test()
    x = np.ascontiguousarray(pictures.astype(np.float32).transpose(0, 2, 3, 1))
    found = divide(load_trecx(trecx_weights("resnet8")))
    chain = convert_chain(found)
    (quantized,) = quantize_chain([chain], {"image": x[9000:9200]})
    assert [(c.quantized, c.total) for c in quantized.counts] == [(7, 7), (7, 7), (6, 6)]
    assert len(joined(quantized.file)) == 2
    rows = {"image": x[:600]}
    whole, small = nets.Chain(chain)(rows), nets.Chain(quantized.file)(rows)
    for k in range(3):
        a, b = whole[f"exit{k}"].argmax(1), small[f"exit{k}"].argmax(1)
        assert (a == b).mean() > 0.93
        assert abs((a == labels[:600]).mean() - (b == labels[:600]).mean()) < 0.02
    assert len(quantized.file.data) < len(chain.data) / 3


def test_weights_that_the_quantizer_puts_behind_the_file_stand_in_it() -> None:
    """From 256 KiB of weights up it writes them where `read`, and older engines, do not look."""

    class Wide(torch.nn.Module):
        input_spec: ClassVar = {"x": ("float32", ("batch", 6))}

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = torch.nn.Linear(6, 512), torch.nn.Linear(512, 600)
            self.early, self.late = torch.nn.Linear(512, 4), torch.nn.Linear(600, 4)

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            h = torch.relu(self.first(x))
            return [self.early(h), self.late(torch.relu(self.second(h)))]

    chain = convert_chain(divide(Wide()))
    (quantized,) = quantize_chain([chain], None, "int8-dynamic")
    assert 300_000 < len(quantized.file.data) < len(chain.data) / 3
    assert all(b.offset <= 1 for b in quantized.file.model.buffers)
    x = {"x": SMALL["x"][:1]}
    whole, chained = nets.Chain(chain)(x), nets.Chain(quantized.file)(x)
    for name, array in chained.items():
        np.testing.assert_allclose(array, whole[name], atol=0.02)
