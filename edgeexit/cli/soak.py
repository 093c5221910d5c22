"""Commands `edgeexit soak` and `edgeexit report`: sustained load, and figures of its event log."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgeexit.cli.common import (
    about,
    bundle_argument,
    count,
    decided_by,
    json_option,
    labels_of,
    percent,
    print_json,
    run_artifact_option,
    say,
    table,
    threads_option,
)
from edgeexit.cli.run import open_engine
from edgeexit.common.environment import environment_line
from edgeexit.common.files import read_npz, write_atomic
from edgeexit.engine.inputs import data_inputs
from edgeexit.errors import DataError
from edgeexit.governor import DEFAULT_CURVES, GovernorSettings, read_curves
from edgeexit.governor.event_files import read_events, rotated_parts
from edgeexit.governor.events import KEEP, MAX_BYTES, EventLog
from edgeexit.governor.soak import Span, check_soak
from edgeexit.governor.soak import soak as run_soak
from edgeexit.monitor import default_reader


@click.command()
@bundle_argument
@click.option("--data", type=click.Path(path_type=Path), required=True, help="An .npz with x (n, ...), and y if known.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for events.jsonl, soak.json, soak.png."
)
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="Minutes per phase."
)
@click.option(
    "--governor", type=click.Choice(["off", "on", "both"]), default="both", show_default=True,
    help="Phases: without the governor, with it, or one after the other.",
)  # fmt: skip
@click.option("--latency-ms", type=float, help="Set-point of the latency's 90th percentile, in milliseconds.")
@click.option("--temperature-c", type=float, help="Set-point of the temperature, in °C.")
@click.option("--curves", type=click.Path(path_type=Path), help="A .json or .toml of curves; see docs/governor.md.")
@click.option("--no-curves", is_flag=True, help="Use set-points only.")
@click.option("--compete", type=click.IntRange(0), default=0, show_default=True,
              help="Busy processes beside the engine in the middle third of every phase.")  # fmt: skip
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Inputs per second. [default: no pause]")
@click.option("--deadline-ms", type=float, help="Deadline of every input; misses are counted.")
@click.option("--policy", metavar="NAME", help="Operating point to start from. [default: the bundle's default]")
@click.option("--exit", "exit_index", type=click.IntRange(0), help="Exit to use where the governor is off.")
@click.option("--log-mb", type=click.FloatRange(0.25), default=MAX_BYTES / (1 << 20), show_default=True,
              help="MiB per file of the event log; a full one is rotated.")  # fmt: skip
@click.option("--log-keep", type=click.IntRange(0), default=KEEP, show_default=True,
              help="Rotated files that are kept.")  # fmt: skip
@run_artifact_option
@threads_option
@json_option
def soak(
    bundle: Path,
    data: Path,
    out: Path,
    minutes: float,
    governor: str,
    latency_ms: float | None,
    temperature_c: float | None,
    curves: Path | None,
    no_curves: bool,
    compete: int,
    rate: float | None,
    deadline_ms: float | None,
    policy: str | None,
    exit_index: int | None,
    log_mb: float,
    log_keep: int,
    artifact: str | None,
    threads: int,
    as_json: bool,
) -> None:
    """Run a sustained load; record temperature, budget, exits, latency and accuracy.

    The bundle's artifact must have been calibrated, so that the governor can solve for budgets. Where the governor is
    off, the operating point decides; the governor goes down from it. With --exit that exit answers instead, and the
    governor may use the whole network. Everything is written to OUT/events.jsonl while it runs; at --log-mb the file
    is renamed to events.jsonl.000001 and so on, and only the newest --log-keep of these stay. The figure is drawn at
    the end (and again by `edgeexit report`, from all these files).

    \b
    Examples:
      edgeexit soak my.edgeexit --data val.npz --minutes 30 --out soak
      edgeexit soak my.edgeexit --data val.npz --latency-ms 2 --compete 2 --out soak
    """
    settings = GovernorSettings(
        curves=() if no_curves else DEFAULT_CURVES if curves is None else read_curves(curves),
        latency_p90_s=None if latency_ms is None else latency_ms / 1000,
        temperature_c=temperature_c,
    )
    engine, used = open_engine(bundle, artifact, policy, exit_index, None, threads, warmup=20)
    arrays = read_npz(data)
    labels = labels_of(arrays, data)
    specs = engine.bundle.manifest.inputs
    inputs = data_inputs(arrays, specs, str(data))
    if wrong := [t.name for t in specs if inputs[t.name].dtype.kind not in "biuf"]:
        raise DataError(f"{data}: {wrong[0]!r} holds {inputs[wrong[0]].dtype}; expected numbers")
    pictures = {n for n in engine.preprocess if inputs[n].dtype == np.uint8}
    rows = {t.name: inputs[t.name] if t.name in pictures else inputs[t.name].astype(t.dtype, copy=False) for t in specs}
    phases = {"off": (False,), "on": (True,), "both": (False, True)}[governor]
    reader, deadline_s = default_reader(), None if deadline_ms is None else deadline_ms / 1000
    with about(data):
        check_soak(engine, rows, labels, reader, settings, 60 * minutes, phases, rate, deadline_s)
    events = out / "events.jsonl"
    try:
        out.mkdir(parents=True, exist_ok=True)
        earlier = (events, *rotated_parts(events), out / "soak.json", out / "soak.png")
        for old in earlier:  # nothing of an earlier soak may outlive its log
            old.unlink(missing_ok=True)
    except OSError as e:
        raise DataError(f"{out}: cannot be written: {e.strerror or e}") from e
    with EventLog(events, engine, max_bytes=int(log_mb * (1 << 20)), keep=log_keep) as log:
        spans = run_soak(
            engine, rows, labels, reader, settings, log, seconds=60 * minutes, governed=phases, compete=compete,
            rate=rate, deadline_s=deadline_s, progress=say,
        )  # fmt: skip
    lines = read_events(events)
    document = {
        "spans": [asdict(s) for s in spans],
        "environment": lines[0]["environment"],
        **decided_by(engine, used),
        "setpoint_ms": latency_ms,
    }
    write_atomic(out / "soak.json", _json(document))
    _draw(lines, out / "soak.png")
    if as_json:
        print_json(document)
    else:
        click.echo(_spans(spans))
        click.echo(f"{engine.artifact.name}, {used}")
        click.echo(environment_line(lines[0]["environment"]))
        click.echo(f"wrote {out}: events.jsonl, soak.json, soak.png")


@click.command()
@click.argument("events", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The .png. [default: beside the log]")
@json_option
def report(events: Path, out: Path | None, as_json: bool) -> None:
    """Draw an event log: temperature, budget, exit mix and latency over time.

    Rotated parts of the log (events.jsonl.000001, ...) are read before it. Where the oldest were deleted, the figure
    and the sums begin at `from_seconds`.

    \b
    Example:
      edgeexit report soak/events.jsonl
    """
    lines = read_events(events)
    path = out or events.with_suffix(".png")
    _draw(lines, path)
    windows = [e for e in lines if e["event"] == "window"]
    moves = [e for e in lines if e["event"] == "move"]
    summary = {
        "from_seconds": lines[0]["at"], "seconds": lines[-1]["at"],
        "inputs": sum(int(w.get("n", 0)) for w in windows), "steps": len(moves),
        "changes": sum(bool(m.get("changed")) for m in moves), "missed": sum(int(w.get("missed", 0)) for w in windows),
        "figure": str(path),
    }  # fmt: skip
    if as_json:
        print_json(summary)
    else:
        click.echo(", ".join(f"{k} {v}" for k, v in summary.items()))


def _draw(lines: list[dict[str, Any]], path: Path) -> None:
    from edgeexit.report.plots.events import events_png

    first = lines[0]
    if (begins := float(first["at"])) >= 1:
        say(f"the log begins at {begins:.0f} s: its older parts were deleted on rotation (see soak --log-keep)")
    where = first.get("environment")
    try:
        foot = environment_line(where) if isinstance(where, dict) else ""
    except (KeyError, TypeError):  # a log that another program wrote
        foot = ""
    write_atomic(path, events_png(lines, f"{first.get('bundle')}, {first.get('artifact')}", foot))


def _json(document: Any) -> str:
    import json

    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _spans(spans: list[Span]) -> str:
    rows = [["governor", "beside", "inputs", "p50", "p90", "p99", "missed", "exit rates", "MACs", "accuracy", "budget",
             "settled after"]]  # fmt: skip
    for s in spans:
        times = [f"{1000 * t:.2f} ms" for t in (s.p50_s, s.p90_s, s.p99_s)]
        rates = " ".join(percent(r, 0) for r in s.exit_rates)
        macs = None if s.macs is None else round(s.macs)
        rows.append(
            ["on" if s.governor else "off", str(s.competing), f"{s.n:,}", *times,
             "-" if s.missed is None else str(s.missed), rates, count(macs), percent(s.accuracy, 2), percent(s.budget),
             "-" if s.settled_after is None else f"{s.settled_after} inputs"]
        )  # fmt: skip
    return table(rows, right=(1, 2, 3, 4, 5, 6, 8, 9, 10))
