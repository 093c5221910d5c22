"""`edgeexit demo`: train, export, calibrate and measure once, on real handwritten digits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np

import edgeexit
from edgeexit.bench.verify import verify
from edgeexit.calibrate.on_bundle import calibrate_rows
from edgeexit.calibrate.spec import Split
from edgeexit.calibrate.sweep import sweep
from edgeexit.cli.common import json_option, milliseconds, percent, print_json, say, table, threads_option
from edgeexit.cli.inspect import exits_table
from edgeexit.common.environment import environment, environment_line
from edgeexit.common.files import npz_bytes, write_atomic
from edgeexit.engine.engine import Engine
from edgeexit.engine.loading import load
from edgeexit.errors import BackendMissing, BundleError
from edgeexit.policy.policies import fixed_exit
from edgeexit.report import write_report

EPOCHS = 20
POINT = "balanced"
HELD_OUT, SHIFTED = "held-out rows, the same writers", "official test set, other writers"
CALIBRATION_ROWS = 1800
"""Of the official training rows: half to choose on, half to measure on."""


@click.command()
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("demo-out"),
    show_default=True,
    help="Folder for the bundle, report and data.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the training and the split.")
@click.option("--accuracy-drop", type=float, default=0.005, show_default=True, help="Accuracy that may be lost, 0..1.")
@threads_option
@json_option
def demo(out: Path, seed: int, accuracy_drop: float, threads: int, as_json: bool) -> None:
    """Train, export, calibrate and sweep a three-exit network on handwritten digits.

    Takes about a minute. Thresholds are chosen and measured on rows of the writers that the network was trained on;
    the official test pictures are of other writers and are reported apart. Writes digits.edgeexit (the bundle),
    report.html, sweep.csv, sweep.json, sweep.png, promises.csv, promises.png, val.npz (the rows to calibrate on) and
    test.npz (the official test pictures) in the folder.
    """
    try:
        from edgeexit_models import WeightedSum, digits, evaluate, fit
        from edgeexit_models.data.optdigits import load_optdigits
    except ImportError as e:
        raise BackendMissing(f"the demo trains a network and needs torch ({e}): pip install 'edgeexit[all]'") from e
    import torch

    start = time.perf_counter()
    data = load_optdigits(seed, CALIBRATION_ROWS)
    say(
        f"UCI optical digits: {len(data.x_train)} train, {len(data.x_design)} calibration, {len(data.x_test)} test of "
        "other writers"
    )
    torch.manual_seed(seed)
    net = digits()
    fit(
        net,
        (data.x_train, data.y_train),
        epochs=EPOCHS,
        seed=seed,
        batch_size=128,
        lr=0.02,
        loss=WeightedSum((1.0, 1.0, 1.0)),
        threads=1,  # layers this small lose more to waiting threads than they win
        progress=lambda e: (
            say(f"epoch {e.number + 1}/{EPOCHS}, loss {e.loss:.3f}") if (e.number + 1) % 5 == 0 else None
        ),
    )
    say(f"trained in {time.perf_counter() - start:.0f} s")
    bundle = edgeexit.export(
        net,
        out / "digits.edgeexit",
        labels=[str(k) for k in range(10)],
        overwrite=True,
        progress=say,
    )
    if failed := [v for v in verify(bundle) if not v.passed]:
        raise BundleError(f"{failed[0].artifact}: {failed[0].reason}")
    write_atomic(out / "val.npz", npz_bytes(x=data.x_design, y=data.y_design))
    write_atomic(out / "test.npz", npz_bytes(x=data.x_test, y=data.y_test))
    engine = load(bundle, artifact="fused", exit=-1, threads=threads)
    recorded = engine.record(data.x_design, data.y_design)
    bundle, point = calibrate_rows(
        engine,
        recorded,
        ranges=engine.input_ranges({"image": data.x_design}),
        data={"file": f"UCI optical digits, {CALIBRATION_ROWS:,} of the official training rows", "seed": seed},
        split=Split(seed=seed),
        accuracy_drop=accuracy_drop,
        name=POINT,
    )
    say("sweeping")
    where = environment(engine.backend.version(), threads)
    design, held_out = recorded.split(0.5, seed)
    result = sweep(design, held_out, seconds=engine.profile(50), environment=where, seed=seed)
    paths = {"bundle": out / "digits.edgeexit", **write_report(result, out)}
    adaptive = load(bundle, policy=POINT, threads=threads)
    _, measured_on = recorded.parts(0.5, seed)
    sets = {
        HELD_OUT: _compare(adaptive, data.x_design[measured_on], data.y_design[measured_on]),
        SHIFTED: _compare(adaptive, data.x_test, data.y_test),
    }
    seconds = time.perf_counter() - start
    if as_json:
        files = {k: str(p) for k, p in paths.items()}
        trained = [float(a) for a in evaluate(net, data.x_test, data.y_test)]
        print_json(
            {
                "verdict": result.verdict.text,
                "rows": sets[HELD_OUT],
                "shifted_rows": sets[SHIFTED],
                "trained_accuracy": trained,
                "operating_point": point.to_dict(),
                "seconds": seconds,
                "files": files,
                "environment": where,
            }
        )
        return
    click.echo(f"\n{result.verdict.text}\n")
    click.echo(exits_table(bundle) + "\n")
    for title, rows in sets.items():
        head = [title, "accuracy", "cost", "p50 latency", "leave at exit 0 / 1 / 2"]
        shown = [
            [
                r["name"],
                percent(r["accuracy"], 2),
                percent(r["cost"]),
                milliseconds(r["p50"]),
                " / ".join(percent(x, 0) for x in r["exit_rates"]),
            ]
            for r in rows
        ]
        click.echo(table([head, *shown], right=(1, 2, 3)) + "\n")
    expected = point.expected
    click.echo(
        f"thresholds chosen for a drop of at most {100 * accuracy_drop:g} points; on the held-out rows "
        f"{100 * expected['drop']:.1f} ({100 * expected['drop_low']:.1f} to {100 * expected['drop_high']:.1f})"
    )
    click.echo(
        f"n = {len(measured_on)} and {len(data.x_test)}, seed {seed}, one call per picture, {environment_line(where)}. "
        "What was calibrated or promised holds for data like the calibration rows: the same writers.\n"
    )
    for written in (*paths.values(), out / "val.npz", out / "test.npz"):
        click.echo(f"wrote {written}")
    click.echo(f"({seconds:.0f} s)  next: edgeexit run {out / 'digits.edgeexit'} --input {out / 'test.npz'} --row 7")


def _compare(engine: Engine, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """The operating point and each static exit on the same pictures, really run, interleaved picture by picture."""
    static = load(engine.bundle, artifact="prefix", exit=-1, threads=engine.threads)
    costs, alone = engine.costs()
    alone = costs if alone is None else alone
    count = engine.exits
    inside = engine.policy
    calls = [(f"adaptive ({POINT})", engine, inside, costs)]
    calls += [(f"exit {k} alone", static, fixed_exit(k, count), alone) for k in range(count)]
    found: list[list[Any]] = [[] for _ in calls]
    for picture in x:
        for rows, (_, runner, policy, _) in zip(found, calls, strict=True):
            runner.policy = policy
            rows.append(runner.run(picture))
    result = []
    for rows, (name, _, _, cost) in zip(found, calls, strict=True):
        exits = np.array([d.exit for d in rows])
        result.append(
            {
                "name": name,
                "accuracy": float(np.mean([d.label for d in rows] == y)),
                "cost": float(cost[exits].mean() / costs[-1]),
                "p50": float(np.median([d.seconds for d in rows])),
                "exit_rates": [float(np.mean(exits == k)) for k in range(count)],
            }
        )
    return result
