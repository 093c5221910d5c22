"""The command line. Every command is thin: parse, call one function, print."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import click

import edgeexit
from edgeexit.bundle.input_range import UnusualInput
from edgeexit.cli.augment import augment
from edgeexit.cli.bench import bench
from edgeexit.cli.calibrate import calibrate
from edgeexit.cli.compare import compare
from edgeexit.cli.demo import demo
from edgeexit.cli.doctor import doctor
from edgeexit.cli.evaluate import evaluate
from edgeexit.cli.export import export
from edgeexit.cli.export_lm import export_lm
from edgeexit.cli.generate import generate
from edgeexit.cli.inspect import inspect, verify
from edgeexit.cli.monitor import monitor
from edgeexit.cli.run import run
from edgeexit.cli.simulate import simulate
from edgeexit.cli.soak import report, soak
from edgeexit.cli.sweep import sweep
from edgeexit.cli.transcribe import transcribe
from edgeexit.errors import EdgeExitError


@click.group(
    invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(edgeexit.__version__, prog_name="edgeexit")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Multi-exit neural networks that really stop early on the device.

    \b
    First steps:
      edgeexit run digits --example 2                   try the bundle inside the package
      edgeexit demo --out demo-out                      the whole workflow, on handwritten digits
      edgeexit export model.onnx --exits y0,y1,y2 --out my.edgeexit
      edgeexit calibrate my.edgeexit --data val.npz --accuracy-drop 0.01
      edgeexit sweep my.edgeexit --data val.npz --out report
      edgeexit run my.edgeexit --input x.npy
      edgeexit transcribe speech.edgeexit sound.wav
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for command in (
    export,
    export_lm,
    augment,
    inspect,
    verify,
    calibrate,
    run,
    transcribe,
    bench,
    sweep,
    evaluate,
    compare,
    monitor,
    soak,
    report,
    generate,
    simulate,
    demo,
    doctor,
):
    cli.add_command(command)


def _show(others: Callable[..., None]) -> Callable[..., None]:
    """What shows Python's warnings: those of unusual inputs in one line, the others as ever."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, UnusualInput):
            click.echo(f"warning: {message}", err=True)
        else:
            others(message, category, *place, **more)

    return show


def main() -> None:
    """Run the command line: bad input is one line and exit code 1, Ctrl-C is 130, bugs keep their traceback."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show(warnings.showwarning)
            code = cli.main(prog_name="edgeexit", standalone_mode=False)
    except EdgeExitError as e:
        click.echo(f"error: {' '.join(str(e).split())}", err=True)
        sys.exit(1)
    except click.ClickException as e:
        hint = f" (see `{e.ctx.command_path} --help`)" if isinstance(e, click.UsageError) and e.ctx else ""
        click.echo(f"error: {' '.join(e.format_message().split())}{hint}", err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped; nothing was left half-written", err=True)
        sys.exit(130)
    except BrokenPipeError:  # `edgeexit sweep ... | head`
        sys.stderr.close()
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)
