"""Every example runs, and prints what its README shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted(p.parent for p in (ROOT / "examples").glob("*/README.md"))
TRAIN = {"attach_exits", "augment_onnx"}
"""Those that train a network or exits."""


def test_every_example_has_its_readme() -> None:
    folders = {p for p in (ROOT / "examples").iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert folders == set(EXAMPLES)
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize(
    "folder",
    [pytest.param(p, marks=pytest.mark.slow) if p.name in TRAIN else p for p in EXAMPLES],
    ids=[p.name for p in EXAMPLES],
)
def test_example(folder: Path, tmp_path: Path) -> None:
    script = folder / f"{folder.name}.py"
    if folder.name == "attach_exits":
        pytest.importorskip("torch")
    if folder.name == "smollm2":
        pytest.skip("needs SmolLM2-135M and minutes; tests/exporters/lm/test_smollm2.py runs it where it is")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    shown = re.findall(r"```text\n(.*?)```", (folder / "README.md").read_text(), re.S)
    assert shown, "the README shows no output"
    assert shape(done.stdout) == shape(shown[0])


def shape(text: str) -> list[str]:
    """The lines with digits blanked: another processor may round a score or train a weight differently."""
    return [re.sub(r"[\d.,]+", "#", line) for line in text.strip().splitlines() if "Adaptive exits" not in line]
