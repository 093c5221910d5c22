"""Command line, progress lines, and weights and metrics files of the training scripts."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeexit.common.files import write_atomic
from edgeexit.errors import EdgeExitError


def argument_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help begins with the script's docstring as it stands."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_training_options(parser: argparse.ArgumentParser, threads: int | None = None) -> None:
    """The options of every training run: --out, --seed, --threads (default: `threads`) and --resume."""
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, weights and metrics")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads", type=int, default=threads, help=f"torch threads [default: {threads or 'all cores'}]"
    )
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in the folder")


def add_learning_rate(parser: argparse.ArgumentParser, peak: float) -> None:
    """--lr, the highest learning rate of the cycle (default: `peak`)."""
    parser.add_argument("--lr", type=float, default=peak, help=f"highest learning rate of the cycle [default: {peak}]")


def run_command(run: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Calls `run(args)`; an error of EdgeExit becomes one line and exit status 1."""
    try:
        run(args)
    except EdgeExitError as e:
        sys.exit(f"error: {e}")


def log(text: str) -> None:
    """Prints one line of progress with the time of day."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def write_weights(path: Path, module: nn.Module) -> None:
    """Writes a module's state dict as safetensors."""
    import safetensors.torch

    weights = {name: value.cpu().contiguous() for name, value in module.state_dict().items()}
    write_atomic(path, safetensors.torch.save(weights))


def write_json(path: Path, data: object) -> None:
    """Writes indented JSON that ends in a line break."""
    write_atomic(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def versions() -> dict[str, Any]:
    """Versions and machine, as every metrics.json holds them."""
    return {
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "machine": platform.machine(),
    }
