"""What the table of forms leaves out is left out for the reason it states."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")
# not importorskip: importing them here would cost every run seconds
if find_spec("litert_torch") is None or find_spec("ai_edge_quantizer") is None:
    pytest.skip("the TFLite export tools are not installed", allow_module_level=True)
from format_cases import FORMS, MADE, NETS, SKIPPED, SOME, exported, marked, network, rows

import edgeexit
from edgeexit.errors import ModelError
from edgeexit_exporters.spec import FORMATS

REFUSED = sorted({(c, f, why) for (c, f), why in SKIPPED.items() if "is not made for" in why and c == SOME[0]})


def test_every_form_is_made_or_has_a_reason() -> None:
    assert len(MADE) + len(SKIPPED) == len(NETS) * len(FORMS)
    assert all(SKIPPED.values())
    assert {f.precision for _, f in MADE} == {p for known in FORMATS.values() for p in known}


@pytest.mark.parametrize("case", marked(NETS))
def test_the_bundles_hold_what_the_table_says(case: str) -> None:
    for format, bundle in exported(case).bundles.items():
        made = {a.name for a in bundle.manifest.artifacts if a.format == format}
        assert made == {f.artifact for c, f in MADE if c == case and f.format == format}


@pytest.mark.parametrize(("case", "form", "why"), REFUSED, ids=[f.artifact for _, f, _ in REFUSED])
def test_precisions_that_a_format_has_not(case: str, form: tuple[str, ...], why: str, tmp_path: Path) -> None:
    format, layout, precision = form
    with pytest.raises(ModelError, match=why):
        edgeexit.export(
            network(case),
            tmp_path / "b.edgeexit",
            layouts=[layout],
            formats=[format],
            precisions=[precision],
            data={"x": rows(case, 120, 1)},
        )
    assert not (tmp_path / "b.edgeexit").exists()


def test_a_fused_tflite_graph_refuses_two_heads(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{_reason('two-heads', 'fused')}.*ask for --layouts chain,prefix"):
        edgeexit.export(network("two-heads"), tmp_path / "b.edgeexit", layouts=["fused"], formats=["tflite"])
    assert not (tmp_path / "b.edgeexit").exists()


def test_tflite_alone_of_all_exits_is_refused(tmp_path: Path) -> None:
    """Beside other layouts or another format it is left out, as no file holds all exits."""
    with pytest.raises(ModelError, match="no TFLite file holds all exits; add a layout"):
        edgeexit.export(network("vectors"), tmp_path / "b.edgeexit", layouts=["all"], formats=["tflite"])


def _reason(case: str, layout: str) -> str:
    return next(why for (c, f), why in SKIPPED.items() if (c, f.layout, f.precision) == (case, layout, "int8"))
