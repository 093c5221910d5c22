"""`edgeexit doctor`"""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from typing import Any

import click

from edgeexit.cli.common import json_option, print_json, table
from edgeexit.common.environment import environment, environment_line
from edgeexit.common.plugins import plugin_names
from edgeexit.engine import backends
from edgeexit.errors import BackendMissing

PARTS = (
    # module, what for, extra
    ("numpy", "everything", None),
    ("onnxruntime", "run ONNX bundles", "onnx"),
    ("ai_edge_litert", "run TFLite bundles", "tflite"),
    ("tflite_runtime", "run TFLite bundles on 32-bit ARM, in place of ai_edge_litert", "tflite"),
    ("onnx", "export from ONNX files", "onnx-export"),
    ("onnx_ir", "export from ONNX files", "onnx-export"),
    ("torch", "export torch modules, train", "export"),
    ("onnxscript", "export torch modules", "export"),
    ("litert_torch", "export to TFLite", "tflite-export"),
    ("ai_edge_quantizer", "export to TFLite in int8", "tflite-export"),
    ("safetensors", "read .safetensors weights", "export"),
    ("scipy", "fit heads to a network without exits", "augment"),
    ("matplotlib", "plots", "plots"),
    ("PIL", "read pictures", "plots"),
    ("psutil", "monitor macOS and Windows; Linux needs nothing", "monitor"),
)
_ENGINES = ("onnxruntime", "ai_edge_litert", "tflite_runtime")
_HEAVY = ("litert_torch", "ai_edge_quantizer")
"""Only looked up, as importing them takes seconds and prints pages."""


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """List installed engines and converters; print the pip line for missing ones.

    Exit code 1 if no engine can run a bundle.
    """
    engines = _registered_engines()
    parts = [*(_look(module, use, extra) for module, use, extra in PARTS), *engines]
    runnable = any(p["version"] for p in parts if p["name"] in _ENGINES or p in engines)
    if as_json:
        print_json({"environment": environment(), "parts": parts, "can_run_bundles": runnable})
    else:
        rows = [["part", "version", "for", "if missing"]]
        rows += [[p["name"], p["version"] or "missing", p["for"], p["install"] or ""] for p in parts]
        click.echo(table(rows))
        click.echo(environment_line(environment()))
    if not runnable:
        sys.exit(1)


def _registered_engines() -> list[dict[str, Any]]:
    """Engines of other distributions."""
    engines = []
    for name in plugin_names(backends.GROUP):
        version = problem = None
        try:
            version = backends.get(name).version()
        except BackendMissing as e:
            problem = str(e)
        use = f"run bundles of format {name}"
        engines.append({"name": name, "version": version, "for": use, "install": problem, "problem": problem})
    return engines


def _look(module: str, use: str, extra: str | None) -> dict[str, Any]:
    version = problem = None
    try:
        if module in _HEAVY:
            version = metadata.version(module.replace("_", "-"))
        else:
            found = importlib.import_module(module)
            version = str(getattr(found, "__version__", None) or metadata.version(module.replace("_", "-")))
    except ImportError as e:
        problem = str(e)
    except Exception as e:  # a broken install raises anything
        problem = f"{type(e).__name__}: {e}".splitlines()[0]
    line = None if version else ("pip install numpy" if extra is None else f"pip install 'edgeexit[{extra}]'")
    return {"name": module, "version": version, "for": use, "install": line, "problem": problem}
