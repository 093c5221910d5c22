"""`edgeexit bench`"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from edgeexit import backends
from edgeexit.bench import bench as bench_bundle
from edgeexit.bundle import Bundle
from edgeexit.cli.common import bundle_argument, json_option, milliseconds, print_json, steps, table, threads_option
from edgeexit.environment import environment, environment_line


@click.command()
@bundle_argument
@click.option("--n", type=click.IntRange(1), default=300, show_default=True, help="Rounds; each times every case once.")
@threads_option
@json_option
def bench(bundle: Path, n: int, threads: int, as_json: bool) -> None:
    """Time every layout at every exit beside the single-exit network, interleaved in one run.

    The ratio is to the single-exit network (the prefix of the last exit), round by round: its median and, in
    brackets, the 10th and 90th percentile. Compare ratios, not milliseconds of different runs.
    """
    opened = Bundle.open(bundle)
    with steps("timing") as tell:
        found = bench_bundle(opened, n=n, threads=threads, progress=tell)
    where = environment(backends.get(opened.manifest.artifact(found[0].artifact).format).version(), threads)
    if as_json:
        print_json({"environment": where, "timings": [asdict(t) for t in found]})
        return
    rows = [["layout", "exit", "p50", "p90", "of the single-exit network"]]
    last = len(opened.manifest.exits) - 1
    for t in found:
        ratio = "-" if t.ratio is None else f"{t.ratio:.3f} ({t.ratio_low:.3f}..{t.ratio_high:.3f})"
        single = " (single-exit network)" if t.layout == "prefix" and t.exit == last else ""
        rows.append([t.layout + single, str(t.exit), milliseconds(t.p50), milliseconds(t.p90), ratio])
    click.echo(table(rows, right=(1, 2, 3)))
    click.echo(f"n = {n} interleaved rounds, {environment_line(where)}")
