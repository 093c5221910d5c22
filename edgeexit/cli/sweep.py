"""Command `edgeexit sweep`: a report of policies at budgets."""

from __future__ import annotations

from pathlib import Path

import click

from edgeexit.calibrate.spec import Split
from edgeexit.calibrate.sweep import ADAPTIVE, ALPHAS, BASELINES, DELTA
from edgeexit.calibrate.sweep import sweep as sweep_records
from edgeexit.cli.calibration_options import split_options
from edgeexit.cli.common import (
    about,
    artifact_option,
    check_source,
    json_option,
    names,
    numbers,
    print_json,
    read_data,
    source_options,
    steps,
    threads_option,
)
from edgeexit.cli.speech import error_option, is_speech, record_sound
from edgeexit.common.environment import environment
from edgeexit.engine.engine import Engine
from edgeexit.engine.loading import load
from edgeexit.records.base import Rows
from edgeexit.records.classification import Records
from edgeexit.records.transcripts import SequenceRecords, load_rows
from edgeexit.report import sweep_json, sweep_text, write_report

POLICIES = (
    f"Policies to compare, of {', '.join((*ADAPTIVE, *BASELINES))}; and learned, ensemble (shared- too) where the "
    "exits give such scores, and those of installed packages. [default: all]"
)


@click.command()
@source_options
@click.option(
    "--design-data",
    type=click.Path(path_type=Path),
    help="A second file of the same kind to choose on; then --data only measures.",
)
@split_options("Share of the rows to choose on, without --design-data.", "Seed of that split, and of the promises'.")
@click.option("--policies", metavar="A,B", help=POLICIES)
@click.option(
    "--budgets",
    metavar="F,F",
    help="Budgets, fractions of the last exit's cost. [default: 25 from the first exit's up]",
)
@click.option(
    "--alphas",
    metavar="A,A",
    help=f"Losses to guarantee, fractions in (0, 1); empty = none. [default: {','.join(f'{a:g}' for a in ALPHAS)}]",
)
@click.option(
    "--delta", type=float, default=DELTA, show_default=True, help="Probability that a guarantee does not hold."
)
@click.option("--out", "-o", type=click.Path(path_type=Path), required=True, help="Folder for the report.")
@error_option
@artifact_option
@threads_option
@json_option
def sweep(
    bundle: Path | None,
    data: Path | None,
    records: Path | None,
    design_data: Path | None,
    split: Split,
    policies: str | None,
    budgets: str | None,
    alphas: str | None,
    delta: float,
    out: Path,
    error: str,
    artifact: str | None,
    threads: int,
    as_json: bool,
) -> None:
    """Compare policies at budgets on held-out rows; write accuracy against cost.

    Policies are chosen on design rows and reported on the others, beside every single exit. Writes sweep.csv,
    sweep.json, sweep.png and report.html (one standalone page). The first line says whether adaptive exits pay: they
    cost less than the cheapest single exit that is as accurate, and every single exit that costs no more is clearly
    less accurate. It also answers for a drop of 1 point. Both points are rows of the table.

    Guarantees are swept too: for every loss in --alphas, half of the design rows order the policies, the other
    half certify one, and the held-out rows measure it (promises.csv, promises.png). Each
    promise stands alone, with probability 1 - delta. Below ln(delta) / ln(1 - alpha) certifying rows it is
    refused, with the rows needed.

    \b
    Examples:
      edgeexit sweep digits.edgeexit --data val.npz --out report
      edgeexit sweep digits.edgeexit --data val.npz --alphas 0.01,0.03 --delta 0.05 --out report
      edgeexit sweep --records test.npz --design-data val.npz --policies maxprob,margin --out report
    """
    check_source("sweep", bundle, data, records)
    engine: Engine | None = None
    if records is not None:
        rows = load_rows(records)
        other = None if design_data is None else load_rows(design_data)
    else:
        assert bundle is not None and data is not None
        engine = load(bundle, artifact=artifact, exit=-1, threads=threads)
        rows = record(engine, data, error)
        other = None if design_data is None else record(engine, design_data, error)
    chosen_on: Rows
    held_out: Rows
    chosen_on, held_out = split.of(rows) if other is None else (other, rows)
    with steps("sweeping") as tell:
        result = sweep_records(
            chosen_on,
            held_out,
            names(policies),
            numbers(budgets),
            tell,
            alphas=ALPHAS if (asked := numbers(alphas)) is None else asked,
            delta=delta,
            environment=environment(
                None if engine is None else engine.backend.version(), None if engine is None else threads
            ),
            seed=split.seed,
        )
    paths = write_report(result, out)
    if as_json:
        print_json({**sweep_json(result), "files": {k: str(p) for k, p in paths.items()}})
    else:
        click.echo(sweep_text(result))
        for path in paths.values():
            click.echo(f"wrote {path}")


def record(engine: Engine, data: Path, error: str) -> Records | SequenceRecords:
    """Every exit's outputs on a data file, or what it writes there, with a progress bar."""
    if is_speech(engine, data):
        return record_sound(engine, data, error).rows
    inputs, labels = read_data(data, engine.bundle.manifest)
    with about(data), steps(f"recording {data.name}") as tell:
        return engine.record(inputs, labels, progress=tell)
