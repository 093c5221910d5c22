"""`edgeexit augment`, from a stranger's network to a calibrated bundle, or to the reason why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx_models import Net, save

import edgeexit
from edgeexit.bench.verify import verify
from edgeexit.calibrate.guarantees.risk import Guarantee
from edgeexit.errors import BundleError, DataError, Infeasible, ModelError
from edgeexit_exporters.augment.flow import augment, places_of
from edgeexit_exporters.augment.result import Augmented
from edgeexit_exporters.augment.split import split_rows
from edgeexit_exporters.exporting import open_source
from edgeexit_exporters.onnx import measure
from edgeexit_exporters.spec import ExportSpec
from edgeexit_models.data.optdigits import load_optdigits

ROOT = Path(__file__).parents[3]
STRANGER = ROOT / "models" / "bundles" / "digits.edgeexit" / "artifacts" / "onnx-prefix-fp32" / "exit_2.onnx"
NAME = "image"


def rows(n: int = 1500) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    data = load_optdigits()
    return {"x": data.x_train[:n]}, data.y_train[:n]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Augmented:
    x, y = rows()
    return augment(STRANGER, x, y, tmp_path_factory.mktemp("flow") / "a.edgeexit", drop=0.03, candidates=4)


def test_a_stranger_s_network_is_made_adaptive(found: Augmented) -> None:
    assert found.bundle is not None and found.verdict is not None and found.point is not None
    assert found.verdict.worth and found.text.startswith("Worth it: ") and found.verdict.cost < 0.5
    assert found.measure == "accuracy" and found.rows == {"fit": 900, "choose": 300, "certify": 300}
    assert sum(c.used for c in found.candidates) == len(found.bundle.manifest.exits) - 1 == len(found.choice.best.exits)
    assert [c.cost for c in found.candidates] == sorted(c.cost for c in found.candidates)
    assert all(v.passed for v in verify(found.bundle))
    test = load_optdigits()
    engine = edgeexit.load(found.bundle, policy="augmented")
    decisions = [engine.run(p) for p in test.x_test[:400]]
    assert np.mean([d.label for d in decisions] == test.y_test[:400]) > 0.93
    assert np.mean([d.macs for d in decisions if d.macs is not None]) < 0.5 * found.total_macs


def test_the_network_itself_answers_as_before(found: Augmented) -> None:
    """Forced to the last exit: to the bit where onnxruntime fuses alike, and never further off than rounding."""
    assert found.bundle is not None
    x = load_optdigits().x_test[:20]
    session = measure.session(str(STRANGER))
    last = len(found.bundle.manifest.exits) - 1
    for artifact in found.bundle.manifest.artifacts:
        assert artifact.check is not None and artifact.check.max_error[-1] <= 1e-6
        if artifact.layout == "all":
            continue
        engine = edgeexit.load(found.bundle, artifact=artifact.name, warmup=0)
        engine.policy = edgeexit.fixed_exit(last, last + 1, artifact.score or "maxprob")
        for row in x:
            expected = session.run(None, {session.get_inputs()[0].name: row[None]})[0][0]
            if artifact.layout == "prefix":
                assert np.array_equal(engine.run(row).output, expected)
            np.testing.assert_allclose(engine.run(row).output, expected, rtol=1e-5, atol=1e-5)


def test_without_labels_agreement_counts(tmp_path: Path) -> None:
    x, _ = rows()
    found = augment(STRANGER, x, None, tmp_path / "a.edgeexit", drop=0.05, candidates=3)
    assert found.measure == "agreement" and found.choice.full == 1.0
    assert found.verdict is not None and found.verdict.untouched == 1.0 and "agreement" in found.text


def test_a_promise_is_certified_on_rows_of_its_own(tmp_path: Path) -> None:
    x, y = rows()
    asked = Guarantee.parse("accuracy_gap<=0.05@0.9")
    found = augment(STRANGER, x, y, tmp_path / "a.edgeexit", drop=0.03, candidates=3, guarantee=asked)
    assert found.point is not None and found.point.promise is not None and found.point.promise["n"] == 300


def test_a_refused_promise_leaves_nothing_behind(tmp_path: Path) -> None:
    x, y = rows()
    asked = Guarantee.parse("accuracy_gap<=0.0001@0.99")
    with pytest.raises(Infeasible, match="needs at least 46050 calibration rows"):
        augment(STRANGER, x, y, tmp_path / "a.edgeexit", drop=0.03, candidates=3, guarantee=asked)
    assert list(tmp_path.iterdir()) == []


def test_torch_and_onnx_go_the_same_way(tmp_path: Path) -> None:
    class Single(torch.nn.Module):
        input_spec = {"x": ("float32", ("batch", 1, 8, 8))}  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = torch.nn.Sequential(
                torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, padding=1),
                torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(512, 10),
            )  # fmt: skip

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x)  # type: ignore[no-any-return]

    module = Single().eval()
    torch.onnx.export(module, (torch.zeros(2, 1, 8, 8),), tmp_path / "m.onnx", dynamo=True, verbose=False,
                      input_names=["x"], dynamic_shapes=({0: torch.export.Dim("batch")},))  # fmt: skip
    places = [places_of(open_source(s, single=True)) for s in (module, tmp_path / "m.onnx")]
    assert [p.macs for p in places[0][0]] == [p.macs for p in places[1][0]] and places[0][1] == places[1][1]
    x, _ = rows(600)
    costs = []
    for k, source in enumerate((module, tmp_path / "m.onnx")):
        found = augment(source, x, None, tmp_path / f"{k}.edgeexit", drop=0.4)
        costs.append((found.choice.best.exits, round(found.choice.best.cost, 6), found.verdict is None))
    assert costs[0] == costs[1]


def test_not_worth_it_is_a_result_and_writes_nothing(tmp_path: Path) -> None:
    x, _ = rows(600)
    rng = np.random.default_rng(0)
    noise = {"x": rng.standard_normal(x["x"].shape).astype(np.float32)}
    found = augment(STRANGER, noise, None, tmp_path / "a.edgeexit", drop=0.0, candidates=2)
    assert found.text.startswith("Not worth it")
    if found.verdict is None:
        assert found.bundle is None and not (tmp_path / "a.edgeexit").exists() and "heads are too weak" in found.text


REFUSED: dict[str, tuple[Any, str]] = {
    "few rows": (lambda x, y: (x[:40], y[:40]), "rows"),
    "class missing": (lambda x, y: (x[y != 3], y[y != 3]), "class"),
    "label out of range": (lambda x, y: (x, y + 5), "labels reach from 5 to 14"),
    "labels of another length": (lambda x, y: (x, y[:-1]), "1499 labels for 1500 rows"),
    "shape": (lambda x, y: (x[:, :, :7], y), "shape"),
    "NaN": (lambda x, y: (np.where(np.arange(len(x))[:, None, None, None] == 7, np.float32(np.nan), x), y), "NaN"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    change, words = REFUSED[case]
    x, y = rows()
    x2, y2 = change(x["x"], y)
    with pytest.raises((DataError, ModelError), match=words):
        augment(STRANGER, {"x": x2}, y2, tmp_path / "a.edgeexit", candidates=2)
    assert not (tmp_path / "a.edgeexit").exists()


@pytest.mark.parametrize(("layouts", "words"), [(("fussed",), "unknown layout 'fussed'"), ((), "no layout asked for")])
def test_layouts_are_refused_before_the_work(tmp_path: Path, layouts: tuple[str, ...], words: str) -> None:
    x, y = rows()
    with pytest.raises(ModelError, match=words):
        augment(STRANGER, x, y, tmp_path / "a.edgeexit", layouts=layouts, progress=pytest.fail)


def test_networks_that_do_not_fit(tmp_path: Path) -> None:
    net = Net()
    net.op("Relu", ["x"], "a")
    net.head("a", 4, "y0")
    net.head("a", 4, "y1")
    two = save(net.model({"x": ["batch", 4]}, {"y0": ["batch", 3], "y1": ["batch", 3]}), tmp_path)
    with pytest.raises(ModelError, match=r"2 outputs .*--output, or, if these are exits, .*export --exits"):
        open_source(two, single=True)
    with pytest.raises(ModelError, match=r"fewer than two|too shallow|nothing|one"):
        places_of(open_source(two, ExportSpec(exits=["y0"]), single=True))
    x, y = rows(300)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    with pytest.raises(BundleError, match="exists already"):
        augment(STRANGER, x, y, tmp_path / "there")
    assert onnx.load(STRANGER).graph.output[0].name


def test_a_mask_may_be_set_aside(tmp_path: Path) -> None:
    """It reaches every block, so that with it nothing separates."""
    net = Net()
    for name, source in (("a", "x"), ("b", "a_masked")):
        net.head(source, 4 if source == "x" else 3, f"{name}_linear")
        net.op("Relu", [f"{name}_linear"], name)
        net.op("Mul", [name, "mask"], f"{name}_masked")
    net.head("b_masked", 3, "y")
    model = net.model({"x": ["batch", 4], "mask": ["batch", 1]}, {"y": ["batch", 3]})
    source = open_source(save(model, tmp_path), single=True)
    with_it, without = (places_of(source, aside=aside)[0] for aside in ((), ("mask",)))
    assert without[0].macs is not None and with_it[0].macs is not None
    assert without[0].macs < with_it[0].macs and len(with_it) < len(without)


def test_rows_of_a_group_stay_together(tmp_path: Path) -> None:
    """Choosing on speakers that heads were fitted on would promise too much."""
    groups = np.random.default_rng(0).integers(0, 31, 1000)
    parts = split_rows(1000, 0, groups)
    assert sum(map(len, parts.values())) == 1000 and 550 < len(parts["fit"]) < 650
    for a, b in (("fit", "choose"), ("fit", "certify"), ("choose", "certify")):
        assert not set(groups[parts[a]]) & set(groups[parts[b]])
    alone = split_rows(1000, 0, None)
    assert np.array_equal(alone["fit"], np.sort(np.random.default_rng(0).permutation(1000)[:600]))
    x, y = rows(60)
    with pytest.raises(DataError, match=r"groups of shape \[3\] for 60 rows"):
        augment(STRANGER, x, y, tmp_path / "a.edgeexit", groups=np.zeros(3))
    with pytest.raises(DataError, match=r"60 rows of 1 groups cannot be split .*groups stay whole"):
        augment(STRANGER, {**x, "note": np.array(3)}, y, tmp_path / "a.edgeexit", groups=np.zeros(60))
