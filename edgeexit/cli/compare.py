"""Command `edgeexit compare`: accuracy, calibration and latency of several networks."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgeexit.bench.compare import Figures
from edgeexit.bench.compare import compare as compare_networks
from edgeexit.bundle.bundle import Bundle
from edgeexit.cli.common import count, json_option, percent, print_json, read_data, steps, table, threads_option
from edgeexit.common.environment import environment, environment_line
from edgeexit.common.files import write_atomic
from edgeexit.engine.engine import Engine
from edgeexit.engine.loading import load
from edgeexit.errors import DataError


@click.command()
@click.argument("bundles", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--data", type=click.Path(path_type=Path), required=True, help="An .npz with x (n, ...) and y (n,).")
@click.option(
    "--outside",
    multiple=True,
    metavar="NAME=FILE",
    help="Out-of-distribution inputs: x only. Repeat for several kinds.",
)
@click.option(
    "--corrupted",
    multiple=True,
    metavar="NAME=FILE",
    help="Corrupted inputs, x and y, in the order of a stream. Repeat for several corruptions.",
)
@click.option(
    "--n", type=click.IntRange(0), default=200, show_default=True, help="Interleaved timing rounds; 0 = no timing."
)
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Also write the figures to this JSON file.")
@click.option("--artifact", metavar="NAME", help="Artifact name or layout, of every bundle. [default: fused or chain]")
@threads_option
@json_option
def compare(
    bundles: tuple[Path, ...],
    data: Path,
    outside: tuple[str, ...],
    corrupted: tuple[str, ...],
    n: int,
    out: Path | None,
    artifact: str | None,
    threads: int,
    as_json: bool,
) -> None:
    """Compare accuracy, calibration and latency of several bundles on the same rows.

    Each BUNDLE's last exit answers the same rows. Accuracy, likelihood (NLL), Brier score, calibration error; AUROC of
    right against wrong answers, by confidence and by the agreement of the exit's heads; of right answers against inputs
    from outside; AUPRC of falling accuracy found by falling confidence in corrupted streams (window 100). Parameters,
    and latency as a ratio to the first bundle, interleaved.

    \b
    Examples:
      edgeexit compare plain.edgeexit qute.edgeexit --data test.npz
      edgeexit compare plain.edgeexit qute.edgeexit deep.edgeexit --data test.npz \\
          --outside digits=digits.npz --corrupted noise=noise.npz --corrupted blur=blur.npz
    """
    opened = [Bundle.open(b) for b in bundles]
    engines: dict[str, Engine] = {}
    for path, bundle in zip(bundles, opened, strict=True):
        name = path.name.removesuffix(".zip").removesuffix(".edgeexit")
        if name in engines:
            raise DataError(f"{path}: another bundle is called {name!r}, too; rename one")
        engines[name] = load(bundle, artifact=artifact, exit=-1, threads=threads, warmup=0)
    with steps("comparing") as tell:
        figures = compare_networks(
            engines,
            _labelled(data, opened[0]),
            outside={name: read_data(path, opened[0].manifest)[0] for name, path in _named(outside, "--outside")},
            corrupted={name: _labelled(path, opened[0]) for name, path in _named(corrupted, "--corrupted")},
            rounds=n,
            progress=tell,
        )
    where = environment(next(iter(engines.values())).backend.version(), threads)
    document = {"data": data.name, "rounds": n, "environment": where, "networks": [asdict(f) for f in figures]}
    if out is not None:
        write_atomic(out, json.dumps(document, indent=1, allow_nan=False) + "\n")
    if as_json:
        print_json(document)
        return
    click.echo(figures_table(figures))
    timed = f"n = {n} interleaved rounds" if n else "not timed"
    click.echo(f"{figures[0].n} rows of {data.name}; {timed}, {environment_line(where)}")


def figures_table(networks: tuple[Figures, ...]) -> str:
    """One line per network."""
    strange = list(dict.fromkeys(key for f in networks for key in f.auroc_outside))
    head = ["network", "heads", "accuracy", "NLL", "Brier", "ECE", "AUROC", "by heads"]
    head += [f"against {key}" for key in strange] + ["AUPRC drop", "parameters", "latency"]
    rows = [head]
    for f in networks:
        ratio = "-" if f.ratio is None else f"{f.ratio:.2f} ({f.ratio_low:.2f}..{f.ratio_high:.2f})"
        ranks = [f.auroc, f.auroc_uncertainty, *(f.auroc_outside[key] for key in strange), f.auprc_drop]
        figures = [_figure(v) for v in (f.nll, f.brier, f.ece, *ranks)]
        rows.append([f.name, str(f.heads), percent(f.accuracy, 2), *figures, count(f.parameters), ratio])
    return table(rows, right=range(1, len(head)))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _labelled(path: Path, bundle: Bundle) -> tuple[Any, Any]:
    inputs, labels = read_data(path, bundle.manifest)
    if labels is None:
        raise DataError(f"{path}: comparing needs labels, and the file has no y")
    return inputs, labels


def _named(given: tuple[str, ...], option: str) -> list[tuple[str, Path]]:
    files: list[tuple[str, Path]] = []
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or not name or not path:
            raise DataError(f"{option} {text!r}: expected NAME=FILE, e.g. noise=noise.npz")
        if name in dict(files):
            raise DataError(f"{option}: {name!r} is given twice")
        files.append((name, Path(path)))
    return files
