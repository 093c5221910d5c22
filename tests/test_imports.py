"""The device side needs numpy and the standard library, and its public names are the ones it lists."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import edgeexit
import edgeexit.lm
from edgeexit import errors

GATE = """
import sys

class Gate:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "numpy", "edgeexit"}:
            raise ImportError(f"{name} is not allowed on the device")

sys.meta_path.insert(0, Gate())
import {module}
"""


EVERY_NAME = "edgeexit; [getattr(edgeexit, n) for n in edgeexit.__all__]"
"""Names are imported when they are asked for, so ask for all."""
EVERY_LM_NAME = "edgeexit.lm; [getattr(edgeexit.lm, n) for n in edgeexit.lm.__all__]"


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "module",
    [
        EVERY_NAME,
        EVERY_LM_NAME,
        "edgeexit.calibrate",
        "edgeexit.calibrate.sweep",
        "edgeexit.engine.engine",
        "edgeexit.testing",
        "edgeexit.monitor",
        "edgeexit.speech.live",
    ],
)
def test_gate(module: str) -> None:
    found = python(GATE.replace("{module}", module))
    assert found.returncode == 0, found.stderr


def test_gate_can_close() -> None:
    found = python(GATE.replace("{module}", "edgeexit.cli"))
    assert found.returncode != 0
    assert "click is not allowed" in found.stderr


def test_import_loads_no_engine() -> None:
    code = f"import sys, json, numpy; before = set(sys.modules); import {EVERY_NAME}; "
    code += "print(json.dumps(sorted({m.partition('.')[0] for m in set(sys.modules) - before})))"
    found = python(code)
    assert found.returncode == 0, found.stderr
    new = set(json.loads(found.stdout))
    assert "edgeexit" in new
    assert new - set(sys.stdlib_module_names) <= {"edgeexit", "numpy"}
    assert not new & {"onnxruntime", "click", "torch", "onnx", "edgeexit_exporters", "edgeexit_runtimes"}


def test_import_scans_no_installed_packages() -> None:
    """The library that scans takes longer to load than the rest of a small program."""
    code = f"import sys; import {EVERY_NAME}; print([m for m in sys.modules if m.startswith('importlib.metadata')])"
    assert python(code).stdout == "[]\n"


@pytest.mark.parametrize("package", [edgeexit, edgeexit.lm], ids=lambda p: p.__name__)
def test_public_names(package: ModuleType) -> None:
    assert len(package.__all__) > 10 and len(set(package.__all__)) == len(package.__all__)
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        _ = package.nothing


def test_star_import_leaves_out_what_needs_the_workstation() -> None:
    assert not {"export", "augment", "__version__"} & set(edgeexit.__all__)
    assert {"export", "augment", "__version__"} <= set(dir(edgeexit))


def test_every_error_is_exported_and_drawn() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.EdgeExitError)]
    assert len(classes) >= 8
    for c in classes:
        assert getattr(edgeexit, c.__name__) is c
        assert c.__name__ in (errors.__doc__ or "")


def test_export_says_the_pip_line_where_it_cannot() -> None:
    code = """
import sys
sys.modules["onnx"] = sys.modules["onnx_ir"] = None
import edgeexit
try:
    edgeexit.export
except edgeexit.BackendMissing as e:
    print(e)
"""
    assert "pip install 'edgeexit[export]'" in python(code).stdout


def test_bundles_without_speech_load_none_of_it() -> None:
    code = f"import sys; import {EVERY_NAME}; print([m for m in sys.modules if m.startswith('edgeexit.speech.')])"
    assert python(code).stdout == "[]\n"


def test_running_a_classifier_loads_no_other_task(tiny: Path) -> None:
    pytest.importorskip("onnxruntime")
    code = f"""
import sys, numpy as np, edgeexit
engine = edgeexit.load({str(tiny)!r}, artifact="chain")
engine.run(np.zeros(4, np.float32)), engine.run_batch(np.zeros((2, 4), np.float32))
print([m for m in sys.modules if m.startswith(("edgeexit.speech", "edgeexit.lm"))])
"""
    assert python(code).stdout == "[]\n"
