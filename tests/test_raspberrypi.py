"""The Raspberry Pi files: what `install.sh` refuses, the unit, how `test_pi.py` judges; `make test-pi` runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "runtimes/raspberrypi"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bash, chroot and systemd")


def install(tmp_path: Path, *arguments: str, machine: str = "aarch64", bits: int = 64, version: str = "") -> Any:
    """Run the script as a machine would that says so of itself."""
    for name, text in {"uname": f"echo {machine}", "python": _python(bits, version)}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    clean = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": "python", "HOME": str(tmp_path)}
    command = [str(FOLDER / "install.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=clean, timeout=60)


def _python(bits: int, version: str) -> str:
    """A Python that claims another word size or version: what it is asked is in the script's own words."""
    told = f"import struct, sys; struct.calcsize = lambda _: {bits // 8}; "
    if version:
        told += f"sys.version_info = ({version.replace('.', ', ')}, 0); "
    return f'shift; exec {sys.executable} -c "{told}$1"'


@pytest.mark.parametrize(
    ("given", "machine", "bits", "version", "said"),
    [
        (["onnx"], "x86_64", 64, "", "found x86_64"),
        (["onnx"], "armv6l", 32, "", "Pi 1, Zero"),
        (["onnx"], "riscv64", 64, "", "expected aarch64 or armv7l"),
        (["onnx"], "aarch64", 64, "3.9", "found Python 3.9, expected 3.10"),
        (["onnx"], "aarch64", 32, "3.11", "on a 32-bit system only 'tflite'"),
        (["tflite"], "armv7l", 32, "3.13", "up to 3.11"),
        ([], "aarch64", 64, "", "which engine?"),
        (["torch"], "aarch64", 64, "", "unknown argument 'torch'"),
        (["onnx", "--venv"], "aarch64", 64, "", "--venv needs a value"),
        (["onnx", "--wheel", "/nowhere.whl"], "aarch64", 64, "", "no wheel /nowhere.whl"),
        (["onnx", "--unit", "/nowhere.py"], "aarch64", 64, "", "no script /nowhere.py"),
    ],
)
def test_refusals(tmp_path: Path, given: list[str], machine: str, bits: int, version: str, said: str) -> None:
    done = install(tmp_path, "--check", *given, machine=machine, bits=bits, version=version)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_accepted(tmp_path: Path) -> None:
    done = install(tmp_path, "--check", "onnx,tflite", version="3.11")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "aarch64, 64-bit Python 3.11: will do\n"
    assert not (tmp_path / "edgeexit").exists()


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    done = install(tmp_path, "--venv", str(mine), "onnx")
    assert done.returncode == 1
    assert "is no virtual environment" in done.stderr
    assert list(mine.iterdir()) == []


def test_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    text = (FOLDER / "edgeexit.service").read_text()
    for key, value in (("User", "root"), ("WorkingDirectory", "/"), ("ExecStart", "/bin/true")):
        assert text.count(f"\n{key}=") == 1  # install.sh fills in these lines
        text = "\n".join(f"{key}={value}" if line.startswith(f"{key}=") else line for line in text.splitlines())
    (tmp_path / "edgeexit.service").write_text(text + "\n")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "edgeexit.service")], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import pi_space
    import test_pi

    return pi_space, test_pi


def _verified(**changes: Any) -> dict[str, Any]:
    given = {"artifact": "tflite-chain-int8", "passed": True, "reason": "", "max_error": [0.0, 0.01]}
    return {**given, "tolerance": 0.05, "exits_agree": 8, "inputs": 8, **changes}


def test_judge(scripts: Any) -> None:
    _, pi = scripts
    values = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 4)
    moved = values.copy()
    moved[1, 2] += 2**-8
    here, same, other = (pi.Side({}, {"tflite-chain-int8/0": v}) for v in (values, values.copy(), moved))
    row, wrong = pi.judge("cortex-a53", _verified(), here, same)
    assert wrong == []
    assert row[:6] == ["cortex-a53", "tflite-chain-int8", "8 of 8", "1.0e-02", "5e-02", "identical, 2 inputs"]
    row, wrong = pi.judge("cortex-a53", _verified(), here, other)
    assert "off by 3.9e-03" in row[5]
    assert len(wrong) == 1 and "expected the same bytes" in wrong[0]
    _, wrong = pi.judge("cortex-a53", _verified(), here, pi.Side({}, {}))  # nothing to compare is no agreement
    assert len(wrong) == 1
    _, wrong = pi.judge("cortex-a53", _verified(passed=False, reason="exit 'y1' differs"), here, same)
    assert wrong == ["cortex-a53, tflite-chain-int8: exit 'y1' differs"]


def test_float_and_onnx_may_round(scripts: Any) -> None:
    _, pi = scripts
    for name in ("tflite-chain-fp32", "onnx-chain-int8"):
        here, there = (pi.Side({}, {f"{name}/0": np.full((1, 2), v, np.float32)}) for v in (1.0, 1.0 + 2**-20))
        row, wrong = pi.judge("cortex-a76", _verified(artifact=name), here, there)
        assert wrong == []
        assert row[5].startswith("off by")


def test_a_process_that_died_is_named(scripts: Any, tmp_path: Path) -> None:
    _, pi = scripts
    process = subprocess.Popen(["sh", "-c", "kill -ILL $$"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with pytest.raises(RuntimeError, match="illegal instruction"):
        pi._finish(process, tmp_path / "none.npz")


def test_what_cannot_be_had_is_said(scripts: Any) -> None:
    space, _ = scripts
    with pytest.raises(space.Unobtainable, match=r"no luck: E: no such release"):
        space._run(["sh", "-c", "echo E: no such release >&2; echo more; exit 25"], "no luck")
    with pytest.raises(space.Unobtainable, match="no luck"):
        space._run(["/nowhere/mmdebstrap"], "no luck")


def test_the_wheels_requirements_are_the_key(scripts: Any, tmp_path: Path) -> None:
    space, _ = scripts
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr(
            "a-1.dist-info/METADATA", "Name: a\nRequires-Dist: numpy>=1.24\nRequires-Dist: click\n\ntext\n"
        )
    assert space._requirements(tmp_path / "a.whl") == ["Requires-Dist: numpy>=1.24", "Requires-Dist: click"]


def test_the_script_to_begin_with(tmp_path: Path) -> None:
    """It follows the bundle's default operating point: most pictures leave early."""
    pytest.importorskip("onnxruntime")
    (script,) = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), re.S)
    (tmp_path / "app.py").write_text(script)
    pictures = np.load(ROOT / "models/edgeexit_models/data/optdigits.npz")["x_test"][:8, None].astype(np.float32)
    for i, picture in enumerate(pictures):
        np.save(tmp_path / f"{i}.npy", picture)
    bundle = ROOT / "models/bundles/digits.edgeexit"
    environment = {**os.environ, "STATE_DIRECTORY": str(tmp_path)}
    app = subprocess.Popen(
        [sys.executable, "app.py", str(bundle)], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert app.stdout is not None
        assert app.stdout.readline() == "onnx-fused-fp32, operating point balanced, the bundle's default\n"
        deadline = time.monotonic() + 30
        while not (tmp_path / "inputs").exists():
            assert app.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        (tmp_path / "inputs").write_text("".join(f"{i}.npy\n" for i in range(8)))
        lines = [app.stdout.readline().split() for _ in range(8)]
    finally:
        app.kill()
        app.communicate()
    assert [int(line[1]) for line in lines] == [0, 1, 8, 3, 4, 3, 6, 7]
    assert [int(line[3]) for line in lines] == [0, 0, 1, 1, 0, 2, 0, 0]
