from __future__ import annotations

import struct
import sys

import pytest

from edgeexit.errors import BackendMissing
from edgeexit.report import sweep_png, write_report
from report.made_sweep import hostile, ordinary


def test_the_figure_is_a_png_of_the_size_asked() -> None:
    pytest.importorskip("matplotlib")
    for width, height in ((1200, 750), (800, 600)):
        png = sweep_png(ordinary(), width=width, height=height)
        assert png[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", png[16:24]) == (width, height)


def test_equal_sweeps_give_equal_bytes_whatever_the_users_settings() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    before = sweep_png(ordinary())
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 30}):
        assert sweep_png(ordinary()) == before
    assert b"matplotlib" not in before


def test_names_that_look_like_formulas_or_have_unknown_letters_are_drawn() -> None:
    pytest.importorskip("matplotlib")
    sweep_png(hostile())


def test_without_matplotlib_the_pip_line_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BackendMissing, match=r"pip install 'edgeexit\[plots\]'"):
        write_report(ordinary(), str(tmp_path))
    from pathlib import Path

    assert not list(Path(str(tmp_path)).iterdir())
