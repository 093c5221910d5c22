"""`edgeexit calibrate`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgeexit.calibrate import calibrate as calibrate_records
from edgeexit.calibrate import fit_temperatures
from edgeexit.calibrate.on_bundle import calibrate_artifact
from edgeexit.cli.common import (
    artifact_option,
    check_source,
    data_note,
    json_option,
    percent,
    print_json,
    read_data,
    say,
    source_options,
    steps,
    table,
    threads_option,
)
from edgeexit.engine import Engine, load
from edgeexit.errors import BackendMissing, DataError
from edgeexit.files import write_atomic
from edgeexit.policy import OperatingPoint, Patience, Policy, Threshold, fixed_exit
from edgeexit.records import Records
from edgeexit.scores import SCORES


@click.command()
@source_options
@click.option(
    "--policy",
    type=click.Choice(["threshold", "shared", "patience", "fixed"]),
    default="threshold",
    show_default=True,
    help="A threshold per exit, one for all, equal answers in a row, or one exit always.",
)
@click.option("--score", type=click.Choice(list(SCORES)), help="What thresholds compare. [default: the artifact's]")
@click.option("--budget", type=float, help="Mean cost allowed, as a fraction of the last exit's.")
@click.option("--accuracy", type=float, help="Accuracy wanted.")
@click.option("--accuracy-drop", type=float, help="Accuracy that may be lost against the last exit, e.g. 0.01.")
@click.option("--temperature", is_flag=True, help="First fit a temperature per exit on the design rows and store it.")
@click.option(
    "--design", type=float, default=0.5, show_default=True, help="Share of rows to choose on; the rest measures."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of that split.")
@click.option("--name", help="Name of the operating point. [default: made of the target]")
@click.option(
    "--out", type=click.Path(path_type=Path), help="With --records: where to write the operating point (JSON)."
)
@artifact_option
@threads_option
@json_option
def calibrate(
    bundle: Path | None,
    data: Path | None,
    records: Path | None,
    policy: str,
    score: str | None,
    budget: float | None,
    accuracy: float | None,
    accuracy_drop: float | None,
    temperature: bool,
    design: float,
    seed: int,
    name: str | None,
    out: Path | None,
    artifact: str | None,
    threads: int,
    as_json: bool,
) -> None:
    """Choose thresholds for a budget or an accuracy, on the artifact that ships.

    Thresholds are searched on one part of the rows; what to expect of them is measured on the other part.
    The operating point is stored in the bundle, and runs on the artifact it was made on only.

    \b
    Examples:
      edgeexit calibrate digits.edgeexit --data val.npz --accuracy-drop 0.01
      edgeexit calibrate digits.edgeexit --data val.npz --budget 0.5 --artifact chain --score margin
      edgeexit calibrate --records recorded.npz --budget 0.3 --json
    """
    check_source("calibrate", bundle, data, records)
    if out is not None and records is None:
        raise DataError("--out goes with --records; with a bundle the operating point is stored in the bundle")
    wish: dict[str, Any] = {
        "policy": policy,
        "budget": budget,
        "accuracy": accuracy,
        "accuracy_drop": accuracy_drop,
        "name": name,
    }
    if records is not None:
        found = Records.load(records)
        chosen_on, held_out = found.split(design, seed)
        temperatures = fit_temperatures(chosen_on) if temperature else None
        point = calibrate_records(
            chosen_on, held_out=held_out, score=score or "maxprob", temperatures=temperatures, **wish
        )
        if out is not None:
            write_atomic(out, json.dumps(point.to_dict(), indent=1) + "\n")
    else:
        assert bundle is not None and data is not None
        engine = load(bundle, artifact=artifact, threads=threads)
        score = score or engine.artifact.score or "maxprob"
        _check_family(engine, policy, score)
        inputs, labels = read_data(data, engine.bundle.manifest)
        if temperature:
            engine = _with_temperatures(engine, inputs, labels, design, seed, threads)
        with steps("recording") as tell:
            _, point = calibrate_artifact(
                engine,
                inputs,
                labels,
                data=data_note(data),
                design=design,
                seed=seed,
                progress=tell,
                score=score,
                **wish,
            )
    if as_json:
        print_json(point.to_dict())
    else:
        click.echo(_text(point))
        if bundle is not None:
            click.echo(f"stored in {bundle} as {point.name!r}: edgeexit run {bundle} --policy {point.name} --input ...")


def _check_family(engine: Engine, policy: str, score: str) -> None:
    """Refuse, before minutes of recording, a policy that this artifact could not run."""
    last = engine.exits - 1
    trials: dict[str, Policy] = {"patience": Patience(1), "fixed": fixed_exit(last, last + 1, score)}
    engine.driver.fits(trials.get(policy) or Threshold((1.0,) * last, score))


def _with_temperatures(
    engine: Engine, inputs: dict[str, Any], labels: Any, design: float, seed: int, threads: int
) -> Engine:
    if labels is None:
        raise DataError("--temperature needs labels: the data file has no y")
    try:
        from edgeexit_exporters.temperatures import apply_temperatures
    except ImportError as e:
        raise BackendMissing(f"--temperature rewrites model files ({e}): pip install 'edgeexit[onnx-export]'") from e
    with steps("recording for temperatures") as tell:
        # From the raw outputs: what an artifact was given before must not count twice.
        records = engine.record(inputs, labels, progress=tell)
    chosen_on, _ = records.split(design, seed)
    temperatures = fit_temperatures(chosen_on)
    bundle = apply_temperatures(engine.bundle, engine.artifact.name, temperatures)
    say(f"temperatures {', '.join(f'{t:.3f}' for t in temperatures)} stored in {engine.artifact.name}")
    return load(bundle, artifact=engine.artifact.name, threads=threads)


def _text(point: OperatingPoint) -> str:
    e = point.expected
    measure = "accuracy" if "accuracy" in e else "agreement"
    table_ = point.policy.to_dict()
    numbers = table_.get("thresholds", [table_.get("patience")])
    shown = ", ".join(n if isinstance(n, str) else f"{n:.6g}" for n in numbers)
    rows = [
        ["asked", ", ".join(f"{k} {v:g}" for k, v in point.asked.items())],
        ["policy", f"{table_['kind']}" + (f" on {table_['score']}" if "score" in table_ else "") + f": {shown}"],
        ["expected cost", f"{percent(e['cost'])} of the last exit's"],
        [f"expected {measure}", percent(e[measure], 2)],
        ["exit rates", "  ".join(percent(r) for r in e["exit_rates"])],
        ["measured on", str(e["measured_on"])],
        ["promise", "none: these are estimates" if point.promise is None else str(dict(point.promise))],
    ]
    return table(rows)
