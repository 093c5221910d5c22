from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from edgeexit.errors import EdgeExitError
from edgeexit.report import write_report
from report.made_sweep import ordinary

pytest.importorskip("matplotlib")


def test_six_files_and_nothing_else(tmp_path: Path) -> None:
    paths = write_report(ordinary(), tmp_path / "new" / "folder")
    assert {kind: p.name for kind, p in paths.items()} == {
        "csv": "sweep.csv",
        "json": "sweep.json",
        "png": "sweep.png",
        "html": "report.html",
        "promises_csv": "promises.csv",
        "promises_png": "promises.png",
    }
    assert sorted((tmp_path / "new" / "folder").iterdir()) == sorted(paths.values())
    assert json.loads(paths["json"].read_text())["measure"] == "accuracy"


def test_equal_sweeps_give_equal_bytes(tmp_path: Path) -> None:
    first, second = (write_report(ordinary(), tmp_path / name) for name in "ab")
    assert all(first[kind].read_bytes() == second[kind].read_bytes() for kind in first)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgeExitError, match="cannot be written"):
        write_report(ordinary(), tmp_path / "file")


def test_without_promises_no_files_of_theirs(tmp_path: Path) -> None:
    paths = write_report(dataclasses.replace(ordinary(), promises=()), tmp_path)
    assert set(paths) == {"csv", "json", "png", "html"} and sorted(tmp_path.iterdir()) == sorted(paths.values())
