"""`edgeexit doctor`"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from edgeexit.cli.common import json_option, print_json, table
from edgeexit.environment import environment, environment_line

PARTS = (
    # module, what for, extra
    ("numpy", "everything", None),
    ("onnxruntime", "run ONNX bundles", "onnx"),
    ("onnx", "export from ONNX files", "onnx-export"),
    ("onnx_ir", "export from ONNX files", "onnx-export"),
    ("torch", "export torch modules, train", "export"),
    ("onnxscript", "export torch modules", "export"),
    ("safetensors", "read .safetensors weights", "export"),
    ("scipy", "fit heads to a network without exits", "augment"),
    ("matplotlib", "plots", "plots"),
    ("PIL", "read pictures", "plots"),
)


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say which engines and converters are here, with versions, and the pip line for what is missing.

    Exit code 1 if no engine can run a bundle.
    """
    found = [_look(module, use, extra) for module, use, extra in PARTS]
    runnable = any(p["name"] == "onnxruntime" and p["version"] for p in found)
    if as_json:
        print_json({"environment": environment(), "parts": found, "can_run_bundles": runnable})
    else:
        rows = [["part", "version", "for", "if missing"]]
        rows += [[p["name"], p["version"] or "missing", p["for"], p["install"] or ""] for p in found]
        click.echo(table(rows))
        click.echo(environment_line(environment()))
    if not runnable:
        sys.exit(1)


def _look(module: str, use: str, extra: str | None) -> dict[str, Any]:
    version = problem = None
    try:
        version = str(getattr(importlib.import_module(module), "__version__", "unknown version"))
    except ImportError as e:
        problem = str(e)
    except Exception as e:  # a broken install raises anything
        problem = f"{type(e).__name__}: {e}".splitlines()[0]
    line = None if version else ("pip install numpy" if extra is None else f"pip install 'edgeexit[{extra}]'")
    return {"name": module, "version": version, "for": use, "install": line, "problem": problem}
